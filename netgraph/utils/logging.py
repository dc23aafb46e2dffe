"""Logging through the standard module: what the logger ``netgraph`` says goes to stderr, as sentences or as JSON lines."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = logging.getLogger("netgraph")


def setup_logging(json: bool = False, *, level: int = logging.INFO) -> None:
    """Send what netgraph logs to stderr; called again, it replaces what it set up before.

    Parameters
    ----------
    json : bool
        One JSON object a line in place of a sentence.
    level : int
        Of the standard module: ``logging.DEBUG`` shows every event of a run.
    """
    for old in [handler for handler in LOGGER.handlers if isinstance(handler, _StderrHandler)]:
        LOGGER.removeHandler(old)
    handler = _StderrHandler()
    handler.setFormatter(JsonLinesFormatter() if json else SentenceFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False  # the root logger would say it a second time


@contextmanager
def silence_logger(name: str, *, below: int = logging.CRITICAL + 1) -> Iterator[None]:
    """Keep a library's logger quiet where what it would tell is told in one sentence; what is as grave as ``below`` is told."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(below)
    try:
        yield
    finally:
        logger.setLevel(level)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is then: a progress bar exchanges it while it stands."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The standard error of the moment."""
        return sys.stderr


class SentenceFormatter(logging.Formatter):
    """``netgraph: what happened``, with the level in front of warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line for people."""
        loud = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        record.message = f"netgraph: {loud}{record.getMessage()}"
        return (
            record.message if record.exc_info is None else f"{record.message}\n{self.formatException(record.exc_info)}"
        )


class JsonLinesFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger and message, and under ``event`` what a run told."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line for programs; numbers that are not finite are null."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, "event"):
            line["event"] = replace_nonfinite(record.event)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def replace_nonfinite(value: Any) -> Any:
    """Return data with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): replace_nonfinite(part) for key, part in value.items()}
    return [replace_nonfinite(part) for part in value] if isinstance(value, (list, tuple)) else value
