"""Updates of new units and blocks that grow from zero, against closed forms with masks made by hand."""

from functools import partial

import pytest
import torch
from fasnets import OPTIMIZERS, assert_same_bits, batches, network, state, unmerged
from torch import nn
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas import Multigrid
from netgraph.fas.checkpoint.checkpoint import Checkpoints, list_checkpoints, resume
from netgraph.fas.integrations.coarse_start import CoarseStart
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.growth import Growth
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.levels.rewarm import scale_new_updates
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Estimate, Smoothing, Split
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.io.bundle import read_bundle
from netgraph.models.cnn import resnet
from netgraph.models.transformer import Decoder

STEPS, WARM = 9, 4
ONE = batches(1, 24)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Tied(nn.Module):
    """A network that uses one matrix twice, the second time transposed."""

    def __init__(self):
        super().__init__()
        self.up, self.last = nn.Linear(6, 9), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(x + torch.tanh(self.up(x)) @ self.up.weight)


def chain(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 6), *(Residual() for _ in range(4)), nn.Linear(6, 3)).to(dtype)


def tied():
    torch.manual_seed(0)
    return Tied().double()


def mask_by_hand(name, n_first, hierarchy, model):
    """True at the entries of new units of one layer, and at all entries of blocks 2 to 4."""
    aggregates = list(hierarchy.levels[1].transfers[name].aggregates)
    new = torch.tensor([i != aggregates.index(a) for i, a in enumerate(aggregates)])
    assert new.any()
    assert not new.all()
    masks = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    masks[f"{name}.weight"][new], masks[f"{name}.bias"][new] = True, True
    if n_first:
        masks["1.down.weight"][:, new] = True
        for n, mask in masks.items():
            mask[...] |= n[0] in "234"
    return masks


class HandSGD:
    """Momentum SGD in its closed form: buf <- m buf + g, u = -lr buf."""

    def __init__(self):
        self.buf = {}

    def update(self, name, x, g):
        self.buf[name] = 0.9 * self.buf[name] + g if name in self.buf else g
        return -0.05 * self.buf[name]


class HandAdamW:
    """AdamW in its closed form, decay of 0.1 included."""

    def __init__(self):
        self.m, self.v, self.t = {}, {}, {}

    def update(self, name, x, g):
        self.t[name] = t = self.t.get(name, 0) + 1
        self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * g
        self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * g * g
        u = self.m[name] / (1 - 0.9**t) / ((self.v[name] / (1 - 0.999**t)).sqrt() + 1e-8)
        return -0.05 * (u + 0.1 * x)


TWINS = {
    "sgd": (partial(torch.optim.SGD, momentum=0.9), HandSGD),
    "adamw": (partial(torch.optim.AdamW, weight_decay=0.1), HandAdamW),
}


def double(data):
    return [(x.double(), y) for x, y in data]


@pytest.mark.parametrize("case", ["chain", "tied"])
@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("refused", [0, 2])
def test_new_entries_take_a_growing_share_and_old_ones_the_whole_update(case, kind, accumulate, refused):
    """One minibatch, constant rate, no moments at the start. ``refused``: the step of the fine level without a finite loss."""
    optimizer, hand = TWINS[kind]
    model = chain() if case == "chain" else tied()
    options = {"directions": "channels+depth", "blocks": 1, "keep": ["0"]} if case == "chain" else {"keep": ["input"]}
    if case == "tied":
        options = {}
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 6).double(), **options)
    masks = mask_by_hand("1.up" if case == "chain" else "up", case == "chain", hierarchy, model)
    seen, calls = [], []

    def loss(outputs, y):
        calls.append(1)
        k = len(calls) - 3 * accumulate  # after the coarse steps
        value = cross_entropy(outputs, y)
        return value * float("nan") if refused and (k - 1) // accumulate + 1 == refused else value

    def note(run, record):
        if record["event"] == "start" or (record["event"] == "smooth" and record["level"] == 0):
            seen.append(state(run.grids[0].model))

    solver = FAS(
        "kaskade", optimizer, 0.05, epochs=(3 + STEPS) * accumulate, share=(STEPS, 3), schedule="constant",
        options=Options(Smoothing(accumulate=accumulate, moments=False), split=Split(rewarm=WARM)),
    )  # fmt: skip
    solver.solve(hierarchy, Problem(double(ONE), loss), callbacks=[note], every=1)
    assert len(seen) == 1 + STEPS - bool(refused)

    twin, formula, data = (chain() if case == "chain" else tied()), hand(), double(ONE)[0]
    twin.load_state_dict(seen[0])
    wanted = [state(twin)]
    for i in range(1, STEPS + 1):
        if i == refused:
            continue
        twin.zero_grad()
        cross_entropy(twin(data[0]), data[1]).backward()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                u = formula.update(name, p.clone(), p.grad.clone())
                p += torch.where(masks[name], min(i / WARM, 1) * u, u)
        wanted.append(state(twin))
    for ours, theirs in zip(seen, wanted, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12)


