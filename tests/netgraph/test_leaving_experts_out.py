"""Single experts may go, and the router follows: the others are chosen as before, as many for each token.

The judge is the network itself, whose router is told never to choose the experts that go.
"""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng


class Experts(nn.Module):
    def __init__(self, k, n_experts=8, *, bias=True):
        super().__init__()
        self.k = k
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, n_experts), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(n_experts, 8, 10))
        self.down = nn.Parameter(torch.randn(n_experts, 10, 8))

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(self.k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        numbers = chosen.reshape(-1)
        rows = x.repeat_interleave(self.k, 0)
        hidden = torch.bmm(rows.unsqueeze(1), self.up[numbers]).relu()
        out = torch.bmm(hidden, self.down[numbers]).squeeze(1)
        return self.last((out.view(len(x), self.k, -1) * weights.unsqueeze(-1)).sum(1))


def make_experts(k, **sizes):
    torch.manual_seed(0)
    return Experts(k, **sizes).double().eval()


def draw(n=7):
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def never_choose(network, experts):
    """Return the network with a router that does not choose some experts."""
    with torch.no_grad():
        network.gate.bias[list(experts)] = -1e9
    return network


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_network_without_some_experts_is_the_one_that_never_chooses_them(k):
    network = make_experts(k)
    spec = ng.trace(network, draw())
    (layer,) = spec.experts
    axis = layer.units[0]
    kept = [0, 2, 3, 5, 7]
    coarse = ng.coarse_network(network, spec, {axis: ng.Transfer.selection(np.array(kept), 8)})
    assert coarse.get_parameter("gate.weight").shape == (5, 8)
    expected = never_choose(network, {1, 4, 6})
    with torch.no_grad():
        torch.testing.assert_close(coarse(draw(20)), expected(draw(20)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_coarsener_that_leaves_out_takes_any_number_of_experts(k):
    network = make_experts(k)
    axis = ng.trace(network, draw()).experts[0].units[0]
    hierarchy = ng.build_hierarchy(network, draw(), coarsener="magnitude", ratio={"*": 1.0, axis: 0.625}, n_levels=2)
    level = hierarchy.levels[1]
    assert level.model.get_parameter("up").shape[0] == 5
    gone = set(np.flatnonzero(level.transfers[axis].aggregates < 0).tolist())
    assert level.spec.axes[axis].fewest == k
    expected = never_choose(network, gone)
    with torch.no_grad():
        torch.testing.assert_close(level.model(draw(20)), expected(draw(20)))


def test_as_many_experts_stay_as_are_chosen():
    network = make_experts(3)
    axis = ng.trace(network, draw()).experts[0].units[0]
    hierarchy = ng.build_hierarchy(network, draw(), coarsener="magnitude", ratio={"*": 1.0, axis: 0.1}, n_levels=2)
    assert hierarchy.levels[1].model.get_parameter("up").shape[0] == 3
    with pytest.raises(ng.NetgraphError, match="3 are chosen for each row"):
        ng.coarse_network(network, ng.trace(network, draw()), {axis: ng.Transfer.selection(np.array([0, 1]), 8)})


def test_experts_that_merge_after_others_have_gone():
    network = make_experts(2)
    spec = ng.trace(network, draw())
    axis = spec.experts[0].units[0]
    merged = ng.Transfer(np.array([0, 0, 1, 1, -1, -1, 2, 2]))
    with torch.no_grad():
        for name in ("up", "down", "gate.weight", "gate.bias"):
            p = network.get_parameter(name)
            p[1::2] = p[::2]
    coarse = ng.coarse_network(network, spec, {axis: merged})
    expected = never_choose(network, {4, 5})
    with torch.no_grad():
        torch.testing.assert_close(coarse(draw(20)), expected(draw(20)))


def test_experts_that_cannot_merge_are_kept_unless_units_are_left_out():
    network = make_experts(1)
    axis = ng.trace(network, draw()).experts[0].units[0]
    with pytest.raises(ng.NetgraphError, match="leave single units out with coarsener 'magnitude'"):
        ng.build_hierarchy(network, draw(), ratio={"*": 1.0, axis: 0.5}, n_levels=2)
    assert ng.build_hierarchy(network, draw(), n_levels=2).levels[1].model.get_parameter("up").shape[0] == 8
