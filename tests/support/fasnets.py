"""Small networks, minibatches and hierarchies that tests of FAS train."""

from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.fas.options.groups import Gate
from netgraph.models.perceptron import mlp
from netgraph.optim.muon import MuonWithAdamW

OPEN = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"), search=())
OPTIMIZERS = {
    "sgd": (partial(torch.optim.SGD, momentum=0.9), 0.2),
    "adam": (torch.optim.Adam, 1e-2),
    "adamw": (torch.optim.AdamW, 1e-2),
    "rmsprop": (partial(torch.optim.RMSprop, momentum=0.5), 1e-3),
    "muon": (MuonWithAdamW, 1e-2),
}


def batches(n=12, rows=16, seed=0):
    """Minibatches of three classes that a network can learn."""
    random = torch.Generator().manual_seed(seed)
    rule = torch.randn(6, 3, generator=random)
    inputs = [torch.randn(rows, 6, generator=random) for _ in range(n)]
    return [(x, (x @ rule).argmax(1)) for x in inputs]


def network(seed=0, *, dropout=False):
    torch.manual_seed(seed)
    model = mlp((6, 16, 8, 3))
    return nn.Sequential(*model[:2], nn.Dropout(0.3), *model[2:]) if dropout else model


def hierarchy_of(model, n_levels=3):
    return ng.build_hierarchy(model, torch.randn(2, 6), n_levels=n_levels)


def unmerged(model, n_levels=2):
    """A hierarchy in which nothing merges."""
    spec = ng.trace(model, torch.randn(2, 6))
    levels = [ng.Level(model, spec)]
    levels += [ng.Level(coarse_network(model, spec, {}), spec) for _ in range(n_levels - 1)]
    return ng.Hierarchy(levels)


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_bits(a, b):
    assert all(torch.equal(a[name], b[name]) for name in a)


@torch.no_grad()
def mean_loss(model, data):
    return sum(float(cross_entropy(model(x), y)) for x, y in data) / len(data)
