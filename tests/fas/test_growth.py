"""How new blocks and units begin: laws of the function, of gradients and of moments, against autograd and by hand."""

import copy
from functools import partial

import pytest
import torch
from fasnets import OPTIMIZERS, assert_same_bits, batches, mean_loss, network, state, unmerged
from torch import nn
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints, resume
from netgraph.fas.integrations.coarse_start import CoarseStart
from netgraph.fas.levels.growth import Growth
from netgraph.fas.levels.maps import HierarchyMaps, live_state
from netgraph.fas.levels.moments import read_moments
from netgraph.fas.levels.nested_iteration import start_level
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing, Split
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.cnn import resnet
from netgraph.models.transformer import Decoder

TOKENS = torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self, n=6):
        super().__init__()
        self.up, self.down = nn.Linear(n, 9), nn.Linear(9, n)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def chain(seed=0, n_blocks=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 6), *(Residual() for _ in range(n_blocks)), nn.Linear(6, 3))


def decoder():
    torch.manual_seed(0)
    return Decoder(50, width=16, n_hidden=24, n_heads=2, length=12, depth=3, dropout=0.0)


def resnet_of_blocks():
    torch.manual_seed(0)
    return resnet(3, width=4)


NETWORKS = {
    "chain": (chain, torch.randn(5, 6)),
    "decoder": (decoder, TOKENS),
    "resnet": (resnet_of_blocks, PIXELS),
}


def levels(name, split, **options):
    """The maps of a hierarchy whose levels have unrelated weights, and its grids."""
    make, example = NETWORKS[name]
    model = make()
    hierarchy = ng.build_hierarchy(model, example, **options)
    random = torch.Generator().manual_seed(1)
    for p in hierarchy.levels[1].model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=random)
    maps = HierarchyMaps(hierarchy)
    solver = FAS("kaskade", torch.optim.Adam, 1e-2, epochs=1, options=Options(split=split))
    return maps, [solver.make_grid(maps, level) for level in range(2)], example


def started(name, split, **options):
    maps, grids, example = levels(name, split, **options)
    start_level(maps, 0, *grids, split, 0)
    return maps, grids, example


def distance(maps, example, training):
    fine, coarse = (m.train(training)(example) for m in maps.models)
    return float(((fine - coarse).norm() / coarse.norm()).detach())


DEPTHS = [
    {"directions": "depth", "blocks": 1},
    {"directions": "depth", "blocks": 0},
    {"directions": "channels+depth", "blocks": 1},
    {"directions": "depth"},
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", DEPTHS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_with_zero_ends_keep_the_function(name, options, training):
    maps, _, example = started(name, Split(blocks="zero"), **options)
    assert distance(maps, example, training) < 1e-5


@pytest.mark.parametrize("blocks", ["copied", "random", "prolonged"])
@pytest.mark.parametrize("name", NETWORKS)
def test_other_blocks_change_the_function(name, blocks):
    maps, _, example = started(name, Split(blocks=blocks), directions="depth", blocks=1)
    assert distance(maps, example, False) > 1e-2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["zero", "zero-sum", "none"])
@pytest.mark.parametrize("name", NETWORKS)
def test_new_units_keep_the_function(name, kind, training):
    maps, _, example = started(name, Split(kind), coarsener="random")
    assert distance(maps, example, training) < 1e-5


def test_new_units_have_no_outgoing_weights_and_the_first_has_all():
    maps, (fine, coarse), _ = started("chain", Split("zero"), keep=["0"])
    transfer = maps.hierarchy.levels[1].transfers["1.up"]
    firsts = [list(transfer.aggregates).index(i) for i in range(transfer.n_coarse)]
    new = [i for i in range(9) if i not in firsts]
    assert new
    assert (fine.x["1.down.weight"][:, new] == 0).all()
    assert torch.equal(fine.x["1.down.weight"][:, firsts], coarse.x["1.down.weight"])
    assert torch.equal(fine.x["1.up.weight"], coarse.x["1.up.weight"][transfer.aggregates])


def test_random_blocks_are_those_of_the_fine_network_and_the_first_is_the_coarse_one():
    before = state(chain())
    _maps, (fine, coarse), _ = started("chain", Split("none", blocks="random"), directions="depth", blocks=1)
    for name in ("up.weight", "up.bias", "down.weight", "down.bias"):
        assert torch.equal(fine.x[f"1.{name}"], coarse.x[f"1.{name}"])
        for block in "234":
            assert torch.equal(fine.x[f"{block}.{name}"], before[f"{block}.{name}"])


