"""Affinities on data compare what experts answer, and what their neurons answer, on the same rows.

The judge computes every expert on every row with plain matrix products.
"""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.graph.activations import collect_activations

ROWS = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Experts(nn.Module):
    """Fused experts with biases. ``first`` says whether the looked-up matrix or the rows stand first in the products."""

    def __init__(self, k=2, n_experts=6, inner=8, *, first=True):
        super().__init__()
        self.k, self.first_operand = k, first
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, n_experts), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(n_experts, inner, 8) if first else torch.randn(n_experts, 8, inner))
        self.down = nn.Parameter(torch.randn(n_experts, 8, inner) if first else torch.randn(n_experts, inner, 8))
        self.bias = nn.Parameter(torch.randn(n_experts, 8))

    def multiply(self, table, numbers, rows):
        if self.first_operand:
            return torch.bmm(table[numbers], rows.unsqueeze(-1)).squeeze(-1)
        return torch.bmm(rows.unsqueeze(1), table[numbers]).squeeze(1)

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(self.k, -1)
        numbers = chosen.reshape(-1)
        hidden = self.multiply(self.up, numbers, x.repeat_interleave(self.k, 0)).relu()
        out = self.multiply(self.down, numbers, hidden) + self.bias[numbers]
        return self.last((out.view(len(x), self.k, -1) * weights.unsqueeze(-1)).sum(1))


def make_experts(**options):
    torch.manual_seed(0)
    return Experts(**options).double().eval()


def run_all(network, x):
    """Return the neurons and the outputs of every expert on every row, (experts, rows, ...)."""
    x = network.first(x)
    up, down = (network.up.mT, network.down.mT) if network.first_operand else (network.up, network.down)
    hidden = (x @ up).relu()
    return hidden, hidden @ down + network.bias[:, None]


@pytest.mark.parametrize("first", [True, False])
def test_every_expert_and_its_neurons_are_seen_on_all_rows(first):
    network = make_experts(first=first)
    spec = ng.trace(network, ROWS)
    seen = collect_activations(coarse_network(network, spec, {}), spec, [ROWS])
    with torch.no_grad():
        hidden, outputs = run_all(network, ROWS)
    experts = spec.experts[0].units[0]
    inner = next(axis.name for axis in spec.free if axis.within == experts)
    twice = outputs.repeat_interleave(2, 1)  # each row stands once for each expert that it chose
    torch.testing.assert_close(seen[experts], twice.flatten(1))
    torch.testing.assert_close(seen[inner], hidden.repeat_interleave(2, 1).mT.flatten(0, 1))


def test_experts_that_answer_alike_merge_by_their_outputs_though_their_weights_differ():
    network = make_experts(inner=8)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for expert in (0, 2, 4):  # the same function, with its neurons in another order and other scales
            order = torch.as_tensor(generator.permutation(8))
            scale = torch.as_tensor(generator.uniform(0.5, 2, 8))[:, None]
            network.up[expert + 1] = network.up[expert, order] * scale
            network.down[expert + 1] = network.down[expert][:, order] / scale.T
            network.bias[expert + 1] = network.bias[expert]
    axis = ng.trace(network, ROWS).experts[0].units[0]
    hierarchy = ng.build_hierarchy(
        network, ROWS, ratio={"*": 1.0, axis: 0.5}, affinity="correlation", data=ROWS, n_levels=2
    )
    aggregates = hierarchy.levels[1].transfers[axis].aggregates
    assert [len({*aggregates[[i, i + 1]].tolist()}) for i in (0, 2, 4)] == [1, 1, 1]


def test_neurons_merge_by_their_activations_in_each_expert():
    network = make_experts(inner=8)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for expert in range(6):
            order = generator.permutation(8)
            network.up[expert, order[4:]] = network.up[expert, order[:4]]
    spec = ng.trace(network, ROWS)
    axis = next(axis for axis in spec.free if axis.within)
    hierarchy = ng.build_hierarchy(
        network, ROWS, ratio={"*": 1.0, axis.name: 0.5}, affinity="correlation", data=ROWS, n_levels=2
    )
    with torch.no_grad():
        torch.testing.assert_close(hierarchy.levels[1].model(ROWS), network(ROWS))
