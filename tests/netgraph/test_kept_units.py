"""Units that a network's function allows to merge do merge, exactly: for clones, for other rows, in both modes.

Each case names the axes that must be free. The judge is the network's own forward on parameters whose merged units are alike.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nets import Fn
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.recorded_constants import prolong_tables
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.coarsen.user_class.convert import _explain_tables
from netgraph.utils.module_state import swap_held_tensors, swap_state

GENERATOR = torch.Generator().manual_seed(3)
ROWS, MORE_ROWS = (torch.randn(n, 6, 5, generator=GENERATOR).double() for n in (3, 4))
MARKS = torch.tensor([True, False, True, False, False, True])


def make_layers(run, **modules):
    parts = {"a": nn.Linear(5, 8), "b": nn.Linear(8, 3), **modules}
    return Fn(run, **parts).double()


def make_vector(n=8):
    return nn.Parameter(torch.randn(n, dtype=torch.float64))


def write_at_marks(m, x):
    h = m.a(x)
    h[:, MARKS] = m.v
    return m.b(h.relu())


def write_where_positive(m, x):
    h = m.a(x).clone()
    h[x[..., 0] > 0] = m.v.to(h.dtype)
    return m.b(h.relu())


def write_rows_of_others(m, x):
    h = m.a(x)
    h = h.index_put((torch.arange(len(x))[:, None], torch.tensor([1, 4])), m.c(x[:, :2]))
    return m.b(h.relu())


def add_at_places(m, x):
    h = torch.zeros(len(x), 9, 8, dtype=x.dtype)
    h = h.index_put((torch.arange(len(x))[:, None], torch.tensor([0, 2, 4, 4, 6, 8])), m.a(x), accumulate=True)
    return m.b(h.tanh())


def scatter_rows(m, x):
    h, mask = m.a(x), (x[..., :1] > 0)
    rows = m.c(x).flatten(0, 1)
    return m.b(h.masked_scatter(mask.expand_as(h), rows).relu())


def scatter_rows_of_a_wide_mask(m, x):
    h, mask = m.a(x), (x[..., 0] > 0)
    return m.b(h.masked_scatter(mask.unsqueeze(-1).expand(-1, -1, 8).to(h.device), m.c(x) * 2).relu())


def operate_on_frequencies(m, x):
    low = torch.fft.rfft(m.a(x).transpose(1, 2))
    out = torch.zeros(len(x), 6, 4, dtype=low.dtype)
    out[:, :, :3] = torch.einsum("bix,iox->box", low[:, :, :3], m.w)
    return m.b((torch.fft.irfft(out, n=6).transpose(1, 2) + m.c(m.a(x))).tanh())


def multiply_complex_units(m, x):
    h = torch.complex(m.a(x), m.c(x)) @ m.w
    return m.b((h * m.v).abs())


def make_complex(*shape):
    return nn.Parameter(torch.randn(*shape, dtype=torch.complex128))


def compare_two_towers(m, x):
    return m.a(x).tanh() @ m.c(x).relu().transpose(1, 2)


def measure_distances(m, x):
    return torch.cdist(m.a(x), m.c(x)) + torch.cdist(m.a(x), m.c(x), p=1.0)


def average_heads(m, x):
    heads = m.a(x).unflatten(-1, (4, 8))
    gates = m.c(x).unflatten(-1, (4, 1)).sigmoid()
    return m.b(((heads * gates).mean(2) + m.v).tanh())


def mix_bases(m, x):
    """Each head mixes the same bases, as EGC does."""
    bases, weights = m.a(x).unflatten(-1, (4, 8)), m.c(x).unflatten(-1, (2, 4))
    return m.b((weights @ bases).flatten(2).tanh())


def linear_attention(m, x):
    q, k = (f(x).relu() + 0.1 for f in (m.q, m.k))
    return m.b(q @ (k.transpose(1, 2) @ m.a(x)) / (q @ k.sum(1, keepdim=True).transpose(1, 2)))


def narrow_parts(m, x):
    h = m.a(x)
    first, last = h.narrow(-1, 0, 10), h.narrow(-1, -6, 6)
    return m.b(first.tanh()) + m.c(last.relu()) + m.c(torch.narrow(h, 2, 4, 6).relu())


def shuffle_channels(m, x):
    h = functional.channel_shuffle(m.a(x).transpose(1, 2), 4)
    return m.b(h.transpose(1, 2).tanh())


def mix_by_channels(m, x):
    """Softmaxes over channels, plain and of negative numbers, as gates."""
    h = m.a(x)
    return m.b((functional.softmin(h, -1) + h.softmax(-1)) * 8 * m.c(x))


def run_projected(m, x):
    steps, (last, cells) = m.r(m.a(x))
    return m.b(steps) + m.c(last).mean() + m.d(cells.tanh()).mean()


def convolve_stacked(m, x):
    """Units are places of a convolution whose kernel has one place, as where CoaT mixes three class tokens."""
    stacked = torch.stack([m.a(x).flatten(0, 1), m.c(x).flatten(0, 1)], 1)
    return m.b(m.mix(stacked).squeeze(1).unflatten(0, x.shape[:2]).tanh())


class Tables(nn.Module):
    """Fixed tables that the module holds as plain attributes and in lists, tuples, dicts and records, one of which is contracted."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(6, 3)
        self.positions = torch.randn(1, 9, 8, generator=GENERATOR).double()
        self.scales = [torch.rand(8, generator=GENERATOR).double() + 0.5 for _ in range(2)]
        self.pair = (torch.rand(8, generator=GENERATOR).double() + 0.5, None)
        self.record = SimpleNamespace(offsets=[{"last": torch.rand(8, generator=GENERATOR).double()}])
        self.named = {"shift": torch.randn(8, generator=GENERATOR).double()}
        self.filters = torch.randn(8, 6, generator=GENERATOR).double()

    def forward(self, x):
        h = self.a(x) + self.positions[:, : x.shape[1]].expand(len(x), -1, -1).clone().detach().to(x)
        h = h * self.scales[0] * self.pair[0] + self.record.offsets[0]["last"]
        if self.training:
            h = h * self.scales[1]
        return self.b((h + self.named["shift"]).relu() @ self.filters)


