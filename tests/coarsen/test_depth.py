"""Depth: chains of residual blocks are found and cut like by hand, and their maps obey the laws of transfers."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.analysis.remove_blocks import drop_blocks
from netgraph.analysis.residual_chains import Chain, find_chains
from netgraph.coarsen.directions.depth import ChainCoarsening, DepthMap, build_block_graph, coarsen_chain
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.cnn import resnet
from netgraph.models.transformer import Decoder, Encoder
from netgraph.recording.recorder import named_state

PIXELS, TOKENS = torch.randn(4, 3, 16, 16), torch.randint(1, 50, (4, 12))
SMALL = {"width": 16, "n_hidden": 24, "n_heads": 2, "length": 12}


class Residual(nn.Module):
    """x + f(x), f two linear layers."""

    def __init__(self, n=6, n_hidden=9):
        super().__init__()
        self.norm = nn.LayerNorm(n)
        self.up, self.down = nn.Linear(n, n_hidden), nn.Linear(n_hidden, n)

    def branch(self, x):
        return self.down(torch.tanh(self.up(self.norm(x))))

    def forward(self, x):
        return x + self.branch(x)


def residual_chain(n_blocks, **sizes):
    return nn.Sequential(nn.Linear(5, 6), *(Residual(**sizes) for _ in range(n_blocks)), nn.Linear(6, 3))


def randomize_norms(model):
    """Randomize norms, because new ones are all alike."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data += 0.1 * torch.rand_like(tensor) if "var" in name else 0.1 * torch.randn_like(tensor)
    return model


