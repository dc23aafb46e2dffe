"""Schedules of the learning rate by name, as functions of the step.

The solver, plain training and ``netgraph train`` take their schedules from here. The names are in
`netgraph.utils.choices.SCHEDULES`, which the shell completes. How the levels of a hierarchy share one schedule is decided in
`netgraph.fas.solver.schedule`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError

MakeScheduler = Callable[[Optimizer, float, int], lr_scheduler.LRScheduler]


def _one_cycle(optimizer: Optimizer, lr: float, steps: int) -> lr_scheduler.LRScheduler:
    """Smith and Topin, "Super-convergence", 2019. Momentum, where the optimizer has one, cycles against the rate."""
    has_momentum = bool(optimizer.defaults.get("momentum")) or "betas" in optimizer.defaults
    # torch divides by 3/10 of the steps less one, which fails below four steps
    return lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 4), cycle_momentum=has_momentum)


def _cosine(optimizer: Optimizer, lr: float, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))


def make_wsd(optimizer: Optimizer, lr: float, steps: int, last: int | None = None) -> lr_scheduler.LRScheduler:
    """Return a schedule that warms up over 2 % of the steps, stays, and falls linearly over the last ones.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    lr : float
        Largest rate, with which the optimizer was made.
    steps : int
        Length of the run.
    last : int, optional
        Steps over which the rate falls. By default a quarter of all.

    References
    ----------
    Hu et al., "MiniCPM", COLM 2024.
    """
    warm, fall = max(round(0.02 * steps), 1), max(round(steps / 4) if last is None else last, 1)
    return lr_scheduler.LambdaLR(optimizer, lambda i: max(min((i + 1) / warm, 1.0, (steps - i) / fall), 0.0))


def _constant(optimizer: Optimizer, lr: float, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


SCHEDULES: dict[str, MakeScheduler] = {
    "one-cycle": _one_cycle, "wsd": make_wsd, "cosine": _cosine, "constant": _constant,
}  # fmt: skip


def find_schedule(name: str) -> MakeScheduler:
    """Return a function that makes a scheduler.

    Parameters
    ----------
    name : str
        ``one-cycle`` (Smith and Topin, 2019), ``wsd`` (warm-up, stable, decay), ``cosine`` or ``constant``.

    Returns
    -------
    callable ``(optimizer, lr, steps) -> torch.optim.lr_scheduler.LRScheduler``
        ``lr`` is the largest rate, with which the optimizer was made, and ``steps`` the length of the run.

    Raises
    ------
    NetgraphError
        No schedule has that name.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    >>> scheduler = find_schedule("one-cycle")(optimizer, 0.1, 10)
    >>> round(scheduler.get_last_lr()[0], 4)
    0.004
    """
    if name not in SCHEDULES:
        raise NetgraphError(f"no schedule is called {name!r}. There are {', '.join(SCHEDULES)}.")
    return SCHEDULES[name]