@pytest.mark.parametrize("blocks", ["copied", "zero"])
def test_copied_blocks_are_whole_and_zero_blocks_differ_in_their_ends_alone(blocks):
    maps, (_fine, coarse), x = started("chain", Split("none", blocks=blocks), directions="depth", blocks=1)
    block = Residual()
    block.load_state_dict({n: coarse.x[f"1.{n}"] for n in block.state_dict()})
    h = maps.models[0][0](x)
    for number in "1234":
        h = block(h) if blocks == "copied" or number == "1" else h
    torch.testing.assert_close(maps.models[0](x), maps.models[0][5](h))
    if blocks == "zero":  # it can learn: its first gradient does not vanish
        maps.models[0](x).square().sum().backward()
        assert maps.models[0][3].down.weight.grad.norm() > 0


def gradients(model, x):
    model.zero_grad()
    model.eval()(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["chain", "resnet"])
def test_moments_come_up_as_the_gradients_of_units_with_zero_outgoing_weights(name):
    """Without norms over units, the gradient of the grown network is the distributed one of the coarse network."""
    maps, _, x = started(name, Split("zero"), coarsener="random")
    fine, coarse = (gradients(m, x) for m in maps.models)
    distributed = Growth(maps, 0, Split("zero")).distribute(0, coarse)
    assert distributed.keys() == fine.keys()
    for key, gradient in fine.items():
        torch.testing.assert_close(distributed[key], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_the_first_block_has_the_gradient_of_the_coarse_one():
    maps, _, x = started("chain", Split(blocks="zero"), directions="depth", blocks=1)
    fine, coarse = (gradients(m, x) for m in maps.models)
    distributed = Growth(maps, 0, Split(blocks="zero")).distribute(0, coarse)
    for key, gradient in coarse.items():
        torch.testing.assert_close(fine[key], gradient)
        torch.testing.assert_close(distributed[key], gradient)


def trained_moments(maps, grids, x, split):
    """Moments after a few coarse steps, and those with which the fine level begins."""
    coarse = grids[1].smoother
    for _ in range(3):
        maps.models[1](x).square().sum().backward()
        coarse.optimizer.step()
    return read_moments(coarse), Growth(maps, 0, split).carry_moments(coarse)


@pytest.mark.parametrize("options", DEPTHS, ids=str)
def test_reset_moments_are_none(options):
    split = Split(blocks="zero", moments="reset")
    assert trained_moments(*levels("chain", split, **options), split)[1] == {}


@pytest.mark.parametrize("blocks", ["zero", "copied", "random", "prolonged"])
def test_asymmetric_moments_are_reset_for_new_blocks_alone(blocks):
    split = Split(blocks=blocks, moments="asymmetric")
    maps, grids, x = levels("chain", split, directions="depth", blocks=1)
    before, after = trained_moments(maps, grids, x, split)
    assert after.keys() == before.keys() == {"exp_avg", "exp_avg_sq", "step"}
    for key, vector in after.items():
        assert vector.keys() == before[key].keys()  # of the first block and of what lies outside of the chain
        for name, value in vector.items():
            if blocks != "prolonged" or not name.startswith("1."):
                assert torch.equal(value, before[key][name])
            elif key != "step":  # the first block is a quarter of the coarse one
                shares = {"exp_avg": 4, "exp_avg_sq": 16}[key] if "down" not in name else 1
                torch.testing.assert_close(value, before[key][name] / shares)


@pytest.mark.parametrize("kind", ["zero", "zero-sum"])
def test_asymmetric_moments_are_zero_for_new_units_alone(kind):
    split = Split(kind, moments="asymmetric")
    maps, grids, x = levels("chain", split, keep=["0"])
    _, after = trained_moments(maps, grids, x, split)
    kept = Growth(maps, 0, Split(kind)).carry_moments(grids[1].smoother)
    transfer = maps.hierarchy.levels[1].transfers["1.up"]
    old = torch.tensor([i in {list(transfer.aggregates).index(k) for k in range(transfer.n_coarse)} for i in range(9)])
    for key in ("exp_avg", "exp_avg_sq"):
        for name, dim in (("1.up.weight", 0), ("1.up.bias", 0), ("1.down.weight", 1)):
            value, whole = after[key][name].movedim(dim, 0), kept[key][name].movedim(dim, 0)
            assert (value[~old] == 0).all()
            assert torch.equal(value[old], whole[old])
        assert torch.equal(after[key]["0.weight"], kept[key]["0.weight"])
    assert after["step"].keys() == kept["step"].keys()


SPLITS = [
    Split(blocks="zero", moments="asymmetric"),
    Split(blocks="random"),
    Split(blocks="copied", moments="reset"),
    Split("zero", moments="asymmetric"),
]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_a_run_resumed_before_and_after_growth_is_the_same_bit_for_bit(split, tmp_path):
    data, first = batches(), chain(1)
    weights = copy.deepcopy(first.state_dict())

    def begun(callbacks=()):
        model = chain(1)
        model.load_state_dict(weights)
        levels_ = ng.build_hierarchy(model, torch.randn(2, 6), directions="channels+depth", blocks=1)
        solver = FAS("kaskade", torch.optim.AdamW, 1e-2, epochs=1, options=Options(split=split))
        return solver, solver.begin(levels_, Problem(data, cross_entropy), callbacks=callbacks, every=1), model

    solver, run, model = begun()
    solver.finish(run)
    for at in (5, 8, 10):

        def stop(run, record, at=at):
            if record["event"] == "smooth" and run.steps == at:
                run.stop("enough")

        solver, run, _ = begun([stop, Checkpoints(tmp_path / str(at), every=100)])
        solver.finish(run)
        solver, run, again = begun()
        resume(run, tmp_path / str(at))
        solver.finish(run)
        assert_same_bits(state(model), state(again))


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_where_nothing_merges_training_is_plain_bit_for_bit(name, split):
    if split.moments == "reset":
        split = Split(blocks="copied")
    optimizer, lr = OPTIMIZERS[name]
    plain, nested = network(), network()
    make_plain_solver(optimizer=optimizer, lr=lr, epochs=1).solve(
        ng.Hierarchy([ng.Level(plain, ng.trace(plain, torch.randn(2, 6)))]), Problem(batches(), cross_entropy)
    )
    FAS("kaskade", optimizer, lr, epochs=1, options=Options(split=split)).solve(
        unmerged(nested), Problem(batches(), cross_entropy)
    )
    assert_same_bits(state(plain), state(nested))


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_growth_in_a_users_loop_and_in_the_solver_lower_the_loss(split):
    data = batches()
    for cycle in ("kaskade", "full", "loop"):
        model = chain(2)
        before = mean_loss(model, data)
        hierarchy = ng.build_hierarchy(model, torch.randn(2, 6), directions="channels+depth", blocks=1)
        if cycle == "loop":
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            start = CoarseStart(HierarchyMaps(hierarchy), optimizer, [6], Options(split=split))
            for x, y in data * 4:
                optimizer.zero_grad()
                cross_entropy(start.model(x), y).backward()
                optimizer.step()
                start.advance()
            assert start.level == 0
        else:
            FAS(cycle, torch.optim.Adam, 1e-2, epochs=4, options=Options(split=split)).solve(
                hierarchy, Problem(data, cross_entropy)
            )
        assert mean_loss(model, data) < before / 1.3


class OwnLevels:
    models, flops = [network(), network()], [2.0, 1.0]


def begin(maps, split, cycle="kaskade"):
    return FAS(cycle, epochs=1, options=Options(Smoothing(1, 1, 1), split=split)).begin(
        maps, Problem(batches(), cross_entropy)
    )


@pytest.mark.parametrize(
    ("options", "split", "sentence"),
    [
        ({"blocks": 0}, Split(), "has no block left to begin from"),
        ({"blocks": 0}, Split(blocks="copied"), "has no block left to begin from"),
        ({"blocks": 1, "depth_by": "copy"}, Split(blocks="zero"), "copied whole"),
    ],
)
def test_what_a_chain_cannot_begin_from_is_refused_before_the_first_step(options, split, sentence):
    hierarchy = ng.build_hierarchy(chain(), torch.randn(2, 6), directions="depth", **options)
    with pytest.raises(NetgraphError, match=sentence):
        begin(hierarchy, split)
    with pytest.raises(NetgraphError, match=sentence):
        CoarseStart(
            HierarchyMaps(hierarchy), torch.optim.SGD(hierarchy.levels[0].model.parameters()), [1], Options(split=split)
        )
    begin(hierarchy, split, "v")  # no level starts from a coarser one there


@pytest.mark.parametrize("split", [Split("zero"), Split(blocks="random"), Split(moments="asymmetric")], ids=str)
def test_levels_of_your_own_have_no_blocks(split):
    with pytest.raises(NetgraphError, match="need a hierarchy of networks"):
        begin(OwnLevels(), split)


def test_a_wrong_word_is_refused():
    for wrong in ({"blocks": "half"}, {"moments": "half"}, {"kind": "half"}):
        with pytest.raises(NetgraphError, match="Choose one of"):
            Options(split=Split(**wrong))


def test_cycles_run_on_levels_without_blocks():
    data, model = batches(), chain()
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 6), directions="depth", blocks=0)
    before = mean_loss(model, data)
    gate = {"gap": float("inf"), "tau": float("inf"), "kappa": 0.0, "share": float("inf")}
    options = Options(Smoothing(2, 2, 4), gate=partial(ng.fas.Gate, **gate)())
    FAS("v", torch.optim.Adam, 1e-2, cycles=6, options=options).solve(hierarchy, Problem(data, cross_entropy))
    assert mean_loss(model, data) < before
    assert {n for n in live_state(hierarchy.levels[1].model) if n[0] in "1234"} == set()
