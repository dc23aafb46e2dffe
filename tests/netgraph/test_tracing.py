"""Traces, judged by the network's own forward: equal units merge, dead units are removed, and the outputs stay the same."""

import contextlib
import operator
import pickle
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from nets import IMAGE, WORDS, Fn, nets
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.oracles import check_coarse_network, check_dead_units, check_duplicate_units, first_row
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError, NothingToMergeError, TraceError
from netgraph.io.example_inputs import guess_input
from netgraph.recording.recorder import record_network
from netgraph.rules.operator_call import bind_arguments

pytestmark = pytest.mark.no_cover
NETS = {name: (model.double(), x.double() if x.is_floating_point() else x) for name, model, x in nets()}


@pytest.mark.parametrize("name", NETS)
def test_alike_units_merge_and_dead_units_go_without_a_trace(name):
    model, example = NETS[name]
    spec = ng.trace(model, example)
    assert spec.free, spec
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-12
    dead = check_dead_units(model, spec, example, spec.free)
    assert dead.error is None or dead.error < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_the_recorded_graph_is_the_network_in_both_modes_and_for_another_batch(name):
    model, example = NETS[name]
    copy = coarse_network(model.eval(), ng.trace(model, example), {})
    larger = torch.cat([example, example, example[:1]])
    torch.testing.assert_close(copy(larger), model(larger))
    model.train()
    copy.train()
    torch.manual_seed(1)
    expected = model(example)
    torch.manual_seed(1)
    torch.testing.assert_close(copy(example), expected)
    model.eval()


def test_every_coarse_network_is_smaller_and_trains():
    for name, (model, example) in NETS.items():
        hierarchy = ng.build_hierarchy(model, example)
        coarse = hierarchy.levels[1].model.train()
        assert hierarchy.levels[1].n_parameters < hierarchy.levels[0].n_parameters, name
        coarse(example).square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in coarse.parameters()), name


def test_batch_norm_statistics_move_as_in_the_network_itself():
    model, example = NETS["batch norm"]
    model = deepcopy(model).train()
    copy = coarse_network(model, ng.trace(model, example), {})
    for _ in range(3):
        model(example)
        copy(example)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(copy.get_buffer(name), buffer, rtol=1e-12, atol=1e-12)


def _written(graph):
    """Return a graph as text with numbers in place of node names, because two recorders choose different names.

    Two things that versions of PyTorch do differently under ``make_fx`` are left out. Whether a copy into another memory layout is
    needed depends on strides, which fake tensors predict differently from version to version, and the copy changes no number.
    And fake tensors of PyTorch 2.9 give the last states of an LSTM a dimension too many.
    """
    numbers, lines = {}, []
    for node in graph.nodes:
        if node.target is torch.ops.aten.contiguous.default:
            numbers[node] = numbers[node.args[0]]
            continue
        numbers[node] = len(lines)
        bound = bind_arguments(node) if node.op == "call_function" else {"": node.args}
        arguments = torch.fx.node.map_arg(bound, lambda n: f"%{numbers[n]}")
        target = "" if node.op == "placeholder" or "constant" in str(node.target) else str(node.target)
        value = node.meta.get("val")
        is_state = node.target is operator.getitem and "lstm" in str(node.args[0].target)
        shape = (value.shape, value.dtype) if isinstance(value, torch.Tensor) and not is_state else None
        lines.append((node.op, target, {k: v for k, v in arguments.items() if k != "device"}, shape))
    return lines


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [False, True])
def test_the_quick_recorder_writes_what_make_fx_writes(name, training, monkeypatch):
    model, example = NETS[name]
    quick = record_network(model, example, training=training)
    for quick_way in ("record_on_meta", "record_with_numbers"):
        monkeypatch.setattr(f"netgraph.recording.recorder.{quick_way}", lambda *_: 1 / 0)
    assert _written(quick.graph) == _written(record_network(model, example, training=training).graph)


