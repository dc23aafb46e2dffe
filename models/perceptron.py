"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int] = (64, 128, 64, 10), *, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Build a multilayer perceptron: linear layers with an activation between them.

    Parameters
    ----------
    sizes : sequence of int, default (64, 128, 64, 10)
        Widths from the input to the output.
    activation : type, default torch.nn.ReLU
        Class of the activation.

    Returns
    -------
    torch.nn.Sequential
        The network with random weights. It ends with a linear layer.

    Examples
    --------
    >>> from netgraph.models import mlp
    >>> mlp((64, 32, 10))
    Sequential(
      (0): Linear(in_features=64, out_features=32, bias=True)
      (1): ReLU()
      (2): Linear(in_features=32, out_features=10, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])
