"""What a run learns about its levels: when a coarse step should rest, and how long one should be.

Levels are dropped where their steps are refused and tried again later, and more time goes to where the last visits lowered the
loss most for each second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY = 0.7  # weight of what was known before a new figure
LONGEST = 4.0  # a coarse visit is stretched to at most so many times its steps, and shrunk to the inverse


@dataclass
class Rest:
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
class Steering:
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

    def go_down(self, seconds: float) -> None:
        """Note when the finest level was left."""
        self.begun = seconds

    def come_up(self, gain: float, seconds: float) -> None:
        """Note what a correction earned; a rejected one earned nothing."""
        self.coarse = _mean(self.coarse, max(gain, 0.0) / max(seconds - self.begun, 1e-9))

    def step(self, loss: float) -> None:
        """Note the loss of a step on the finest level."""
        self.total, self.steps = self.total + loss, self.steps + 1

    def end_cycle(self, seconds: float) -> None:
        """Compare, and double or halve the next coarse visits."""
        if not self.steps:
            return
        mean = self.total / self.steps
        if not math.isnan(self.last):
            self.whole = _mean(self.whole, (self.last - mean) / max(seconds - self.cycle_begun, 1e-9))
        if not (math.isnan(self.coarse) or math.isnan(self.whole)):
            better = self.coarse > self.whole
            self.factor = min(max(self.factor * (2.0 if better else 0.5), 1 / LONGEST), LONGEST)
        self.last, self.total, self.steps, self.cycle_begun = mean, 0.0, 0, seconds


def _mean(old: float, new: float) -> float:
    return new if math.isnan(old) else MEMORY * old + (1 - MEMORY) * new
