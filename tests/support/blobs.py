"""Training on blobs of points, for tests of integrations."""

import torch
from torch import nn

import netgraph as ng
from netgraph.models.perceptron import mlp


def blobs(n=256):
    torch.manual_seed(3)
    targets = torch.arange(n) % 4
    return torch.randn(n, 6) + 3 * torch.randn(4, 6)[targets], targets


def batches(x, t, size=32):
    return list(zip(x.split(size), t.split(size), strict=True))


def loss_of(model, inputs, targets):
    return nn.functional.cross_entropy(model(inputs), targets)


def network(seed=0):
    torch.manual_seed(seed)
    return mlp((6, 32, 16, 4))


def levels(model, n=3):
    return ng.build_hierarchy(model, torch.randn(2, 6), n_levels=n)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