NETWORKS = {
    "decoder": (lambda: Decoder(50, width=16, n_hidden=24, n_heads=4, length=12, depth=3), torch.randint(1, 50, (2, 12))),
    "resnet": (lambda: resnet(3, width=4), torch.randn(2, 3, 16, 16)),
    "chain": (partial(chain, dtype=torch.float32), torch.randn(2, 6)),
}  # fmt: skip
WAYS = [
    {}, {"inside_heads": True}, {"coarsener": "random"}, {"directions": "depth", "blocks": 1}, {"directions": "depth", "blocks": 0},
    {"directions": "channels+depth", "blocks": 1},
]  # fmt: skip


WAYS_OF = [
    (name, options) for options in WAYS for name in NETWORKS if name == "decoder" or "inside_heads" not in options
]


@pytest.mark.parametrize(("name", "options"), WAYS_OF, ids=str)
def test_as_many_entries_are_old_as_the_coarse_level_has(name, options):
    make, example = NETWORKS[name]
    torch.manual_seed(0)
    maps = HierarchyMaps(ng.build_hierarchy(make(), example, **options))
    fine, coarse = (dict(m.named_parameters()) for m in maps.models)
    masks = Growth(maps, 0, Split()).mask_new_entries(coarse, fine)
    assert masks.keys() <= fine.keys()
    assert all(mask.any() and mask.shape == fine[n].shape for n, mask in masks.items())
    new = sum(int(mask.sum()) for mask in masks.values())
    assert 0 < new == sum(p.numel() for p in fine.values()) - sum(p.numel() for p in coarse.values())


