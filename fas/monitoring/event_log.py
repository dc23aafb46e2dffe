"""A callback that logs the events of a run through the standard module logging."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from netgraph.fas.monitoring.history import COUNTS, check_record
from netgraph.fas.solver.run import Run

logger = logging.getLogger("netgraph.run")
LOUD = {
    "refused": logging.WARNING,
    "failed": logging.ERROR,
    "alert": logging.DEBUG,
}  # the action of an alert logs its own message
PLAIN = ("begin", "start", "evaluate", "finish")


def log_event(run: Run, record: Mapping[str, Any]) -> None:
    """Log one event as a sentence. Its record is the attribute ``event`` of the log record.

    Cycles and smoothing are logged at level DEBUG. Pass this function as a callback of `FAS.solve`.

    Parameters
    ----------
    run : Run
        The run.
    record : mapping
        Record of the event.

    Raises
    ------
    NetgraphError
        The record is not one of a run.

    Examples
    --------
    >>> import logging, sys
    >>> from types import SimpleNamespace
    >>> from netgraph.fas import log_event
    >>> logger, handler = logging.getLogger("netgraph.run"), logging.StreamHandler(sys.stdout)
    >>> logger.addHandler(handler)
    >>> logger.setLevel(logging.INFO)
    >>> run = SimpleNamespace(total_steps=100)  # in place of a Run
    >>> spent = {"step": 3, "seconds": 0.1, "flops": 1e6}
    >>> log_event(run, {"event": "evaluate", "level": 0, **spent, "figures": {"loss": 0.5}})
    step 3 of 100, level 0: loss 0.5
    >>> logger.removeHandler(handler)
    >>> logger.setLevel(logging.NOTSET)
    """
    check_record(record, COUNTS)
    kind = record["event"]
    level = LOUD.get(kind, logging.INFO if kind in PLAIN else logging.DEBUG)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", describe_event(run, record), extra={"event": dict(record)})


def describe_event(run: Run, record: Mapping[str, Any]) -> str:
    """Return one event as a sentence."""
    where = f"step {record['step']} of {run.total_steps}, level {record['level']}"
    kind = record["event"]
    if kind == "smooth":
        return f"{where}: loss {record['loss']:.4g}, lr {record['lr']:.3g}"
    if kind == "evaluate":
        return f"{where}: " + ", ".join(f"{name} {value:.4g}" for name, value in record["figures"].items())
    if kind == "up":
        return (
            f"{where}: correction of length {record['length']:g}"
            if record["length"]
            else f"{where}: correction rejected"
        )
    if kind == "norm":
        return f"{where}: after {record['cycles']} cycles {record['norm']:.4g}"
    reason = next((str(record[key]) for key in ("why", "reason", "error", "message") if record.get(key)), "")
    return f"{where}: {kind}" + (f", {reason}" if reason else "")
