"""Channels merge inside the groups of a group norm by default, and whole groups merge on request."""

import pytest
import torch
from torch import nn

import netgraph as ng

IMAGES = torch.zeros(2, 3, 8, 8)


def make_network(groups=4, width=16):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.GroupNorm(groups, width),
        nn.SiLU(),
        nn.Conv2d(width, 8, 3, padding=1),
        nn.GroupNorm(1, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def clone_channels(net, groups):
    """Make the second half of the channels of each group copies of the first half."""
    with torch.no_grad():
        for p in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            grouped = p.view(groups, -1, *p.shape[1:])
            half = grouped.shape[1] // 2
            grouped[:, half:] = grouped[:, :half].clone()
    return net


def relative_error(hierarchy, net):
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((hierarchy.levels[1].model(x) - net(x)).norm() / net(x).norm())


@pytest.mark.parametrize(("groups", "width"), [(4, 16), (2, 16), (8, 16), (1, 16)])
def test_channels_that_were_cloned_in_each_group_merge_without_a_change(groups, width):
    net = clone_channels(make_network(groups, width), groups)
    ratios = {"*": 1.0, "0#2" if groups > 1 else "0": 0.5}
    hierarchy = ng.build_hierarchy(net, IMAGES, ratio=ratios, n_levels=2)
    assert hierarchy.levels[1].model.state_dict()["0.weight"].shape[0] == width // 2
    assert relative_error(hierarchy, net) < 1e-6


def test_groups_stay_whole_in_number_unless_a_ratio_names_them():
    net = make_network()
    assert "0" not in ng.build_hierarchy(net, IMAGES, n_levels=2).levels[1].transfers
    whole = ng.build_hierarchy(net, IMAGES, ratio={"*": 1.0, "0": 0.5}, n_levels=2)
    assert {name: t.n_coarse for name, t in whole.levels[1].transfers.items()} == {"0": 2}
    assert whole.levels[1].model.state_dict()["0.weight"].shape[0] == 8


def test_whole_groups_that_are_copies_merge_without_a_change():
    net = make_network()
    with torch.no_grad():
        for p in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            p[8:] = p[:8].clone()
    hierarchy = ng.build_hierarchy(net, IMAGES, ratio={"*": 1.0, "0": 0.5}, n_levels=2)
    assert relative_error(hierarchy, net) < 1e-6


def test_both_oracles_hold_for_groups_channels_and_both_together():
    net = make_network()
    verdicts = ng.verify(net, ng.trace(net, IMAGES), torch.randn(2, 3, 8, 8))
    assert all(verdict.error is None or verdict.error < 1e-10 for verdict in verdicts)
    assert {verdict.axes for verdict in verdicts} >= {("0",), ("0#2",)}


def test_groups_with_one_channel_each_merge_as_channels():
    net = make_network(groups=16)
    axis = ng.trace(net, IMAGES).axes["0"]
    assert axis.inner is None
    assert axis.kept is None


def test_a_budget_may_choose_groups_and_channels():
    net = clone_channels(make_network(), 4)
    level = ng.build_hierarchy(net, IMAGES, budget="error=0.001", n_levels=2).levels[1]
    assert "0#2" in level.transfers


def test_heads_that_a_group_norm_normalizes_merge_whole():
    class Retention(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.norm, self.out = nn.Linear(6, 16), nn.GroupNorm(4, 16), nn.Linear(16, 3)

        def forward(self, x):
            heads = self.value(x).unflatten(-1, (4, 4)) * 2
            return self.out(self.norm(heads.flatten(-2)))

    spec = ng.trace(Retention(), torch.zeros(3, 6))
    assert spec.axes["value"].inner is None
    assert spec.axes["value"].kept is None
    assert "whose units merge whole" in spec.axes["value#2"].kept