SETTINGS = {
    "kaskade, AdamW": ("kaskade", torch.optim.AdamW, Smoothing(), {}),
    "kaskade, accumulated, running mean": ("kaskade", partial(torch.optim.SGD, momentum=0.9), Smoothing(accumulate=2, ema=0.9), {}),
    "full, RMSprop": ("full", partial(torch.optim.RMSprop, momentum=0.5), Smoothing(2, 2, 4), {}),
    "kaskade, three levels, longer than a level": ("kaskade", torch.optim.Adam, Smoothing(rewarm=3), {"n_levels": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_resumed_in_the_middle_of_the_warm_up_is_the_same_bit_for_bit(name, tmp_path):
    cycle, optimizer, smoothing, more = SETTINGS[name]
    weights = chain(1, torch.float32).state_dict()
    split = Split(blocks="zero", moments="asymmetric", rewarm=8)

    def begun(callbacks=()):
        model = chain(1, torch.float32)
        model.load_state_dict(weights)
        levels = ng.build_hierarchy(model, torch.randn(2, 6), directions="channels+depth", blocks=1, **more)
        solver = FAS(cycle, optimizer, 1e-2, epochs=2, options=Options(smoothing, split=split))
        return solver, solver.begin(levels, Problem(batches(), cross_entropy), callbacks=callbacks, every=1), model

    solver, run, model = begun()
    solver.finish(run)
    total, saved = run.steps, []
    for at in range(1, total, 3):

        def stop(run, record, at=at):
            if record["event"] == "smooth" and run.steps == at:
                run.stop("enough")

        folder = tmp_path / str(at)
        solver, run, _ = begun([stop, Checkpoints(folder, every=100)])
        solver.finish(run)
        saved.append(any("/new/" in tensor for tensor in read_bundle(list_checkpoints(folder)[0])[0]))
        solver, run, again = begun()
        resume(run, folder)
        solver.finish(run)
        assert_same_bits(state(model), state(again))
    assert set(saved) == {False, True}  # checkpoints hold masks during the warm-up alone


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_where_nothing_is_new_training_is_plain_bit_for_bit_and_the_run_says_so(name, caplog):
    optimizer, lr = OPTIMIZERS[name]
    plain, nested = network(), network()
    make_plain_solver(optimizer=optimizer, lr=lr, epochs=1).solve(
        ng.Hierarchy([ng.Level(plain, ng.trace(plain, torch.randn(2, 6)))]), Problem(batches(), cross_entropy)
    )
    solver = FAS("kaskade", optimizer, lr, epochs=1, options=Options(split=Split(rewarm=5)))
    solver.solve(unmerged(nested), Problem(batches(), cross_entropy))
    assert_same_bits(state(plain), state(nested))
    assert "level 0 has no new units or blocks. split.rewarm changes nothing there" in caplog.text


def test_lbfgs_learns_no_curvature_from_a_step_that_was_scaled():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    smoother = Smoother(model, partial(torch.optim.LBFGS, max_iter=1), 0.1)
    grid = Grid(model, smoother, state(model), new={"weight": torch.tensor([[False, True]])})
    target = torch.ones(1, 2)
    with scale_new_updates(grid, 0.25):
        smoother.step(lambda m, batch: (m.weight - target).square().sum() / 2, [None], {})
    old, new = model.weight.detach()[0]
    assert old > 0
    torch.testing.assert_close(new, 0.25 * old)
    (memory,) = smoother.optimizer.state.values()
    assert not memory["d"].any()


def test_warm_ups_end_under_gradients_of_several_levels():
    """Each step counts, also one that takes its samples apart from the minibatches of the level."""
    rates = {}
    for warm in (0, 4):
        options = Options(Smoothing(rewarm=warm), estimate=Estimate("multilevel", pilot=4, every=3))
        solver = FAS("kaskade", torch.optim.SGD, 1e-2, epochs=2, schedule="constant", options=options, share=(2, 1))
        model = network()
        levels = ng.build_hierarchy(model, torch.randn(2, 6), coarsener="random")
        solution = solver.solve(levels, Problem(batches(), cross_entropy), every=1)
        rates[warm] = [record["lr"] for record in solution.events("smooth") if record["level"] == 0]
    shares = [a / b for a, b in zip(rates[4], rates[0], strict=True)]
    assert shares == pytest.approx([0.25, 0.5, 0.75] + [1.0] * (len(shares) - 3))


class OwnLevels:
    models, flops = [network(), network()], [2.0, 1.0]


@pytest.mark.parametrize("cycle", ["v", "w", "f", "additive"])
def test_cycles_that_start_no_level_refuse_a_warm_up(cycle):
    for name, options in (
        ("split", Options(split=Split(rewarm=3))),
        ("smoothing", Options(Smoothing(rewarm=3))),
        ("smoothing", Options(levels={1: {"rewarm": 3}})),
    ):
        solver = FAS(cycle, epochs=1, options=options)
        with pytest.raises(NetgraphError, match=rf"{name}.rewarm warms up .* the cycle {cycle} starts none"):
            solver.begin(unmerged(network()), Problem(batches(), cross_entropy))


def test_levels_and_loops_of_your_own_refuse_it():
    options = Options(split=Split(rewarm=3))
    with pytest.raises(NetgraphError, match="need a hierarchy of networks"):
        FAS(epochs=1, options=options).begin(OwnLevels(), Problem(batches(), cross_entropy))
    levels = ng.build_hierarchy(network(), torch.randn(2, 6))
    optimizer = torch.optim.SGD(levels.levels[0].model.parameters(), 0.1)
    with pytest.raises(NetgraphError, match="here your loop takes them"):
        CoarseStart(HierarchyMaps(levels), optimizer, [2], options)
    with pytest.raises(NetgraphError, match="rewarm belong to your loop"):
        Multigrid(optimizer, levels, options=options)