NETWORKS = {
    "resnet": (lambda: randomize_norms(resnet(3, width=4)), PIXELS, ["stage1.0", "stage1.1", "stage1.2"], "stage1.{}"),
    "encoder": (lambda: Encoder(50, 2, depth=4, **SMALL), TOKENS, [f"blocks.{i}" for i in range(4)], "blocks.{}"),
    "decoder": (lambda: Decoder(50, depth=3, **SMALL), TOKENS, [f"blocks.{i}" for i in range(3)], "blocks.{}"),
    "layers": (lambda: residual_chain(3), torch.randn(4, 5), ["1", "2", "3"], "{}"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_alike_residual_blocks_are_found_in_the_order_in_which_they_run(name):
    make, example, blocks, _ = NETWORKS[name]
    found, _ = find_chains(ng.trace(make(), example))
    assert list(found[0].blocks) == blocks


def test_the_ends_are_the_last_layer_of_every_branch_or_the_affine_part_of_its_norm():
    assert find_chains(ng.trace(resnet(3, width=4), PIXELS))[0][0].ends == {"bn2.weight", "bn2.bias"}
    ends = find_chains(ng.trace(Encoder(50, 2, depth=2, **SMALL), TOKENS))[0][0].ends
    assert ends == {"attention.out.weight", "attention.out.bias", "down.weight", "down.bias"}


class Scaled(Residual):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x + self.gamma * self.branch(x)


class Gated(Residual):
    def forward(self, x):
        return x + self.branch(x) * torch.sigmoid(self.branch(x))


class After(Residual):
    def forward(self, x):
        return self.norm(x + self.down(torch.tanh(self.up(x))))


class Branching(nn.Module):
    """A decoder that reads the results inside a chain of blocks, like a U-Net."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Residual() for _ in range(3)]), nn.Linear(6, 3)

    def forward(self, x):
        a = self.blocks[0](x)
        b = self.blocks[2](self.blocks[1](a))
        return self.head(a + b)


def test_a_scale_of_the_layer_is_the_end_of_its_branch():
    found, _ = find_chains(ng.trace(nn.Sequential(Scaled(), Scaled()), torch.randn(4, 6)))
    assert found[0].ends == {"gamma"}


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (nn.Sequential(Gated(), Gated()), "which no parameters scale"),
        (nn.Sequential(After(), After()), "post-norm"),
        (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), "does not end in a sum"),
        (nn.Sequential(Residual(), nn.Tanh(), Residual()), "does not read the output of"),
    ],
)
def test_blocks_that_could_not_be_halved_are_refused_with_the_reason(network, why):
    found, reasons = find_chains(ng.trace(network, torch.randn(4, 6)))
    assert found == []
    assert any(why in reason for reason in reasons)
    with pytest.raises(NothingToMergeError, match="alike residual blocks"):
        ng.build_hierarchy(network, torch.randn(4, 6), directions="depth")


def test_a_block_whose_result_is_read_elsewhere_ends_a_chain():
    found, _ = find_chains(ng.trace(Branching(), torch.randn(4, 6)))
    assert [chain.blocks for chain in found] == [("blocks.1", "blocks.2")]


def remove_by_hand(model, pattern, dropped):
    """Remove modules from a copy by hand."""
    own = copy.deepcopy(model)
    for block in dropped:
        parent = own.get_submodule(pattern.format("").rstrip("."))
        del parent._modules[block.rsplit(".", 1)[-1]]
    return own


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_network_equals_the_one_with_blocks_removed_by_hand(name, training):
    make, example, blocks, pattern = NETWORKS[name]
    model, dropped = make(), blocks[1:2]
    spec = drop_blocks(ng.trace(model, example), named_state(model), dropped)
    state = {n: t.clone() for n, t in traced_state(model).items() if n in spec.parameters}
    cut, owner = coarse_network(model, spec, {}, state=state).train(training), remove_by_hand(model, pattern, dropped)
    owner.train(training)
    torch.manual_seed(1)
    wanted = owner(example)
    torch.manual_seed(1)
    torch.testing.assert_close(cut(example), wanted)
    for n, t in owner.state_dict().items():  # running statistics too
        if pattern != "{}":
            torch.testing.assert_close(cut.state_dict()[n], t)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_chain_without_blocks_passes_its_input_on(name, training):
    make, example, blocks, _ = NETWORKS[name]
    model = make()
    hierarchy = ng.build_hierarchy(model, example, directions="depth", blocks=0)
    gone = [block for step in hierarchy.levels[1].chains for block in step.dropped]
    assert gone[: len(blocks)] == blocks
    owner = copy.deepcopy(model)
    for block in gone:
        parent, _, last = block.rpartition(".")
        del owner.get_submodule(parent)._modules[last]
    coarse = hierarchy.levels[1].model.train(training)
    torch.manual_seed(1)
    wanted = owner.train(training)(example)
    torch.manual_seed(1)
    torch.testing.assert_close(coarse(example), wanted)
    assert not [n for n in coarse.state_dict() if n.startswith(tuple(f"{block}." for block in gone))]


def test_what_others_compute_from_the_input_of_a_chain_stays():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.blocks = nn.Linear(6, 6), nn.Sequential(Residual(), Residual())

        def forward(self, x):
            x = self.first(x)
            return self.blocks(x) * torch.sigmoid(x)

    model, x = Beside(), torch.randn(4, 6)
    coarse = ng.build_hierarchy(model, x, directions="depth", blocks=0).levels[1].model
    y = model.first(x)
    torch.testing.assert_close(coarse(x), y * torch.sigmoid(y))


def test_a_module_that_is_no_block_of_a_chain_cannot_be_cut():
    model = residual_chain(2)
    with pytest.raises(NetgraphError, match="0 is no block of a chain"):
        drop_blocks(ng.trace(model, torch.randn(2, 5)), named_state(model), ["0"])


@pytest.mark.parametrize(("n", "blocks"), [(n, blocks) for n in (2, 3, 5, 8) for blocks in (0, 1, 2, 4) if blocks < n])
def test_a_step_goes_straight_to_a_number_of_blocks(n, blocks, tmp_path):
    model, x = residual_chain(n), torch.randn(4, 5)
    hierarchy = ng.build_hierarchy(model, x, directions="depth", blocks=blocks)
    (step,) = hierarchy.levels[1].chains
    assert len(step.kept) == blocks
    runs = [len(step.members(block)) for block in step.kept]
    assert sum(runs) == (n if blocks else 0)
    assert (np.diff(step.transfer.aggregates) >= 0).all()  # runs of neighbours
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    again = ng.load(tmp_path / "net.hierarchy")
    torch.testing.assert_close(again.levels[1].model(x), hierarchy.levels[1].model(x))
    assert again.options.blocks == blocks


def test_a_number_of_blocks_is_refused_where_it_says_nothing():
    model, x = residual_chain(3), torch.randn(4, 5)
    with pytest.raises(NetgraphError, match=r"blocks \(--blocks\) is -1"):
        ng.build_hierarchy(model, x, directions="depth", blocks=-1)
    with pytest.raises(NetgraphError, match="merges none"):
        ng.build_hierarchy(model, x, blocks=1)
    with pytest.raises(NothingToMergeError, match="of 3 keeps every block"):
        ng.build_hierarchy(model, x, directions="depth", blocks=3)


# the maps


def aggregates_of(cuts):
    return Transfer(np.cumsum([0, *cuts]))


def random_state(n_blocks, generator):
    shapes = {"up.weight": (3, 2), "up.bias": (3,), "down.weight": (2, 3)}
    return {
        f"body.{i}.{name}": torch.randn(shape, generator=generator, dtype=torch.float64)
        for i in range(n_blocks)
        for name, shape in shapes.items()
    } | {"head.weight": torch.randn(4, 2, generator=generator, dtype=torch.float64)}


@pytest.mark.parametrize("ends", [frozenset(["down.weight"]), frozenset()], ids=["split", "copied"])
@given(cuts=st.lists(st.integers(0, 1), min_size=1, max_size=6), seed=st.integers(0, 2**16))
def test_maps_of_depth_hold_the_laws_of_transfers(ends, cuts, seed):
    n = len(cuts) + 1
    chain = Chain(tuple(f"body.{i}" for i in range(n)), ("up.weight", "up.bias", "down.weight"), ends)
    maps, generator = DepthMap([ChainCoarsening(chain, aggregates_of(cuts))]), torch.Generator().manual_seed(seed)
    fine = random_state(n, generator)
    coarse = {name: torch.randn_like(t) for name, t in maps.inject(fine).items()}

    def inner(a, b):
        return sum(float((a[name] * b[name]).sum()) for name in a)

    torch.testing.assert_close(maps.inject(maps.prolong(coarse)), coarse)  # R P = I
    torch.testing.assert_close(maps.restrict(maps.distribute(coarse)), coarse)
    assert maps.prolong(coarse).keys() == fine.keys()
    assert inner(maps.prolong(coarse), fine) == pytest.approx(inner(coarse, maps.restrict(fine)))
    assert inner(maps.inject(fine), coarse) == pytest.approx(inner(fine, maps.distribute(coarse)))
    squares = {name: t.square() for name, t in fine.items()}
    assert all((t >= 0).all() for t in maps.restrict(squares, squared=True).values())
    families = [member for name in coarse for member in maps.family(name)]
    assert sorted(families) == sorted(fine)


def test_blocks_that_are_left_out_go_neither_down_nor_up():
    chain = Chain(("body.0", "body.1"), ("up.weight", "up.bias", "down.weight"), frozenset(["down.weight"]))
    maps = DepthMap([ChainCoarsening(chain, Transfer(np.full(2, -1)))])
    fine = random_state(2, torch.Generator().manual_seed(0))
    for down in (maps.inject(fine), maps.restrict(fine), maps.restrict(fine, squared=True)):
        assert down.keys() == {"head.weight"}
        assert maps.prolong(down).keys() == maps.distribute(down).keys() == {"head.weight"}


def test_second_moments_go_by_the_squared_entries_of_the_matrices():
    chain = Chain(("a", "b"), ("w", "end"), frozenset(["end"]))
    maps = DepthMap([ChainCoarsening(chain, Transfer(np.array([0, 0])))])
    # prolong of an end is (1/2, 1/2)', of the rest (1, 1)'; inject of an end is (1, 1), of the rest (1/2, 1/2)
    moments = {"a.w": 1.0, "b.w": 3.0, "a.end": 4.0, "b.end": 8.0}
    down = maps.restrict({n: torch.tensor([v]) for n, v in moments.items()}, squared=True)
    assert {n: float(t) for n, t in down.items()} == {"a.w": 4.0, "a.end": 3.0}
    up = maps.distribute({"a.w": torch.tensor([8.0]), "a.end": torch.tensor([8.0])}, squared=True)
    assert {n: float(t) for n, t in up.items()} == {"a.w": 2.0, "b.w": 2.0, "a.end": 8.0, "b.end": 8.0}


def test_an_incomplete_family_is_left_out():
    chain = Chain(("a", "b"), ("w",), frozenset())
    maps = DepthMap([ChainCoarsening(chain, Transfer(np.array([0, 0])))])
    assert maps.restrict({"a.w": torch.ones(1), "c": torch.ones(1)}).keys() == {"c"}


def test_counts_of_batch_norms_stay_whole_numbers():
    model = resnet(2, width=4)
    hierarchy = ng.build_hierarchy(model, PIXELS, directions="depth")
    coarse = build_level_maps(hierarchy.levels[1]).inject(traced_state(model))
    assert coarse["stage1.0.bn1.num_batches_tracked"].dtype == torch.int64


# prolongation and the function


def zero_ends(model, found):
    for chain in found:
        for name in chain.ends:
            for full in chain.names_in_blocks(name):
                model.get_parameter(full).data.zero_()


@pytest.mark.parametrize("directions", ["depth", "channels+depth", "channels,depth", "depth,channels"])
@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_where_branches_are_zero_prolongation_keeps_the_function(name, directions):
    make, example, _, _ = NETWORKS[name]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    found, _ = find_chains(ng.trace(model, example))
    zero_ends(model, found)
    hierarchy = ng.build_hierarchy(model, example, directions=directions, n_levels=2 + directions.count(","))
    coarse = hierarchy.levels[-1].model
    state = traced_state(coarse)
    for level in reversed(hierarchy.levels[1:]):
        state = build_level_maps(level).prolong({n: t for n, t in state.items() if not n.startswith("constants.")})
    for training in (True, False):
        fine = copy.deepcopy(model).train(training)
        wanted = copy.deepcopy(coarse).train(training)(example)
        found_ = functional_call(fine, {n: t.clone() for n, t in state.items()}, (example,))
        assert float(((found_ - wanted).norm() / wanted.norm()).detach()) < 1e-5


def test_the_prolonged_pair_differs_by_a_quarter_of_the_derivative_along_the_branch():
    """x + f/2 + f(x + f/2)/2 - (x + f) = f' f / 4 + O(f^3), for f of size eps: a closed form by forward derivatives."""
    block, x = Residual().double(), torch.randn(4, 6, dtype=torch.float64)
    errors = []
    for eps in (1e-2, 1e-3):
        small = copy.deepcopy(block)
        for p in small.down.parameters():
            p.data *= eps
        half = copy.deepcopy(small)
        for p in half.down.parameters():
            p.data /= 2
        _, derivative = jvp(small.branch, (x,), (small.branch(x),))
        difference = half(half(x)) - small(x)
        errors.append(float((difference - derivative / 4).detach().abs().max()))
        assert float(difference.detach().abs().max()) < 2 * eps**2
    assert errors[1] < errors[0] / 500  # of third order


def test_at_zero_branches_tau_is_zero():
    model = residual_chain(4).double()
    zero_ends(model, find_chains(ng.trace(model, torch.randn(2, 5).double()))[0])
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 5).double(), directions="depth")
    maps, inputs, targets = HierarchyMaps(hierarchy), torch.randn(8, 5).double(), torch.randint(3, (8,))
    fine_x = maps.prolong(0, maps.inject(0, traced_state(model)))
    model.load_state_dict(fine_x)
    gradients = []
    for network in maps.models:
        loss = cross_entropy(network(inputs), targets)
        gradients.append(
            dict(
                zip(
                    [n for n, _ in network.named_parameters()],
                    torch.autograd.grad(loss, list(network.parameters())),
                    strict=True,
                )
            )
        )
    restricted = maps.restrict(0, gradients[0])
    assert restricted.keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(restricted[name], gradient)


