"""What coarse steps owe: operations that smoothing the finest level would have used better::

    owed <- max(0, owed + cost - gain / rate),      rate = fall of the loss for each operation of smoothing

Everything that a step down costs counts, looks that found the gate closed and rejected corrections too. A step is tried only
while what is owed and what it can cost stay within a share of the whole run (`netgraph.fas.options.Gate`): what a run can
lose by trying is known beforehand. Gains are measured on a minibatch that the coarse level did not see; because one minibatch
is noisy, gain / rate counts from -cost to 2 cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from netgraph.fas.ledger import STEP
from netgraph.fas.options import Options
from netgraph.fas.solver.cycles import Visit

WINDOW = 64  # steps of smoothing that the rate is taken over


@dataclass
class CostAccount:
    """What the coarse steps of a run cost and earned.

    Attributes
    ----------
    owed : float
        Operations that were spent and not earned.
    begun : float
        Operations of the run when the finest level was left.
    step_cost : float
        Operations of the last step of smoothing.
    losses : list of float
        Of the last steps, those before a correction less what it earned, so that its fall is not taken for smoothing's.
    """

    owed: float = 0.0
    begun: float = 0.0
    step_cost: float = 0.0
    losses: list[float] = field(default_factory=list)

    def step(self, loss: float, cost: float) -> None:
        """Note a step of smoothing on the finest level."""
        self.losses = [*self.losses[1 - WINDOW :], loss]
        self.step_cost = cost

    def rate(self, whole: float) -> float:
        """Return the fall of the loss for each operation of smoothing, by least squares over the last steps.

        Late in a run noise is larger than the slope: smoothing is credited with no less than the whole loss for the ``whole`` run.
        """
        n = len(self.losses)
        if not n:
            return 0.0
        mean = sum(self.losses) / n
        centre = (n - 1) / 2
        rise = sum((i - centre) * loss for i, loss in enumerate(self.losses))
        slope = rise / max(n * (n * n - 1) / 12, 1.0)
        return max(-slope / max(self.step_cost, 1e-300), abs(mean) / max(whole, 1e-300))

    def charge(self, cost: float) -> None:
        """Note what was spent for nothing."""
        self.owed += cost

    def settle(self, gain: float, cost: float, whole: float) -> bool:
        """Note what a correction earned, and return whether smoothing would have earned less for its cost."""
        gain = gain if math.isfinite(gain) else 0.0
        worth = min(max(gain / max(self.rate(whole), 1e-300), -cost), 2 * cost)
        self.owed = max(self.owed + cost - worth, 0.0)
        self.losses = [loss - gain for loss in self.losses]
        return worth >= cost


def bound_flops_per_row(visits: Sequence[Visit], flops: Sequence[float], options: Options, whole: int) -> float:
    """Return the most operations that visits can cost for each row of a minibatch.

    Parameters
    ----------
    visits : sequence of Visit
    flops : sequence of float
        Of a forward pass by level.
    options : Options
    whole : int
        Minibatches of a pass over the data, which a tau of the whole set is formed on.
    """
    total = 0.0
    for kind, level, steps in visits:
        tau, gate = options.tau_of(level), options.gate_of(level)
        n_sets = whole if tau.kind == "whole" else tau.batches
        if kind == "smooth":
            total += STEP * steps * options.smoothing_of(level).accumulate * flops[level]
        elif kind == "down":
            total += (1 + (0 if tau.kind == "none" else STEP * n_sets)) * (flops[level] + flops[level + 1])
        elif kind == "up":
            searched = 0 if gate.blend else 1 + len(gate.search)
            total += (searched * n_sets + 2) * flops[level]
    return total


MEMORY = 0.7  # weight of what was known before a new figure
LONGEST = 4.0  # a coarse visit is stretched to at most so many times its steps, and shrunk to the inverse


@dataclass
class Backoff:
    """How long a level's coarse steps rest after refusals in a row."""

    refusals: int = 0
    left: int = 0

    def refuse(self, patience: int) -> None:
        """Note a refusal; from the ``patience``-th on each doubles the rest, and with 0 there is none."""
        self.refusals += 1
        if patience and self.refusals >= patience:
            self.left = 2 ** min(self.refusals - patience, 10)

    def succeed(self) -> None:
        """Note an accepted correction."""
        self.refusals = self.left = 0


@dataclass
class VisitLength:
    """What coarse steps and whole cycles earn for each second, as running means.

    Attributes
    ----------
    factor : float
        By which coarse visits are longer than planned.
    coarse, whole : float
        Fall of the loss for each second of coarse steps, and of whole cycles.
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
        """Note when the finest level was left."""
        self.begun = seconds

    def end_visit(self, gain: float, seconds: float) -> None:
        """Note what a correction earned; a rejected one earned nothing."""
        self.coarse = _update_mean(self.coarse, max(gain, 0.0) / max(seconds - self.begun, 1e-9))

    def step(self, loss: float) -> None:
        """Note the loss of a step on the finest level."""
        self.total, self.steps = self.total + loss, self.steps + 1

    def end_cycle(self, seconds: float) -> None:
        """Compare, and double or halve the next coarse visits."""
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
    return new if math.isnan(old) else MEMORY * old + (1 - MEMORY) * new
