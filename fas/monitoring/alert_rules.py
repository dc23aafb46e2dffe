"""Rules that watch a run. Each factory returns a rule, a callable ``(run, record) -> str or None``.

A rule returns a message if something is wrong, ``""`` if a record shows that all is well, and None if a record says nothing
about the matter.
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
    """Report a level whose loss exceeds its best loss by more than ``factor`` times its first loss.

    Parameters
    ----------
    factor : float, default 1
        Allowed growth, as a multiple of the first loss.

    Returns
    -------
    callable ``(run, record) -> str or None``
        The rule, for `Alert`.

    Examples
    --------
    >>> from netgraph.fas import Alert, divergence
    >>> from netgraph.fas.monitoring.alerts import stop_run
    >>> Alert(divergence(factor=2.0), stop_run, "divergence").name  # a callback for FAS.solve(callbacks=[...])
    'divergence'
    """
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
    """Report a level whose loss has stopped falling.

    Parameters
    ----------
    patience : int, default 20
        Records of smoothing without a decrease.
    delta : float, default 1e-3
        Relative decrease that counts.

    Returns
    -------
    callable ``(run, record) -> str or None``
        The rule, for `Alert`.

    Examples
    --------
    >>> from netgraph.fas import Alert, plateau
    >>> from netgraph.fas.monitoring.alerts import stop_run
    >>> Alert(plateau(patience=10), stop_run, "plateau").name  # a callback for FAS.solve(callbacks=[...])
    'plateau'
    """
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
    """Report steps in a row whose loss or gradient is not finite.

    Parameters
    ----------
    times : int, default 1
        Number of such steps in a row.

    Returns
    -------
    callable ``(run, record) -> str or None``
        The rule, for `Alert`.

    Examples
    --------
    >>> from netgraph.fas import Alert, nonfinite
    >>> from netgraph.fas.monitoring.alerts import stop_run
    >>> Alert(nonfinite(times=3), stop_run, "nonfinite").name  # a callback for FAS.solve(callbacks=[...])
    'nonfinite'
    """

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] == "smooth":
            return None if run.refused else ""
        if record["event"] != "refused" or run.refused < times:
            return None
        return f"{run.refused} steps in a row had a loss or gradient that is not finite (loss {record['loss']})"

    return rule


def rejected(times: int = 3) -> Rule:
    """Report a level whose corrections are rejected several times in a row.

    Parameters
    ----------
    times : int, default 3
        Number of rejected corrections in a row.

    Returns
    -------
    callable ``(run, record) -> str or None``
        The rule, for `Alert`.

    Examples
    --------
    >>> from netgraph.fas import Alert, rejected
    >>> from netgraph.fas.monitoring.alerts import stop_run
    >>> Alert(rejected(times=5), stop_run, "rejected").name  # a callback for FAS.solve(callbacks=[...])
    'rejected'
    """
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
    """Report a level that trains fewer samples a second than usual.

    Parameters
    ----------
    drop : float, default 0.5
        Relative drop below the median rate.
    times : int, default 3
        Number of slow records in a row.
    window : int, default 20
        Records that the median is taken over.

    Returns
    -------
    callable ``(run, record) -> str or None``
        The rule, for `Alert`.

    Examples
    --------
    >>> from netgraph.fas import Alert, throughput
    >>> from netgraph.fas.monitoring.alerts import stop_run
    >>> Alert(throughput(drop=0.3), stop_run, "throughput").name  # a callback for FAS.solve(callbacks=[...])
    'throughput'
    """
    last: dict[int, tuple[float, float]] = {}
    rates: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=window))
    slow: dict[int, int] = defaultdict(int)

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] != "smooth":
            return None
        level = record["level"]
        work = run.ledger.seconds[level, "smooth"] + run.ledger.seconds[level, "load"]
        now = (run.ledger.samples[level], work)
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
    """Report a run that uses too much memory of the machine or of a GPU.

    Parameters
    ----------
    share : float, default 0.9
        Largest share of the memory, above 0 and at most 1.
    gib : float, default 0
        Largest memory in GiB. 0: ``share`` is the limit.

    Returns
    -------
    callable ``(run, record) -> str or None``
        The rule, for `Alert`.

    Raises
    ------
    NetgraphError
        ``share`` or ``gib`` is out of range.

    Examples
    --------
    >>> from netgraph.fas import Alert, memory
    >>> from netgraph.fas.monitoring.alerts import stop_run
    >>> Alert(memory(share=0.8), stop_run, "memory").name  # a callback for FAS.solve(callbacks=[...])
    'memory'
    """
    if not 0 < share <= 1 or gib < 0:
        raise NetgraphError(f"the rule memory has share {share} and gib {gib}. Give a share up to 1, or gib above 0.")
    process = psutil.Process()
    total = psutil.virtual_memory().total

    def rule(run: Run, record: Record) -> str | None:
        if record["event"] not in ("smooth", "cycle"):
            return None
        memories = {"memory": (process.memory_info().rss, total)}
        for i in range(torch.cuda.device_count()):
            memories[f"GPU {i}"] = (torch.cuda.memory_reserved(i), torch.cuda.get_device_properties(i).total_memory)
        for name, (used, size) in memories.items():
            if used > (gib * GIB or share * size):
                return f"the run has {used / GIB:.3g} GiB of {size / GIB:.3g} GiB of {name}"
        return ""

    return rule


RULES: dict[str, Callable[..., Rule]] = {
    factory.__name__: factory for factory in (divergence, plateau, nonfinite, rejected, throughput, memory)
}
