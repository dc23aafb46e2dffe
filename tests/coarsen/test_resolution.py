"""Space: a level of lower resolution is the network itself on averaged inputs. Directions combine level by level."""

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

import netgraph as ng
from netgraph.coarsen.directions.parse import parse_directions
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.models.cnn import resnet, vgg, wide_resnet
from netgraph.utils.module_state import swap_state

PIXELS = torch.randn(4, 3, 16, 16)


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


def seen(model):
    """Run batch norms in training mode, because the statistics of new ones are trivial."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 3, 16, 16))
    return model.eval()


NETWORKS = {
    "resnet": lambda: resnet(2, width=4),
    "wide": lambda: wide_resnet(10, 1, width=4),
    "vgg, two pools": lambda: vgg(3, width=4, pools=2),
    "vgg": lambda: nn.Sequential(*vgg(width=4).features[:8], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_level_of_lower_resolution_is_the_network_on_averaged_inputs(name):
    model = seen(NETWORKS[name]())
    hierarchy = ng.build_hierarchy(model, PIXELS, directions="space", n_levels=3)
    for (i, level), training in product(enumerate(hierarchy.levels[1:], start=1), (True, False)):
        own = copy.deepcopy(model).train(training)
        coarse = copy.deepcopy(level.model).train(training)
        assert relative(coarse(PIXELS), own(avg_pool2d(PIXELS, 2**i))) < 1e-6
        for key, tensor in own.state_dict().items():  # with the same running statistics
            torch.testing.assert_close(coarse.state_dict()[key], tensor)
        assert level.pool == 2**i
        assert f"space 1/{2**i}" in str(hierarchy)


def test_parameters_move_between_resolutions_unchanged():
    model = resnet(2, width=4)
    level = ng.build_hierarchy(model, PIXELS, directions="space").levels[1]
    state = traced_state(model)
    for moved in (
        build_level_maps(level).inject(state),
        build_level_maps(level).prolong(state),
        build_level_maps(level).restrict(state),
    ):
        torch.testing.assert_close(moved, state, rtol=0, atol=0)


def test_convolutions_of_half_the_resolution_cost_a_quarter():
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fine, coarse = ng.build_hierarchy(model, PIXELS, directions="space").levels
    assert fine.flops == 4 * coarse.flops


class ToLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16 * 16, 2)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("network", "example", "why"),
    [
        (ToLinear(), PIXELS, "does not run at 8 x 8"),
        (nn.Conv2d(3, 2, 3), PIXELS, "Space needs outputs of a fixed size, or images"),
        (vgg(width=4), torch.randn(2, 3, 32, 32), "does not run at 16 x 16"),
        (resnet(1, width=4), torch.randn(2, 3, 15, 16), "cannot be averaged 2 times lower"),
        (nn.Linear(6, 3), torch.randn(2, 6), "no input is one"),
    ],
)
def test_networks_that_have_one_resolution_are_refused_with_the_reason(network, example, why):
    with pytest.raises(NetgraphError, match=why):
        ng.build_hierarchy(network, example, directions="space")


def test_a_recorded_network_is_coarsened_in_space_too(tmp_path):
    model = seen(resnet(2, width=4))
    narrow = ng.build_hierarchy(model, PIXELS).levels[1].model
    ng.save(narrow, tmp_path / "narrow.safetensors")
    opened = ng.load_model(tmp_path / "narrow.safetensors")
    level = ng.build_hierarchy(opened, PIXELS, directions="space").levels[1]
    wanted = ng.build_hierarchy(model, PIXELS, directions="channels,space", n_levels=3).levels[2].model
    assert relative(level.model.eval()(PIXELS), wanted.eval()(PIXELS)) < 1e-6
    assert relative(opened(PIXELS), narrow.eval()(PIXELS)) < 1e-6  # and is left as it was


@pytest.mark.parametrize("directions", ["channels", "channels+space", "channels,space", "space,channels"])
@pytest.mark.parametrize("name", NETWORKS)
def test_cloned_channels_merge_back_alone_and_with_space(name, directions):
    """The network is made of clones by prolongation. Coarse levels then compute the same at their resolution."""
    model = seen(NETWORKS[name]())
    hierarchy = ng.build_hierarchy(model, PIXELS, directions=directions, n_levels=2 + directions.count(","))
    coarse = hierarchy.levels[-1]
    y = {n: t.clone() for n, t in traced_state(coarse.model).items()}
    x = y
    for level in reversed(hierarchy.levels[1:]):
        x = build_level_maps(level).prolong(x)
    again = x
    for level in hierarchy.levels[1:]:
        again = build_level_maps(level).inject(again)
    for key, tensor in y.items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-5, atol=1e-6)
    inputs = PIXELS if coarse.pool == 1 else avg_pool2d(PIXELS, coarse.pool)
    for training in (False, True):  # training moves the statistics of norms
        with swap_state(model.train(training), {n: t.clone() for n, t in x.items()}):
            wanted = model(inputs)
        assert relative(coarse.model.train(training)(PIXELS), wanted) < 1e-5


def test_running_statistics_of_coarse_levels_move_with_the_momentum_of_the_network():
    """running = (1 - momentum) running + momentum batch, on every level, and prolonged where units are copied."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8, momentum=0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    for directions in ("channels", "channels+space"):
        level = ng.build_hierarchy(model, PIXELS, directions=directions).levels[1]
        coarse = level.model.train()
        before = {n: t.clone() for n, t in coarse.named_buffers()}
        coarse(PIXELS)
        inputs = PIXELS if level.pool == 1 else avg_pool2d(PIXELS, 2)
        weight, bias = (coarse.get_parameter(f"0.{n}").detach() for n in ("weight", "bias"))
        maps = torch.nn.functional.conv2d(inputs, weight, bias, padding=1)
        mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
        torch.testing.assert_close(coarse.get_buffer("1.running_mean"), 0.7 * before["1.running_mean"] + 0.3 * mean)
        torch.testing.assert_close(coarse.get_buffer("1.running_var"), 0.7 * before["1.running_var"] + 0.3 * var)
        up = build_level_maps(level).prolong(traced_state(coarse))
        units = level.transfers["0"].aggregates
        torch.testing.assert_close(up["1.running_mean"], coarse.get_buffer("1.running_mean")[units])
        frozen = {n: t.clone() for n, t in coarse.named_buffers()}
        coarse.eval()(PIXELS)
        torch.testing.assert_close(dict(coarse.named_buffers()), frozen, rtol=0, atol=0)