def test_the_quick_recorder_refuses_networks_that_it_cannot_follow():
    class Decides(nn.Module):
        def forward(self, x):
            return x * 2 if torch.rand(1) < 0.5 else x

    class Writes(nn.Module):
        def forward(self, x):
            total = torch.tensor([0.0, 0.0, 0.0])
            return total.add_(x[0])

    class Keeps(nn.Module):
        kept = None

        def forward(self, x):
            self.kept = x.detach() if self.kept is None else self.kept
            return x + self.kept

    x = torch.randn(2, 3)
    with pytest.raises(TraceError, match="branches on random numbers"):
        ng.trace(Decides(), x)
    for followed in (Writes(), Keeps()):
        network = coarse_network(followed, ng.trace(followed, x), {})
        for _ in range(2):  # a constant that was written to would show the second time
            torch.testing.assert_close(network(x), x + x if isinstance(followed, Keeps) else x[0])
    assert torch.equal(followed(x), x + x)


def test_a_wrong_rule_is_noticed_by_the_oracles(monkeypatch):
    model, example = NETS["mlp"]
    spec = ng.trace(model, example)
    object.__setattr__(spec, "sums", {})  # as if no rule had said what is summed over
    assert check_duplicate_units(model, spec, example, spec.free).error > 1e-2


def test_the_oracles_miss_no_output_and_no_failure():
    from netgraph.coarsen.network import oracles as verify

    a, b = torch.ones(2), torch.ones(3)
    assert verify.max_relative_error((a, b), (a, b)) == 0
    assert verify.max_relative_error((a, b), (a,)) == float("inf")
    assert verify.max_relative_error({"x": a, "y": b}, {"x": a, "y": a}) == float("inf")
    broken, x = NETS["channel shuffle"]
    spec = ng.trace(broken, x)
    for plan in spec.plans.values():
        plan.rewrites.clear()
    with pytest.raises(ng.NetgraphError, match="does not run"):
        check_duplicate_units(broken, spec, x, spec.free)


def test_tied_weights_stay_tied_and_residual_streams_have_equal_aggregates():
    model, example = NETS["tied"]
    hierarchy = ng.build_hierarchy(model, example)
    coarse = hierarchy.levels[1].model
    assert coarse.head.weight is coarse.embed.weight
    (stream,) = (axis for axis in hierarchy.levels[0].spec.free if axis.equal)
    assert stream.size == 16
    assert set(np.bincount(hierarchy.levels[1].transfers[stream.name].aggregates)) == {2}


def test_coarse_networks_copy_pickle_and_keep_their_state_names():
    model, example = NETS["batch norm"]
    coarse = ng.build_hierarchy(model, example).levels[1].model.eval()
    for twin in (deepcopy(coarse), pickle.loads(pickle.dumps(coarse))):
        torch.testing.assert_close(twin(example), coarse(example))
    assert set(coarse.state_dict()) == set(model.state_dict())