# pairs along the chain


def test_blocks_that_are_alike_merge_and_only_neighbours_do():
    chain = Chain(tuple(f"b.{i}" for i in range(5)), ("w",), frozenset())
    numbers = [1.0, 2.0, 2.1, -3.0, -3.1]
    state = {f"b.{i}.w": torch.tensor([x, 1.0]) for i, x in enumerate(numbers)}
    found = coarsen_chain(chain, state, 0.5)
    assert found is not None
    assert [found.members(block) for block in found.kept] == [("b.0",), ("b.1", "b.2"), ("b.3", "b.4")]
    dense = build_block_graph(chain, state).adjacency.toarray()
    cosine = (2.0 * 2.1 + 1) / np.sqrt((4 + 1) * (2.1**2 + 1))
    assert dense[1, 2] == pytest.approx((1 + cosine) / 2)
    assert np.count_nonzero(dense) == 8
    assert (np.diff(found.transfer.aggregates) >= 0).all()


@pytest.mark.parametrize("n", range(2, 10))
def test_half_of_a_chain_is_half_of_its_blocks_rounded_up(n):
    chain = Chain(tuple(f"b.{i}" for i in range(n)), ("w",), frozenset())
    found = coarsen_chain(chain, {f"b.{i}.w": torch.randn(8) for i in range(n)}, 0.5)
    assert found is not None
    assert (n + 1) // 2 <= len(found.kept) <= (n + 1) // 2 + 1
    assert found.transfer.sizes.max() == 2


