"""A callback that logs what a run tells, through the standard module."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from netgraph.fas.solver.run import Run

logger = logging.getLogger("netgraph.run")
LOUD = {"refused": logging.WARNING, "failed": logging.ERROR, "alert": logging.DEBUG}  # an alert speaks for itself
PLAIN = ("begin", "start", "evaluate", "finish")


def log_event(run: Run, record: Mapping[str, Any]) -> None:
    """Log one event, with all its figures as ``event``; cycles and smoothing at the level DEBUG."""
    kind = record["event"]
    level = LOUD.get(kind, logging.INFO if kind in PLAIN else logging.DEBUG)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", describe_event(run, record), extra={"event": dict(record)})


def describe_event(run: Run, record: Mapping[str, Any]) -> str:
    """Return one event in words."""
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
    told = next((str(record[key]) for key in ("why", "reason", "error", "message") if record.get(key)), "")
    return f"{where}: {kind}" + (f", {told}" if told else "")