class Remembering(nn.Module):
    """Caches a tensor that it computes from a parameter in evaluation, by device, like the attention biases of LeViT."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.bias, self.kept = nn.Linear(5, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(8)), {}

    def forward(self, x):
        if self.training:
            return self.b((self.a(x) + 2 * self.bias).relu())
        if x.device not in self.kept:
            self.kept[x.device] = 2 * self.bias
        return self.b((self.a(x) + self.kept[x.device]).relu())


def test_recording_leaves_nothing_in_the_caches_of_a_network():
    model, x = Remembering().eval(), torch.randn(2, 5)
    hierarchy = ng.build_hierarchy(model, x)
    assert guess_input(model)[1] == "--input 2x5"
    assert all(v.error < 1e-6 for v in ng.verify(model, ng.trace(model, x), x))
    assert model.kept == {}
    deepcopy(model)
    assert ng.own_class(hierarchy, x)(x).shape == (2, 3)


def test_training_leaves_the_given_network_as_it_was():
    model, example = NETS["batch norm"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    ng.build_hierarchy(model, example)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_hierarchies_of_several_levels_ratios_and_multiples():
    model, example = NETS["mlp"]
    h = ng.build_hierarchy(model, example, n_levels=3, ratio={"0": 0.25, "*": 0.5})
    assert [t.n_coarse for t in h.levels[1].transfers.values()] == [3, 4]
    assert ng.build_hierarchy(model, example, ratio=0.5, round_to=8).levels[1].spec.axes["0"].size == 8
    kept = ng.build_hierarchy(model, example, keep=["0"])
    assert "0" not in kept.levels[1].transfers
    assert "operator complexity" in str(h)
    again = ng.build_hierarchy(model, example, n_levels=3, ratio={"0": 0.25, "*": 0.5})
    assert all(
        np.array_equal(t.aggregates, again.levels[1].transfers[a].aggregates) for a, t in h.levels[1].transfers.items()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "above 0"),
        ({"ratio": 1.5}, "at most 1"),
        ({"n_levels": 1}, "Give 2 or more"),
        ({"round_to": 0}, "multiple of 1"),
        ({"keep": ["nowhere"]}, "no axis is named 'nowhere'"),
        ({"coarsener": "nosuch"}, "no coarsener named"),
        ({"coarsener": lambda g, k, seed: np.zeros(2)}, "int array of shape"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, message):
    model, example = NETS["mlp"]
    with pytest.raises(ng.NetgraphError, match=message):
        ng.build_hierarchy(model, example, **options)


def test_a_network_in_which_nothing_can_merge_is_refused_with_the_reasons():
    with pytest.raises(NothingToMergeError, match="output"):
        ng.build_hierarchy(nn.Linear(4, 3), torch.randn(2, 4))


def test_branches_on_numbers_and_wrong_inputs_are_refused():
    with pytest.raises(TraceError, match="branches on numbers"):
        ng.trace(Fn(lambda m, x: m.a(x) if m.a(x).sum() > 0 else m.a(-x), a=nn.Linear(16, 4)), WORDS)
    with pytest.raises(TraceError, match="does not run on the example"):
        ng.trace(nn.Linear(5, 4), IMAGE)
    with pytest.raises(TraceError, match="holds a object"):
        ng.trace(nn.Linear(5, 4), (object(),))


def test_the_places_of_a_condition_are_looked_up_in_each_run():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.first(x)
            (rows,) = torch.where(y[:, 0] > 0)
            return self.last(torch.zeros_like(y).index_add(0, rows, y[rows]))

    model, example, other = Sparse(), torch.randn(6, 4), torch.randn(9, 4)
    torch.testing.assert_close(coarse_network(model, ng.trace(model, example), {})(other), model(other))


def test_an_operator_without_a_rule_is_named_with_its_place():
    with pytest.raises(TraceError, match=r"aten\.geqrf has no rule .*test_tracing.py:.*--rules.*netgraph\.rules"):
        ng.trace(Fn(lambda m, x: torch.geqrf(m.a(x))[0], a=nn.Linear(5, 4)), torch.randn(3, 5))


def test_other_sizes_than_the_traced_ones_are_refused_when_run():
    model, example = NETS["mlp"]
    coarse = ng.build_hierarchy(model, example).levels[1].model
    with pytest.raises(TraceError, match="traced for any x 5"):
        coarse(torch.randn(2, 7).double())
    with pytest.raises(TraceError):
        coarse(example, example)


def test_parameters_that_the_run_never_reads_are_kept_and_named():
    net = Fn(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2), idle=nn.Linear(6, 6))
    hierarchy = ng.build_hierarchy(net, torch.randn(2, 4))
    assert hierarchy.levels[0].spec.untraced == ("idle.weight", "idle.bias")
    assert set(hierarchy.levels[1].transfers) == {"a"}
    assert torch.equal(hierarchy.levels[1].model.get_parameter("idle.weight"), net.idle.weight)


def test_padding_masks_of_the_encoder_pass_the_oracles():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1, enable_nested_tensor=True
    )
    net = Fn(
        lambda m, x, mask: m.head(m.encoder(m.stem(x), src_key_padding_mask=mask)),
        stem=nn.Linear(5, 16),
        encoder=encoder,
        head=nn.Linear(16, 2),
    )
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, 4:] = True
    example = (torch.randn(3, 6, 5), mask)
    spec = ng.trace(net, example)
    assert check_duplicate_units(net, spec, example, spec.free).error < 1e-6


def test_masks_of_any_length_are_followed_at_run_time():
    net = Fn(lambda m, x: m.out(m.a(x)[x[:, 0] > 0].relu()).sum(0), a=nn.Linear(5, 8), out=nn.Linear(8, 3)).double()
    example = torch.randn(6, 5).double()
    spec = ng.trace(net, example)
    copy = coarse_network(net, spec, {})
    other = torch.randn(9, 5).double()
    torch.testing.assert_close(copy(other), net(other))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t"])
def test_networks_of_torchvision_pass_both_oracles(name):
    import torchvision

    model, example = getattr(torchvision.models, name)(), torch.randn(2, 3, 64, 64)
    spec = ng.trace(model, example)
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-4
    assert check_dead_units(model, spec, example, spec.free).error < 1e-4


def test_message_passing_of_torch_geometric_passes_the_oracle():
    from networks import pyg_networks

    for _, make in pyg_networks():
        model, example = make()
        spec = ng.trace(model, example)
        assert check_duplicate_units(model, spec, example, spec.free).error < 1e-4


def test_verify_judges_every_axis():
    model, example = NETS["tied"]
    verdicts = ng.verify(model, ng.trace(model, example), example)
    assert {v.oracle for v in verdicts} == {"duplicate", "dead"}
    assert all(v.error is None or v.error < 1e-12 for v in verdicts)
    assert any(v.note for v in verdicts)


@pytest.mark.parametrize("name", ["mlp", "flatten", "grouped conv", "fused attention", "low rank", "transposed"])
def test_operations_are_those_that_pytorch_counts_on_every_level(name):
    from torch.utils.flop_counter import FlopCounterMode

    model, example = NETS[name]
    for level in ng.build_hierarchy(model, example).levels:
        plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
            level.model.eval()(example)
        assert level.flops == counter.get_total_flops()


@pytest.mark.parametrize("as_column", [
    lambda rows: rows[:, None], lambda rows: rows[None].t().clone(), lambda rows: rows.view(1, -1).permute(1, 0).contiguous(),
    lambda rows: rows.expand(1, -1).swapaxes(0, 1).flatten().unflatten(0, (-1, 1)),
], ids=["unsqueeze", "t and clone", "view and permute", "swapaxes and flatten"])  # fmt: skip
def test_a_lookup_by_arange_keeps_the_length_of_the_batch(as_column):
    class Masked(nn.Module):  # as transformers makes its masks
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            seen = torch.arange(4).unsqueeze(0).expand(x.shape[0], -1).cumsum(-1)
            rows, columns = as_column(torch.arange(x.shape[0])), torch.arange(4)[None, :]
            return self.b((self.a(x) * seen[rows, columns][..., None]).relu())

    model = Masked()
    spec = ng.trace(model, torch.randn(2, 4, 5))
    coarse = ng.coarse_network(model, spec, {})
    x = torch.randn(7, 4, 5)
    torch.testing.assert_close(coarse(x), model(x))


def test_an_example_of_one_row_is_cut_out_only_if_all_inputs_have_as_many_rows():
    x, ids = torch.randn(3, 4), torch.arange(6).reshape(3, 2)
    assert torch.equal(first_row(x)[0], x[:1])
    assert torch.equal(first_row((x, ids))[1], ids[:1])
    assert torch.equal(first_row({"ids": ids, "scale": 2.0})["ids"], ids[:1])
    for whole in ((x, ids[:2]), x[:1], ids[0], (x, ids[0])):
        assert first_row(whole) is whole


def test_a_coarse_network_that_runs_on_no_row_is_not_handed_out():
    model, example = NETS["mlp"]
    coarse = coarse_network(model, ng.trace(model, example), {})
    check_coarse_network(coarse, example)
    name, weight = next((n, p) for n, p in coarse.named_parameters() if p.ndim == 2)
    coarse.get_submodule(name.rpartition(".")[0]).weight = nn.Parameter(weight[:, 1:])
    with pytest.raises(NetgraphError, match="does not run"):
        check_coarse_network(coarse, example)


def test_a_line_is_the_users_wherever_a_checkout_lies():
    from netgraph.coarsen.matching import heavy_edge as hem
    from netgraph.recording import meta_recorder as recorder
    from netgraph.utils import source_location as places

    assert places.is_user_file("/home/a/netgraph/tests/train.py")
    assert places.is_user_file("/home/a/torch/train.py")
    assert not any(places.is_user_file(m.__file__) for m in (recorder, hem, torch.nn.functional, contextlib))
    assert not places.is_user_file("<string>")


def test_lines_are_named_from_their_package_or_from_here(monkeypatch, tmp_path):
    from netgraph.utils import source_location as places

    monkeypatch.chdir(tmp_path)
    assert places.format_location("/home/a/lib/site-packages/timm/models/vit.py", 7) == " at timm/models/vit.py:7"
    assert places.format_location(str(tmp_path / "nets" / "mine.py"), "8") == " at nets/mine.py:8"
    assert places.format_location("/elsewhere/mine.py", 9) == " at /elsewhere/mine.py:9"


def test_a_graph_transformer_over_kinds_of_nodes_is_traced():
    """It sorts the edges and asks where the rows of each node start."""
    from torch_geometric.nn import HGTConv

    kinds = (["a", "b"], [("a", "to", "b"), ("b", "of", "a")])
    model = Fn(
        lambda m, x, edges: {k: m.b(m.a(h.relu())) for k, h in m.c(x, edges).items()},
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
        c=HGTConv(6, 8, kinds, heads=2),
    )
    example = (
        {"a": torch.randn(5, 6), "b": torch.randn(4, 6)},
        {("a", "to", "b"): torch.randint(4, (2, 7)), ("b", "of", "a"): torch.randint(4, (2, 7))},
    )
    spec = ng.trace(model.double().eval(), ({k: x.double() for k, x in example[0].items()}, example[1]))
    assert "a" in [axis.name for axis in spec.free]
    assert (
        check_duplicate_units(
            model, spec, ({k: x.double() for k, x in example[0].items()}, example[1]), spec.free
        ).error
        < 1e-10
    )


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (lambda: torch.zeros(4, 6, device="meta"), r"has no numbers: it is on the meta device.*torch\.randn"),
        (lambda: torch.nested.nested_tensor([torch.ones(3, 6), torch.ones(5, 6)]), r"nested tensor.*to_padded_tensor"),
        (
            lambda: torch.nested.nested_tensor([torch.ones(3, 6), torch.ones(5, 6)], layout=torch.jagged),
            r"nested tensor.*to_padded_tensor",
        ),
        (lambda: torch.eye(6).to_sparse(), r"sparse \(torch\.sparse_coo\).*to_dense"),
        (lambda: torch.eye(6).to_sparse_csr(), r"sparse \(torch\.sparse_csr\).*to_dense"),
        (lambda: torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 0, torch.qint8), r"quantised.*dequantize"),
    ],
)
def test_inputs_that_no_network_can_be_built_on_are_told_with_their_mend(inputs, reason):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    hierarchy = ng.build_hierarchy(model, torch.ones(4, 6), n_levels=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse and nested tensors are in beta
        wrong = inputs()
        for use in (
            lambda: ng.build_hierarchy(model, wrong),
            lambda: ng.own_class(hierarchy, wrong),
            lambda: ng.verify(model, hierarchy.levels[0].spec, wrong),
            lambda: ng.build_hierarchy(model, torch.ones(4, 6), repair="ridge", data=wrong),
        ):
            with pytest.raises(TraceError, match=reason):
                use()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_network_that_makes_nested_tensors_is_told_to_pad_its_rows(layout):
    def run(m, x):
        rows = torch.nested.as_nested_tensor([x[:2], x[2:]], layout=layout)
        return torch.cat(list(m.b(torch.relu(m.a(rows))).unbind()))

    model = Fn(run, a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are in beta
        with pytest.raises(TraceError, match=r"makes a nested tensor at .*test_tracing\.py:\d+.*Pad the rows"):
            ng.trace(model, torch.randn(5, 6))


def test_a_network_that_runs_but_cannot_be_recorded_is_not_told_that_it_does_not_run():
    model = Fn(lambda m, x: m.a(x.share_memory_()), a=nn.Linear(6, 8))
    with pytest.raises(TraceError, match="runs on the example, but not while it is recorded"):
        ng.trace(model, torch.randn(5, 6))