# as levels of a hierarchy


def test_a_hierarchy_of_every_direction_is_saved_and_found_again(tmp_path):
    model = randomize_norms(resnet(3, width=4))
    hierarchy = ng.build_hierarchy(model, PIXELS, directions="channels+space,depth", n_levels=3)
    assert "depth 7 -> 4" in str(hierarchy)
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    for level in hierarchy.levels:
        level.seconds = None  # a file does not hold them
    for arch in (lambda: resnet(3, width=4), None):
        again = ng.load(tmp_path / "net.hierarchy", arch=arch)
        assert str(again) == str(hierarchy)
        maps, others = HierarchyMaps(hierarchy), HierarchyMaps(again)
        state = traced_state(model)
        for level, (a, b) in enumerate(zip(hierarchy.levels[1:], again.levels[1:], strict=True)):
            torch.testing.assert_close(a.model.eval()(PIXELS), b.model.eval()(PIXELS))
            torch.testing.assert_close(maps.inject(level, state), others.inject(level, state))
            state = maps.inject(level, state)


def test_copied_blocks_are_averaged_and_copied_in_a_saved_hierarchy_too(tmp_path):
    model = randomize_norms(residual_chain(2))
    hierarchy = ng.build_hierarchy(model, torch.randn(4, 5), directions="depth", depth_by="copy")
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    for found in (hierarchy, ng.load(tmp_path / "net.hierarchy", arch=lambda: residual_chain(2))):
        assert found.options.depth_by == "copy"
        coarse = traced_state(found.levels[1].model)
        fine = build_level_maps(found.levels[1]).prolong(
            {n: t for n, t in coarse.items() if not n.startswith("constants.")}
        )
        (step,), own = found.levels[1].chains, model.state_dict()
        for name in step.chain.names:
            second = own[f"2.{name}"]
            for dim, order in step.orders.get(f"2.{name}", {}).items():
                second = second.index_select(dim, torch.as_tensor(order))
            torch.testing.assert_close(coarse[f"1.{name}"], (own[f"1.{name}"] + second) / 2)
            torch.testing.assert_close(fine[f"1.{name}"], coarse[f"1.{name}"])
        x = torch.randn(3, 6)
        block = copy.deepcopy(model[1])
        block.load_state_dict({name: coarse[f"1.{name}"] for name in step.chain.names})
        both = functional_call(model[1:3], {n: fine[n] for n in model[1:3].state_dict()}, (x,))
        torch.testing.assert_close(both, block(block(x)))  # two whole steps, whatever the order of units inside


