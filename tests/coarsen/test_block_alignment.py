"""Block alignment: copies merge back in any order of their inner units, and the maps keep their laws."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.analysis.residual_chains import find_chains
from netgraph.coarsen.directions.block_alignment import align_blocks
from netgraph.coarsen.directions.depth import DepthMap, coarsen_chain
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.models.cnn import resnet
from netgraph.models.transformer import Encoder

PIXELS = torch.randn(4, 3, 16, 16)
TOKENS = torch.randint(1, 50, (4, 8))


def permute_channels(block, order):
    """Permute the inner channels of a residual block."""
    with torch.no_grad():
        block.conv1.weight.copy_(block.conv1.weight[order])
        block.conv2.weight.copy_(block.conv2.weight[:, order])
        for name, tensor in [*block.bn1.named_parameters(), *block.bn1.named_buffers()]:
            if tensor.ndim:
                getattr(block.bn1, name).data.copy_(tensor[order])


def twins(order):
    """A network whose first two blocks are copies, one with its inner channels in another order."""
    torch.manual_seed(1)
    model = resnet(2, width=6)
    with torch.no_grad():
        for tensor in model.stage1[0].bn1.running_mean, model.stage1[0].bn1.weight, model.stage1[0].bn1.bias:
            tensor += 0.3 * torch.randn_like(tensor)
    model.stage1[1].load_state_dict(model.stage1[0].state_dict())
    permute_channels(model.stage1[1], order)
    return model.eval()


@pytest.mark.parametrize("directions", ["depth", "depth,channels", "channels,depth"])
def test_copies_with_permuted_inner_channels_merge_into_the_original(directions):
    """The judge is the hierarchy of the same network with both blocks numbered alike."""
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    levels = [
        ng.build_hierarchy(twins(o), PIXELS, directions=directions, n_levels=2 + directions.count(","))
        for o in (order, torch.arange(6))
    ]
    found, wanted = ({n: t for n, t in traced_state(h.levels[-1].model).items() if "stage1" in n} for h in levels)
    for name in ("stage1.0.conv1.weight", "stage1.0.bn1.running_mean"):  # channels may be numbered in another order
        torch.testing.assert_close(found[name].flatten().sort().values, wanted[name].flatten().sort().values)
    a, b = (h.levels[-1].model.eval()(PIXELS) for h in levels)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_blocks_in_the_same_order_stay_bit_for_bit_the_same():
    hierarchy = ng.build_hierarchy(twins(torch.arange(6)), PIXELS, directions="depth")
    assert all("stage1" not in name for step in hierarchy.levels[1].chains for name in step.orders)


def test_the_order_found_agrees_most_of_all_orders():
    torch.manual_seed(2)
    model = resnet(2, width=4)
    spec, state = ng.trace(model, PIXELS), traced_state(model)
    chain = find_chains(spec)[0][0]
    step = align_blocks(spec, state, coarsen_chain(chain, state, 0.5))

    def agreement(order):
        a, b = model.stage1
        pairs = (a.conv1.weight, b.conv1.weight[order]), (a.conv2.weight, b.conv2.weight[:, order])
        return sum(float(((x * y).sum() / (x.norm() * y.norm())).detach()) for x, y in pairs)

    best = max(agreement(list(order)) for order in itertools.permutations(range(4)))
    found = step.orders.get("stage1.1.conv1.weight", {0: np.arange(4)})[0]
    assert agreement(found.tolist()) == pytest.approx(best)


@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_maps_with_orders_hold_the_laws_and_keep_the_function_of_zero_branches(name, tmp_path):
    torch.manual_seed(3)
    make = (
        (lambda: resnet(2, width=4))
        if name == "resnet"
        else (lambda: Encoder(50, 2, depth=2, width=8, n_hidden=12, n_heads=2, length=8))
    )
    model, example = make().double(), PIXELS.double() if name == "resnet" else TOKENS
    hierarchy = ng.build_hierarchy(model, example, directions="depth")
    step = hierarchy.levels[1].chains[0]
    assert step.orders, "random blocks are numbered as chance has it"
    maps, fine = DepthMap(hierarchy.levels[1].chains), {n: p.detach() for n, p in model.named_parameters()}
    coarse = {n: torch.randn_like(t) for n, t in maps.inject(fine).items()}

    def inner(a, b):
        return sum(float((a[n] * b[n]).sum()) for n in a)

    torch.testing.assert_close(maps.inject(maps.prolong(coarse)), coarse)
    assert inner(maps.prolong(coarse), fine) == pytest.approx(inner(coarse, maps.restrict(fine)))
    assert inner(maps.inject(fine), coarse) == pytest.approx(inner(fine, maps.distribute(coarse)))
    ng.save(hierarchy, tmp_path / "h.hierarchy")
    again = build_level_maps(ng.load(tmp_path / "h.hierarchy").levels[1])
    torch.testing.assert_close(
        again.inject(traced_state(model)), build_level_maps(hierarchy.levels[1]).inject(traced_state(model))
    )


def test_a_permuted_block_computes_the_same():
    """Permute every axis of an encoder block, heads and their inner dimensions included. The judge is its own forward pass."""
    torch.manual_seed(4)
    model = Encoder(50, 2, depth=2, width=16, n_hidden=12, n_heads=8, length=8).eval()
    (step,) = ng.build_hierarchy(model, TOKENS, directions="depth").levels[1].chains
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, dims in step.orders.items():
            for dim, order in dims.items():
                tensor = other.get_parameter(name)
                tensor.copy_(tensor.index_select(dim, torch.from_numpy(order)))
    assert {name.split(".")[2] for name in step.orders} >= {"attention", "up", "down"}
    torch.testing.assert_close(other(TOKENS), model(TOKENS))
    assert isinstance(other.blocks[1], nn.Module)
    assert not torch.equal(other.blocks[1].up.weight, model.blocks[1].up.weight)
