"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(sizes: Sequence[int] = (64, 128, 64, 10), *, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers of the given widths with an activation between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def fit(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    epochs: int = 30,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 7619,
) -> None:
    """Train a classifier in place with Adam and a one-cycle schedule."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(inputs) // batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs), generator=generator).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the share of inputs whose largest output is the target."""
    return float((model.eval()(inputs).argmax(1) == targets).float().mean())
