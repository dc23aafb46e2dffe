"""One schedule of the learning rate for all levels together, or one for each level.

A torch scheduler runs on an optimizer of one number that is never trained. What the scheduler writes there, the rate as a
factor and the momentum if it cycles, every level takes over, times its own largest rate. Any torch scheduler serves.
The schedules by name are in `netgraph.optim.schedules`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError
from netgraph.optim.optimizers import MakeOptimizer
from netgraph.optim.schedules import find_schedule, make_wsd

MakeScheduler = Callable[[Optimizer], lr_scheduler.LRScheduler]


class Schedule:
    """The learning rate of a run as a factor of the largest rate.

    Parameters
    ----------
    kind : str or callable
        ``one-cycle`` (Smith and Topin, 2019), ``wsd``, ``cosine``, ``constant``, or a function ``(optimizer) -> LRScheduler`` that is
        called with an optimizer whose rate is 1.
    make_optimizer : callable
        The class of the levels' optimizers.
    steps : int
        Optimizer steps of the whole run.
    on_finest : int, optional
        Those of them on the finest level. The rate of ``wsd`` falls on that level alone, so that it comes down while all units
        are there: over the last quarter of the run, or over these steps if they are fewer.

    Raises
    ------
    NetgraphError
        No schedule has that name, or the scheduler waits for a plateau. A rate must be a function of the step here.
    """

    def __init__(
        self, kind: str | MakeScheduler, make_optimizer: MakeOptimizer, steps: int, on_finest: int | None = None
    ) -> None:
        self.kind, self.make_optimizer = kind, make_optimizer
        self.optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        if kind == "wsd" and on_finest is not None:
            self.scheduler = make_wsd(self.optimizer, 1.0, steps, min(round(steps / 4), on_finest))
        elif isinstance(kind, str):
            self.scheduler = find_schedule(kind)(self.optimizer, 1.0, steps)
        else:
            self.scheduler = kind(self.optimizer)
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            raise NetgraphError(
                "ReduceLROnPlateau changes the rate by a measured figure. Give a schedule of the step, such as one-cycle."
            )
        self.steps, self.taken = steps, 0

    @property
    def group(self) -> Mapping[str, Any]:
        """The parameter group that levels follow."""
        return self.optimizer.param_groups[0]

    def tick(self, n: int = 1) -> None:
        """Go on by n steps. After the last step the rate stays."""
        for _ in range(min(n, self.steps - 1 - self.taken)):
            self.taken += 1
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def with_length(self, steps: int, on_finest: int) -> Schedule:
        """Return a schedule of another length at the same step. The rate does not jump in a phase that is stable in both."""
        changed = Schedule(self.kind, self.make_optimizer, steps, on_finest)
        changed.tick(self.taken)
        return changed

    @property
    def is_stable(self) -> bool:
        """True if the rate stays for most of the run, so that its length may change on the way."""
        return self.kind in ("wsd", "constant")

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the schedule."""
        return {"taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go forward to a saved position. That is enough, because a schedule is a function of the step."""
        self.tick(state["taken"] - self.taken)