CASES = {
    "a recurrent layer with projections": (
        make_layers(
            run_projected,
            r=nn.LSTM(8, 6, 2, batch_first=True, proj_size=4),
            b=nn.Linear(4, 3),
            c=nn.Linear(4, 3),
            d=nn.Linear(6, 3),
        ),
        {"a", "r.weight_ih_l0#2", "r.weight_hr_l0"},
    ),
    "recurrent layers in two directions with projections": (
        make_layers(
            run_projected,
            r=nn.LSTM(8, 6, 2, batch_first=True, proj_size=4, bidirectional=True, bias=False),
            b=nn.Linear(8, 3),
            c=nn.Linear(4, 3),
            d=nn.Linear(6, 3),
        ),
        {"a", "r.weight_ih_l0#2", "r.weight_hr_l0"},
    ),
    "narrowed parts": (
        make_layers(narrow_parts, a=nn.Linear(5, 16), b=nn.Linear(10, 3), c=nn.Linear(6, 3)),
        {"a", "a#2"},
    ),
    "shuffled channels": (make_layers(shuffle_channels, a=nn.Linear(5, 16), b=nn.Linear(16, 3)), {"a#2"}),
    "softmaxes over channels": (make_layers(mix_by_channels, c=nn.Linear(5, 8)), {"a"}),
    "places of a kernel of one": (make_layers(convolve_stacked, c=nn.Linear(5, 8), mix=nn.Conv1d(2, 1, 1)), {"a"}),
    "places of a kernel of one by word": (
        make_layers(convolve_stacked, c=nn.Linear(5, 8), mix=nn.Conv1d(2, 1, 1, padding="same")),
        {"a"},
    ),
    "two towers": (make_layers(compare_two_towers, c=nn.Linear(5, 8)), {"a"}),
    "distances of two towers": (make_layers(measure_distances, c=nn.Linear(5, 8)), {"a"}),
    "the mean over heads": (
        make_layers(average_heads, a=nn.Linear(5, 32), c=nn.Linear(5, 4), v=make_vector()),
        {"v", "a"},
    ),
    "bases that heads mix": (
        make_layers(mix_bases, a=nn.Linear(5, 32), b=nn.Linear(16, 3), c=nn.Linear(5, 8)),
        {"a#2", "c"},
    ),
    "linear attention": (make_layers(linear_attention, q=nn.Linear(5, 6), k=nn.Linear(5, 6)), {"a", "q"}),
    "fixed tables": (Tables().double(), {"a", "b.in"}),
    "complex weights of frequencies": (
        make_layers(operate_on_frequencies, b=nn.Linear(6, 3), c=nn.Linear(8, 6), w=make_complex(8, 6, 3)),
        {"w", "a"},
    ),
    "complex units": (
        make_layers(multiply_complex_units, c=nn.Linear(5, 8), w=make_complex(8, 8), v=make_complex(8)),
        {"w", "a"},
    ),
    "a vector is written to rows by a mask": (make_layers(write_at_marks, v=make_vector()), {"v"}),
    "a vector is written where an input says": (make_layers(write_where_positive, v=make_vector()), {"v"}),
    "rows are written by their numbers": (make_layers(write_rows_of_others, c=nn.Linear(5, 8)), {"a"}),
    "rows are added by their numbers": (make_layers(add_at_places), {"a"}),
    "rows are scattered by a mask": (make_layers(scatter_rows, c=nn.Linear(5, 8)), {"a"}),
    "rows are scattered by a mask that is copied": (make_layers(scatter_rows_of_a_wide_mask, c=nn.Linear(5, 8)), {"a"}),
}


