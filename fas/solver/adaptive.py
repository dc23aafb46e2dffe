"""Adaptive control of coarse steps: their cost, their rests and the length of coarse visits.

`CostAccount` keeps the operations that smoothing the finest level would have used better::

    owed <- max(0, owed + cost - gain / rate),      rate = fall of the loss per operation of smoothing

The cost of a coarse step includes gates that were found closed and corrections that were rejected. A step is tried only while
the sum of the owed operations and of its largest possible cost is within a share of the whole run (`netgraph.fas.options.groups.Gate`).
A run can therefore lose no more than that share by trying. Gains are measured on a minibatch that the coarse level did not
see. Since one minibatch is noisy, gain / rate counts from -cost to 2 cost.

`Backoff` lets a level rest after refusals, twice as long each time. `VisitLength` gives more steps to coarse visits while they
lower the loss more per second than whole cycles do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from netgraph.fas.ledger import STEP
from netgraph.fas.options.all_options import Options
from netgraph.fas.solver.cycles import Visit

WINDOW = 64  # steps of smoothing that the rate is fitted to
MEMORY = 0.7  # weight of the old value in a running mean
LONGEST = 4.0  # a coarse visit has at most this multiple of its planned steps, and at least the inverse


@dataclass
class CostAccount:
    """Cost and gain of the coarse steps of a run.

    Attributes
    ----------
    owed : float
        Operations that were spent and not earned.
    begun : float
        Operations of the run at the time when the finest level was left.
    step_cost : float
        Operations of the last step of smoothing.
    losses : list of float
        Losses of the last steps. The gain of a correction is subtracted from all losses before it, because the rate must not
        credit smoothing with that fall.
    """

    owed: float = 0.0
    begun: float = 0.0
    step_cost: float = 0.0
    losses: list[float] = field(default_factory=list)

    def step(self, loss: float, cost: float) -> None:
        """Record a step of smoothing on the finest level."""
        self.losses = [*self.losses[1 - WINDOW :], loss]
        self.step_cost = cost

    # rate = max(-slope of the losses over the steps / cost of a step, mean loss / planned operations)
    def rate(self, planned_flops: float) -> float:
        """Return the fall of the loss per operation of smoothing, by least squares over the last steps.

        Late in a run noise is larger than the slope. Smoothing is therefore credited with no less than the whole loss divided
        by the planned operations of the run.
        """
        n = len(self.losses)
        if not n:
            return 0.0
        mean = sum(self.losses) / n
        centre = (n - 1) / 2
        rise = sum((i - centre) * loss for i, loss in enumerate(self.losses))
        slope = rise / max(n * (n * n - 1) / 12, 1.0)
        return max(-slope / max(self.step_cost, 1e-300), abs(mean) / max(planned_flops, 1e-300))

    def charge(self, cost: float) -> None:
        """Record operations that earned nothing."""
        self.owed += cost

    def settle(self, gain: float, cost: float, planned_flops: float) -> bool:
        """Record the gain and the cost of a correction, and return True if it earned at least as much as smoothing."""
        gain = gain if math.isfinite(gain) else 0.0
        worth = min(max(gain / max(self.rate(planned_flops), 1e-300), -cost), 2 * cost)
        self.owed = max(self.owed + cost - worth, 0.0)
        self.losses = [loss - gain for loss in self.losses]
        return worth >= cost


def bound_flops_per_row(
    visits: Sequence[Visit], flops: Sequence[float], options: Options, n_all: int, *, planned: bool = False
) -> float:
    """Return an upper bound of the operations of some visits, for each row of a minibatch.

    Parameters
    ----------
    visits : sequence of Visit
    flops : sequence of float
        Operations of one forward pass by level.
    options : Options
    n_all : int
        Minibatches of one pass over the data, on which ``tau.kind = whole`` forms tau.
    planned : bool, default False
        Count what estimated gradients are to cost. A bound counts plain ones, because a coarse level of a cycle has them.
    """
    total = 0.0
    for kind, level, steps in visits:
        tau, gate = options.tau_of(level), options.gate_of(level)
        n_sets = n_all if tau.kind == "whole" else tau.batches
        if kind == "smooth":
            share = options.estimate_of(level).cost if planned else 1.0
            total += STEP * steps * options.smoothing_of(level).accumulate * flops[level] * share
        elif kind == "down":
            total += (1 + (0 if tau.kind == "none" else STEP * n_sets)) * (flops[level] + flops[level + 1])
        elif kind == "up":
            searched = 0 if gate.blend else 1 + len(gate.search)
            total += (searched * n_sets + 2) * flops[level]
    return total


@dataclass
class Backoff:
    """Rest of a level's coarse steps after refusals.

    Attributes
    ----------
    refusals : int
        Refusals in a row.
    left : int
        Coarse steps that are still to be skipped.
    """

    refusals: int = 0
    left: int = 0

    def refuse(self, patience: int) -> None:
        """Record a refusal. From the ``patience``-th on each refusal doubles the rest. With 0 there is no rest."""
        self.refusals += 1
        if patience and self.refusals >= patience:
            self.left = 2 ** min(self.refusals - patience, 10)

    def succeed(self) -> None:
        """Record an accepted correction."""
        self.refusals = self.left = 0


@dataclass
class VisitLength:
    """Length of coarse visits, by the fall of the loss per second of coarse steps and of whole cycles.

    Attributes
    ----------
    factor : float
        Length of coarse visits over the planned one.
    coarse, whole : float
        Running means of the fall of the loss per second, in coarse steps and in whole cycles. NaN before the first.
    last : float
        Mean loss of the last cycle.
    begun, cycle_begun : float
        Seconds of the run at the time when the finest level was left, and when the cycle began.
    total, steps : float
        Sum of the losses of this cycle's steps on the finest level, and their number.
    """

    factor: float = 1.0
    coarse: float = math.nan
    whole: float = math.nan
    last: float = math.nan
    begun: float = 0.0
    cycle_begun: float = 0.0
    total: float = 0.0
    steps: float = 0.0

    def begin_visit(self, seconds: float) -> None:
        """Record the time at which the finest level is left."""
        self.begun = seconds

    def end_visit(self, gain: float, seconds: float) -> None:
        """Record the fall of the loss by a correction, 0 for a rejected one."""
        self.coarse = _update_mean(self.coarse, max(gain, 0.0) / max(seconds - self.begun, 1e-9))

    def step(self, loss: float) -> None:
        """Record the loss of a step on the finest level."""
        self.total, self.steps = self.total + loss, self.steps + 1

    def end_cycle(self, seconds: float) -> None:
        """Compare the two means, and double or halve the next coarse visits."""
        if not self.steps:
            return
        mean = self.total / self.steps
        if not math.isnan(self.last):
            self.whole = _update_mean(self.whole, (self.last - mean) / max(seconds - self.cycle_begun, 1e-9))
        if not (math.isnan(self.coarse) or math.isnan(self.whole)):
            better = self.coarse > self.whole
            self.factor = min(max(self.factor * (2.0 if better else 0.5), 1 / LONGEST), LONGEST)
        self.last, self.total, self.steps, self.cycle_begun = mean, 0.0, 0, seconds


def _update_mean(old: float, new: float) -> float:
    """Return a running mean after a new value."""
    return new if math.isnan(old) else MEMORY * old + (1 - MEMORY) * new