def test_an_unknown_depth_by_is_refused():
    with pytest.raises(NetgraphError, match=r"depth_by is 'halve'\. Give split or copy"):
        ng.build_hierarchy(residual_chain(2), torch.randn(4, 5), directions="depth", depth_by="halve")


def test_blocks_that_have_merged_to_different_sizes_form_no_chain():
    ratios = {"*": 0.5, "2.up": 0.25}
    hierarchy = ng.build_hierarchy(
        residual_chain(4, n_hidden=8), torch.randn(4, 5), directions="channels,depth", n_levels=3, ratio=ratios
    )
    (step,) = hierarchy.levels[2].chains
    assert step.chain.blocks == ("3", "4")
    widths = [tuple(hierarchy.levels[2].model.state_dict()[f"{i}.up.weight"].shape) for i in (1, 2, 3)]
    assert [hidden for hidden, _ in widths] == [4, 2, 4]


@pytest.mark.parametrize("cycle", ["kaskade", "full", "v", "additive"])
def test_fas_cycles_over_levels_of_every_direction(cycle):
    model = resnet(2, n_classes=3, width=4)
    hierarchy = ng.build_hierarchy(model, PIXELS, directions="depth,channels+space", n_levels=3)
    targets = torch.tensor([0, 1, 2, 1])
    problem = Problem([(PIXELS, targets), (PIXELS.flip(3), targets)], cross_entropy)
    before = float(cross_entropy(model.train()(PIXELS), targets).detach())
    solution = FAS(cycle, torch.optim.AdamW, 1e-2, epochs=20).solve(hierarchy, problem)
    assert solution.model is model
    assert float(cross_entropy(model.train()(PIXELS), targets).detach()) < before
    assert all(t.isfinite().all() for t in model.state_dict().values())


