"""Rules that watch a run: each factory returns a callable ``(run, record) -> words, "" or None``.

Words say what is wrong; "" that this record shows all to be well; None that it says nothing of the matter.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import psutil
import torch

from netgraph.errors import NetgraphError
from netgraph.fas.solver.run import Run

Record = Mapping[str, Any]
Rule = Callable[[Run, Record], str | None]
GIB = 2**30


def divergence(factor: float = 1.0) -> Rule:
    """Speak where a level's loss is above its best by more than ``factor`` times its first."""
    first: dict[int, float] = {}
    best: dict[int, float] = {}

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] != "smooth":
            return None
        level, loss = record["level"], record["loss"]
        lowest = best[level] = min(best.get(level, math.inf), loss)
        if loss - lowest > factor * abs(first.setdefault(level, loss)):
            return (
                f"the loss of level {level} is {loss:.4g}, after {lowest:.4g} at best and {first[level]:.4g} at first"
            )
        return ""

    return rule


def plateau(patience: int = 20, delta: float = 1e-3) -> Rule:
    """Speak where a level's loss has not fallen by the share ``delta`` for so many records of smoothing."""
    best: dict[int, float] = {}
    waited: dict[int, int] = defaultdict(int)

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] != "smooth":
            return None
        level, loss = record["level"], record["loss"]
        if level not in best or loss < best[level] - delta * abs(best[level]):
            best[level], waited[level] = loss, 0
            return ""
        waited[level] += 1
        if waited[level] < patience:
            return None
        return f"the loss of level {level} has stayed at {best[level]:.4g} for {waited[level]} records"

    return rule


def nonfinite(times: int = 1) -> Rule:
    """Speak where so many steps in a row had a loss or gradient that is not finite."""

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] == "smooth":
            return None if run.refused else ""
        if record["event"] != "refused" or run.refused < times:
            return None
        return f"{run.refused} steps in a row had a loss or gradient that is not finite (loss {record['loss']})"

    return rule


def rejected(times: int = 3) -> Rule:
    """Speak where so many corrections of a level were rejected in a row."""
    count: dict[int, int] = defaultdict(int)

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] != "up":
            return None
        level = record["level"]
        count[level] = 0 if record["length"] else count[level] + 1
        if count[level] < times:
            return None if count[level] else ""
        return f"{count[level]} coarse corrections of level {level} in a row were rejected"

    return rule


def throughput(drop: float = 0.5, times: int = 3, window: int = 20) -> Rule:
    """Speak where a level's samples a second were below the median of the last ``window`` records by ``drop``, so many times in a row."""
    last: dict[int, tuple[float, float]] = {}
    rates: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=window))
    slow: dict[int, int] = defaultdict(int)

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] != "smooth":
            return None
        level = record["level"]
        worked = run.ledger.seconds[level, "smooth"] + run.ledger.seconds[level, "load"]
        now = (run.ledger.samples[level], worked)
        samples, seconds = (a - b for a, b in zip(now, last.get(level, (0, 0.0)), strict=True))
        last[level] = now
        if seconds <= 0:
            return None
        rate, usual = samples / seconds, median(rates[level]) if len(rates[level]) >= times else 0.0
        if rate >= (1 - drop) * usual:
            rates[level].append(rate)
            slow[level] = 0
            return ""
        slow[level] += 1
        if slow[level] < times:
            return None
        return f"level {level} trains {rate:.3g} samples a second, {usual:.3g} is usual"

    return rule


def memory(share: float = 0.9, gib: float = 0.0) -> Rule:
    """Speak where this process has more than ``gib``, or where that is 0 more than a share of the machine's memory or a GPU's."""
    if not 0 < share <= 1 or gib < 0:
        raise NetgraphError(f"the rule memory has share {share} and gib {gib}; give a share up to 1, or gib above 0")
    process = psutil.Process()
    total = psutil.virtual_memory().total

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] not in ("smooth", "cycle"):
            return None
        found = {"memory": (process.memory_info().rss, total)}
        for i in range(torch.cuda.device_count()):
            found[f"GPU {i}"] = (torch.cuda.memory_reserved(i), torch.cuda.get_device_properties(i).total_memory)
        for what, (used, size) in found.items():
            if used > (gib * GIB or share * size):
                return f"the run has {used / GIB:.3g} GiB of {size / GIB:.3g} GiB of {what}"
        return ""

    return rule


RULES: dict[str, Callable[..., Rule]] = {
    made.__name__: made for made in (divergence, plateau, nonfinite, rejected, throughput, memory)
}
