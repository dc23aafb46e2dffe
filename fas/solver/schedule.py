"""One schedule of the learning rate over all levels (default), or one for each.

A schedule is a torch scheduler on an optimizer of one number that nothing trains: what it writes there, the rate as a factor
and momentum where it cycles that, every level takes over times its own largest rate. So any torch scheduler serves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError
from netgraph.fas.levels.smoother import MakeOptimizer

NAMES = ("one-cycle", "cosine", "constant")
MakeScheduler = Callable[[Optimizer], lr_scheduler.LRScheduler]


class Schedule:
    """A learning rate's factor over a run.

    Parameters
    ----------
    kind : str or callable
        ``one-cycle`` (Smith and Topin, 2019), ``cosine``, ``constant``, or ``(optimizer) -> LRScheduler`` for an optimizer whose
        rate is 1.
    make : callable
        The optimizer's class.
    steps : int
        Of the whole run.

    Raises
    ------
    NetgraphError
        No schedule has that name, or it waits for a plateau: the rate is a function of the step here.
    """

    def __init__(self, kind: str | MakeScheduler, make: MakeOptimizer, steps: int) -> None:
        if isinstance(kind, str) and kind not in NAMES:
            raise NetgraphError(f"no schedule is called {kind!r}; there are {', '.join(NAMES)}")
        self.optimizer = make([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        self.scheduler = _make_scheduler(kind, self.optimizer, steps) if isinstance(kind, str) else kind(self.optimizer)
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            raise NetgraphError("ReduceLROnPlateau waits for a figure; give a schedule of the step, such as one-cycle")
        self.steps, self.taken = steps, 0

    @property
    def group(self) -> Mapping[str, Any]:
        """The parameter group that levels follow."""
        return self.optimizer.param_groups[0]

    def tick(self, n: int = 1) -> None:
        """Go on by n steps; beyond the last the rate stays."""
        for _ in range(min(n, self.steps - 1 - self.taken)):
            self.taken += 1
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the schedule."""
        return {"taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go forward to a place; schedules are functions of the step."""
        self.tick(state["taken"] - self.taken)


def _make_scheduler(kind: str, optimizer: Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    if kind == "one-cycle":
        cycled = bool(optimizer.defaults.get("momentum")) or "betas" in optimizer.defaults
        return lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=max(steps, 4), cycle_momentum=cycled)
    if kind == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)