def test_levels_with_channels_innermost_train_as_others_do():
    trained = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(3)
        model = resnet(2, n_classes=3, width=4).double()
        pixels, targets = torch.randn(4, 3, 16, 16).double(), torch.tensor([0, 1, 2, 1])
        hierarchy = ng.build_hierarchy(model, pixels, directions="channels+depth")
        for level in hierarchy.levels:
            level.model.to(memory_format=layout)
        FAS("full", torch.optim.AdamW, 1e-3, epochs=4).solve(hierarchy, Problem([(pixels, targets)] * 2, cross_entropy))
        assert model[0][0].weight.is_contiguous(memory_format=layout)
        trained.append({name: p.detach().clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*trained)


def test_pages_and_figures_leave_out_units_of_merged_blocks(tmp_path):
    hierarchy = ng.build_hierarchy(resnet(3, width=4), PIXELS, directions="channels,depth", n_levels=3)
    ng.export(hierarchy, tmp_path / "net.html")
    ng.export(hierarchy, tmp_path / "net.level1.P.mtx")
    with pytest.raises(NetgraphError, match="merges blocks"):
        ng.export(hierarchy, tmp_path / "net.P.mtx")
    assert "depth 7 -> 4" in hierarchy._repr_html_().replace("&gt;", ">")


class FourierBlock(nn.Module):
    """x + f(x), f a product with complex weights of the frequencies."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)
        self.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.cfloat))

    def forward(self, x):
        return x + self.down((self.up(x).to(torch.cfloat) @ self.weight).abs())


def test_complex_weights_of_blocks_are_averaged_as_pairs_of_real_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), *(FourierBlock() for _ in range(4)), nn.Linear(6, 3))
    level = ng.build_hierarchy(model, torch.randn(3, 5), directions="depth").levels[1]
    maps = build_level_maps(level)
    fine, coarse = traced_state(model), traced_state(level.model)
    merged = [name for name, tensor in coarse.items() if tensor.is_complex() and len(maps.family(name)) > 1]
    assert merged
    parts = {name: t.real if t.is_complex() else t for name, t in fine.items()}
    turned = {name: t.imag if t.is_complex() else t for name, t in fine.items()}
    for name in merged:
        torch.testing.assert_close(maps.inject(fine)[name], coarse[name])
        torch.testing.assert_close(coarse[name].real, maps.inject(parts)[name])
        torch.testing.assert_close(coarse[name].imag, maps.inject(turned)[name])
    torch.testing.assert_close(maps.inject(maps.prolong(coarse)), coarse)


def test_blocks_with_complex_weights_that_are_alike_up_to_the_order_of_units_merge_exactly():
    torch.manual_seed(0)
    blocks = [FourierBlock() for _ in range(2)]
    order = torch.randperm(6)
    with torch.no_grad():
        blocks[1].load_state_dict(blocks[0].state_dict())
        blocks[1].weight.copy_(blocks[0].weight[:, order])
        blocks[1].down.weight.copy_(blocks[0].down.weight[:, order])
    model = nn.Sequential(nn.Linear(5, 6), *blocks, nn.Linear(6, 3))
    level = ng.build_hierarchy(model, torch.randn(3, 5), directions="depth").levels[1]
    torch.testing.assert_close(traced_state(level.model)["1.weight"], blocks[0].weight.detach())


def two_chains():
    """Two chains of four blocks, with a layer between them."""
    torch.manual_seed(0)
    wide = (Residual(8, 12) for _ in range(4))
    return nn.Sequential(nn.Linear(5, 6), *(Residual() for _ in range(4)), nn.Linear(6, 8), *wide, nn.Linear(8, 3))


def count_blocks(level, first, last):
    names = {name.split(".")[0] for name in traced_state(level.model)}
    return len([block for block in range(first, last) if str(block) in names])


@pytest.mark.parametrize(
    ("directions", "n_levels", "ratio", "blocks", "units"),
    [
        ("depth", 2, {"1": 0.25}, (1, 2), 9), ("depth", 2, {"*": 1.0, "6": 0.5}, (4, 2), 9), ("depth", 2, {"1": 1.0}, (4, 2), 9),
        ("channels,depth", 3, {"1": 0.25}, (1, 2), 4), ("channels+depth", 2, {"*": 1.0, "1": 0.25, "1.up": 1 / 3}, (1, 4), 3),
        ("depth", 3, {"*": 1.0, "6": 0.5}, (4, 1), 9),
    ],
)  # fmt: skip
def test_a_ratio_by_name_is_that_of_an_axis_or_of_a_chain(directions, n_levels, ratio, blocks, units):
    hierarchy = ng.build_hierarchy(
        two_chains(), torch.randn(2, 5), directions=directions, n_levels=n_levels, ratio=ratio
    )
    last = hierarchy.levels[-1]
    assert (count_blocks(last, 1, 5), count_blocks(last, 6, 10)) == blocks
    assert abs(len(traced_state(last.model)["1.up.bias"]) - units) <= 1


def test_what_is_left_of_a_chain_keeps_its_ratio():
    """Block 1 gets fewer units than the others, which then are a chain of three that block 2 begins."""
    options = {"directions": "channels,depth", "n_levels": 3, "ratio": {"1": 0.25, "1.up": 0.25, "6": 1.0}}
    last = ng.build_hierarchy(two_chains(), torch.randn(2, 5), **options).levels[-1]
    assert (count_blocks(last, 1, 2), count_blocks(last, 2, 5), count_blocks(last, 6, 10)) == (1, 1, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"directions": "depth", "ratio": {"1.up": 0.5}}, "axis '1.up' has a ratio, but depth merges no units. .* add channels"),
        ({"ratio": {"1": 0.5}}, "chain '1' has a ratio, but channels merges no blocks. .* add depth"),
        ({"directions": "depth", "ratio": {"2": 0.5}}, r"no chain is named '2'. Chains, named by their first blocks, are 1, 6\."),
        ({"directions": "channels,depth", "n_levels": 3, "ratio": {"up": 0.5}}, r"no axis or chain is named 'up'. Axes .* are 0, 1.up, .* Chains"),
        ({"directions": "depth", "ratio": {"1": 0.5}, "blocks": 1}, r"chain '1' has a ratio, but blocks \(--blocks\) says"),
    ],
)  # fmt: skip
def test_a_ratio_that_nothing_takes_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(NetgraphError, match=sentence):
        ng.build_hierarchy(two_chains(), torch.randn(2, 5), **options)