def merge_in_pairs(model, spec):
    """Return fine parameters and tables whose units are alike in random pairs, and the coarse network."""
    random = np.random.default_rng(0)
    transfers = {
        axis.name: ng.Transfer(random.permutation(np.arange(axis.size) % (axis.size // 2)))
        for axis in spec.free
        if axis.size % 2 == 0
    }
    state = inject(spec, transfers, traced_state(model))
    tables = swap_held_tensors(model, prolong_tables(spec, transfers))
    return prolong(spec, transfers, state), tables, coarse_network(model, spec, transfers, state=state)


@pytest.mark.parametrize("name", CASES)
def test_the_units_merge_exactly(name):
    model, axes = CASES[name]
    spec = ng.trace(model, ROWS)
    assert axes <= {axis.name for axis in spec.free}
    for oracle in (check_duplicate_units, check_dead_units):
        verdict = oracle(model, spec, ROWS, spec.free)
        assert verdict.error is None or verdict.error < 1e-9


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_coarse_network_answers_as_the_network_on_other_rows(name, training):
    model, _ = CASES[name]
    spec = ng.trace(model, ROWS)
    fine, tables, coarse = merge_in_pairs(model, spec)
    model.train(training), coarse.train(training)
    with swap_state(model, fine), tables, torch.no_grad():
        expected = model(MORE_ROWS)
    torch.testing.assert_close(coarse(MORE_ROWS), expected)


def test_a_scatter_by_a_mask_of_its_own_for_each_unit_keeps_units():
    model = make_layers(lambda m, x: m.b(m.a(x).masked_scatter(m.c(x) > 0, m.a(x) * 2)), c=nn.Linear(5, 8))
    spec = ng.trace(model, ROWS)
    assert "chosen by a mask" in spec.axes["a"].kept


def test_constants_of_the_two_modes_are_told_apart():
    def run(m, x):
        h = m.b(m.a(x).relu())
        h = h + torch.tensor([1.0, 2.0, 3.0]) if m.training else h
        return h * torch.tensor([2.0, 5.0, 7.0])

    model = make_layers(run)
    coarse = coarse_network(model, ng.trace(model, ROWS), {})
    for training in (True, False):
        model.train(training), coarse.train(training)
        torch.testing.assert_close(coarse(ROWS), model(ROWS))
    assert len([name for name, _ in coarse.named_buffers()]) == 2  # the constant that both modes read is there once


def test_dimensions_of_scores_are_kept():
    for heads in (1, 2):

        def run(m, x, heads=heads):
            q, k, v = (f(x).unflatten(-1, (heads, -1)).transpose(1, 2) for f in (m.q, m.k, m.a))
            return m.b((((q @ k.mT) * 0.3).softmax(-1) @ v).transpose(1, 2).flatten(2))

        spec = ng.trace(make_layers(run, q=nn.Linear(5, 8), k=nn.Linear(5, 8)), ROWS)
        assert sum("contracted between two" in (axis.kept or "") for axis in spec.axes.values()) == 1


def product_of_one_tensor(m, x):
    h = m.a(x).tanh()
    return h @ h.mT + torch.einsum("bid,bjd->bij", h, h)


PRODUCTS = {
    "a tensor with itself": product_of_one_tensor,
    "a vector with itself": lambda m, x: m.b(m.a(x)) + (v := m.a(x).mean((0, 1))).dot(v),
    "three activations": lambda m, x: torch.einsum("bid,bjd,bd->bij", m.a(x), m.a(x).tanh(), m.a(x).sum(1)),
    "two activations and a parameter": lambda m, x: torch.einsum("bid,bjd,d->bij", m.a(x), m.a(x).tanh(), m.v),
    "a parameter with itself": lambda m, x: m.b(m.a(x)) + torch.einsum("oi,pi->op", m.b.weight, m.b.weight).sum(),
    "a parameter with its transpose": lambda m, x: m.b(m.a(x)) + (m.b.weight @ m.b.weight.T).sum(),
    "a trilinear form of a parameter": lambda m, x: torch.einsum("bid,bjd,d,d->bij", m.a(x), m.a(x), m.v, m.v),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_sums_over_products_of_several_tensors_are_exact(name):
    model = make_layers(PRODUCTS[name], v=make_vector())
    spec = ng.trace(model, ROWS)
    assert len(spec.free) == 1
    assert check_duplicate_units(model, spec, ROWS, spec.free).error < 1e-9


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": 1, "stride": 2}, {"kernel_size": 1, "padding": 1}]
)
def test_units_that_a_convolution_mixes_or_skips_are_kept(options):
    def run(m, x):
        return m.mix(m.a(x)[..., None, :].flatten(0, 1))

    spec = ng.trace(make_layers(run, mix=nn.Conv1d(1, 2, **options)), ROWS)
    assert "convolved over" in spec.axes["a"].kept


class Positions(nn.Module):
    """Fixed tables of positions and scales, the latter in a list."""

    def __init__(self, n=8):
        super().__init__()
        self.a, self.b = nn.Linear(5, n), nn.Linear(n, 3)
        self.positions = torch.arange(6.0 * n).view(6, n).sin()
        self.scales = [torch.linspace(0.5, 2.0, n)]

    def forward(self, x):
        return self.b(((self.a(x) + self.positions.to(x)) * self.scales[0].to(x)).relu())


def test_a_coarse_network_in_the_user_s_class_holds_its_tables():
    torch.manual_seed(0)
    model = Positions().double()
    hierarchy = ng.build_hierarchy(model, ROWS, n_levels=3)
    for level in (1, 2):
        own = ng.own_class(hierarchy, ROWS, level=level)
        assert isinstance(own, Positions)
        assert own.positions.shape[-1] == own.scales[0].numel() == own.a.out_features == 8 // 2**level
        torch.testing.assert_close(own(MORE_ROWS), hierarchy.levels[level].model(MORE_ROWS))
    assert model.positions.shape[-1] == model.scales[0].numel() == 8


def test_a_class_that_makes_its_table_anew_is_told_from_one_with_the_merged_table():
    merged = Positions().positions.unflatten(1, (4, 2)).mean(-1)
    assert "makes its fixed table positions for the new sizes" in _explain_tables(Positions(4), {"positions": merged})
    own = Positions(4)
    own.positions = merged
    assert _explain_tables(own, {"positions": merged}) == ""


@pytest.mark.parametrize("arch", [None, lambda: Tables().double()])
def test_a_hierarchy_with_merged_tables_is_saved_and_opened_again(tmp_path, arch):
    hierarchy = ng.build_hierarchy(Tables().double(), ROWS, n_levels=3)
    ng.save(hierarchy, tmp_path / "tables.hierarchy")
    again = ng.load(tmp_path / "tables.hierarchy", arch=arch)
    for level, other in zip(hierarchy.levels[1:], again.levels[1:], strict=True):
        assert level.transfers.keys() == other.transfers.keys()
        level.model.eval(), other.model.eval()
        torch.testing.assert_close(other.model(MORE_ROWS), level.model(MORE_ROWS))


def test_complex_weights_are_saved_and_opened_again(tmp_path):
    model, _ = CASES["complex units"]
    hierarchy = ng.build_hierarchy(model, ROWS)
    ng.save(hierarchy, tmp_path / "complex.hierarchy")
    again = ng.load(tmp_path / "complex.hierarchy")
    torch.testing.assert_close(again.levels[1].model(MORE_ROWS), hierarchy.levels[1].model(MORE_ROWS))
    assert dict(again.levels[1].model.named_parameters())["w"].dtype is torch.complex128
