"""Optimizers by name, and parameter groups with and without weight decay.

The solver, plain training and ``netgraph train`` take their optimizers from here. The names are in
`netgraph.utils.choices.OPTIMIZERS`, which the shell completes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError
from netgraph.optim.muon import MATRICES, MuonWithAdamW, check_muon

MakeOptimizer = Callable[..., Optimizer]
LARGEST_RATE = 1e30  # multiples of it still have single precision, in which optimizers take their steps

# Weight decay comes from the parameter groups (`group_by_decay`), therefore AdamW's own default of 0.01 is switched off.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": torch.optim.Adam,
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
    "rmsprop": torch.optim.RMSprop,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "muon": MuonWithAdamW,
}

# Rates that train alike. A step of Adam has about the size of its rate, one of Muon is scaled to that of Adam (`netgraph.optim.muon`), and
# one of SGD has the size of the gradient. docs/training.md has the measurements.
ALIKE_RATES = {"adam": 2e-3, "adamw": 2e-3, "muon": 2e-3, "rmsprop": 1e-3, "sgd": 0.2}


def convert_rate(lr: float, optimizer: str, to: str) -> float:
    """Return the learning rate of one optimizer that is like that of another one.

    Parameters
    ----------
    lr : float
    optimizer : str
        The optimizer that has the rate ``lr``, one of those that `find_optimizer` knows.
    to : str
        The other optimizer.

    Examples
    --------
    >>> convert_rate(0.1, "sgd", "muon")
    0.001
    """
    return lr if optimizer == to else lr * (ALIKE_RATES[to] / ALIKE_RATES[optimizer])


def find_optimizer(name: str) -> MakeOptimizer:
    """Return a function that makes an optimizer.

    Parameters
    ----------
    name : str
        ``adam``, ``adamw``, ``rmsprop``, ``sgd``, which is SGD with a Nesterov momentum of 0.9, or ``muon`` for the matrices of hidden
        layers with AdamW for the others (`netgraph.optim.muon`).

    Returns
    -------
    callable ``(parameters or groups, lr=...) -> torch.optim.Optimizer``

    Raises
    ------
    NetgraphError
        No optimizer has that name, or this version of PyTorch lacks it.

    Examples
    --------
    >>> import torch
    >>> make_optimizer = find_optimizer("sgd")
    >>> make_optimizer([torch.zeros(2, requires_grad=True)], lr=0.1).defaults["momentum"]
    0.9
    """
    if name not in OPTIMIZERS:
        raise NetgraphError(f"no optimizer is called {name!r}. There are {', '.join(OPTIMIZERS)}.")
    if name == "muon":
        check_muon()
    return OPTIMIZERS[name]


def needs_closure(optimizer: Optimizer) -> bool:
    """Return True for an optimizer that evaluates the loss itself in its step, as LBFGS does.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer

    Examples
    --------
    >>> import torch
    >>> weights = [torch.zeros(2, requires_grad=True)]
    >>> needs_closure(torch.optim.LBFGS(weights)), needs_closure(torch.optim.Adam(weights))
    (True, False)
    """
    return _step_needs_closure(type(optimizer).step)


@cache
def _step_needs_closure(step: Callable[..., Any]) -> bool:
    closure = inspect.signature(step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def takes_matrices(make_optimizer: MakeOptimizer) -> bool:
    """Return True if an optimizer's groups must say whether they hold matrices of hidden layers."""
    return getattr(make_optimizer, "func", make_optimizer) is MuonWithAdamW


def group_matrices(
    named: Mapping[str, nn.Parameter], matrices: Collection[str], weight_decay: float | None
) -> list[dict[str, Any]]:
    """Return parameter groups for Muon: matrices of hidden layers first, then all other parameters.

    Parameters
    ----------
    named : dict of str to torch.nn.Parameter
    matrices : collection of str
        Names of matrices of hidden layers. Complex ones count as others.
    weight_decay : float or None
        As for `group_by_decay`.
    """
    hidden = [name for name, p in named.items() if name in matrices and not p.is_complex()]
    parts = {True: [named[n] for n in hidden], False: [p for n, p in named.items() if n not in hidden]}
    return [{**group, MATRICES: flag} for flag, part in parts.items() for group in group_by_decay(part, weight_decay)]


def group_by_decay(parameters: Iterable[nn.Parameter], weight_decay: float | None) -> list[dict[str, Any]]:
    """Return parameter groups: weights, which decay, and then norms and biases, which do not.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    weight_decay : float or None
        Decay of parameters with two dimensions or more. None leaves the decay of both groups to the optimizer.

    Returns
    -------
    groups : list of dict
        Two groups at most. A group without parameters is left out.

    Examples
    --------
    >>> import torch
    >>> groups = group_by_decay(torch.nn.Linear(3, 2).parameters(), 0.1)
    >>> [(group["params"][0].shape, group["weight_decay"]) for group in groups]
    [(torch.Size([2, 3]), 0.1), (torch.Size([2]), 0.0)]
    """
    listed = list(parameters)
    parts = (([p for p in listed if p.ndim > 1], weight_decay), ([p for p in listed if p.ndim < 2], 0.0))
    if weight_decay is None:
        return [{"params": part} for part, _ in parts if part]
    return [{"params": part, "weight_decay": decay} for part, decay in parts if part]