def test_norms_are_estimated_again_at_the_resolution_of_a_level():
    model = seen(resnet(2, width=4))
    data = torch.randn(64, 3, 16, 16)
    level = ng.build_hierarchy(model, PIXELS, directions="space", repair="norms", data=data).levels[1]
    first = torch.nn.functional.conv2d(avg_pool2d(data, 2), model[0][0].weight, padding=1)
    torch.testing.assert_close(
        level.model.get_buffer("stem.1.running_mean"), first.mean((0, 2, 3)).detach(), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        level.model.get_buffer("stem.1.running_var"), first.var((0, 2, 3)).detach(), rtol=2e-2, atol=1e-4
    )


# how directions are written


def test_steps_are_written_with_commas_and_joined_by_plus():
    assert parse_directions("channels+space,depth", 4) == ({"channels", "space"}, {"depth"}, {"depth"})
    assert parse_directions(["space"], 2) == ({"space"},)


@pytest.mark.parametrize(
    ("asked", "n_levels", "why"),
    [
        ("chanels", 2, "no direction of coarsening is called 'chanels'"),
        ("", 2, "no direction"),
        ("channels,space,depth", 3, "names 3 steps, but 3 levels have only 2"),
    ],
)
def test_directions_that_cannot_be_taken_are_refused(asked, n_levels, why):
    with pytest.raises(NetgraphError, match=why):
        parse_directions(asked, n_levels)


def test_a_budget_for_units_that_do_not_merge_is_refused():
    with pytest.raises(NetgraphError, match="merges no units"):
        ng.build_hierarchy(resnet(1, width=4), PIXELS, directions="space", budget="units=0.5")


def test_a_direction_that_can_do_nothing_is_reported_and_the_others_go_on():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    level = ng.build_hierarchy(model, PIXELS, directions="channels+depth").levels[1]
    assert "alike residual blocks" in level.reasons["unable"]["depth"]
    with pytest.raises(NothingToMergeError, match="alike residual blocks"):
        ng.build_hierarchy(model, PIXELS, directions="depth")


def test_a_class_that_cannot_hold_a_level_is_refused():
    hierarchy = ng.build_hierarchy(resnet(2, width=4), PIXELS, directions="space")
    with pytest.raises(NetgraphError, match="another resolution"):
        ng.own_class(hierarchy, PIXELS)
