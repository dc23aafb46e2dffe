"""Logging with the standard module: the logger ``netgraph`` writes to stderr, as sentences or as JSON lines."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from netgraph.utils.text import escape_controls, format_json, format_message

LOGGER = logging.getLogger("netgraph")
TRACEBACK = "\n\t"  # characters of a traceback that are not escaped


def setup_logging(json: bool = False, *, level: int = logging.INFO) -> None:
    """Write the log of netgraph to stderr. A second call replaces the first.

    Parameters
    ----------
    json : bool, default=False
        Write one JSON object a line instead of sentences.
    level : int, default=logging.INFO
        Level of the standard module. ``logging.DEBUG`` shows every event of a run.

    Examples
    --------
    >>> import logging
    >>> import netgraph as ng
    >>> ng.setup_logging()  # from here on INFO and above are written to stderr
    >>> logger = logging.getLogger("netgraph")
    >>> logger.level == logging.INFO
    True

    To undo it:

    >>> logger.handlers.clear()
    >>> logger.setLevel(logging.NOTSET)
    >>> logger.propagate = True
    """
    for old in [handler for handler in LOGGER.handlers if isinstance(handler, _StderrHandler)]:
        LOGGER.removeHandler(old)
    handler = _StderrHandler()
    handler.setFormatter(JsonLinesFormatter() if json else SentenceFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False  # the root logger would write it a second time


@contextmanager
def silence_logger(name: str, *, below: int = logging.CRITICAL + 1) -> Iterator[None]:
    """Silence the logger of a library in a block.

    Parameters
    ----------
    name : str
        Name of the logger.
    below : int, default=logging.CRITICAL + 1
        Records of this level and above are still written.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(below)
    try:
        yield
    finally:
        logger.setLevel(level)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Write to the current ``sys.stderr``, which a progress bar replaces while it is shown."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The current standard error."""
        return sys.stderr


class SentenceFormatter(logging.Formatter):
    """Format records as ``netgraph: message``, with the level in front of warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line for people."""
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        record.message = f"netgraph: {prefix}{format_message(record.getMessage())}"
        if record.exc_info is None:
            return record.message
        return f"{record.message}\n{escape_controls(self.formatException(record.exc_info), keep=TRACEBACK)}"


class JsonLinesFormatter(logging.Formatter):
    """Format records as JSON: time, level, logger, message, and the data of a run under ``event``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line for programs. Numbers that are not finite become null."""
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
        return format_json(line, default=str)


def replace_nonfinite(value: Any) -> Any:
    """Return data with None in place of numbers that JSON cannot hold.

    Examples
    --------
    >>> from netgraph.utils.logging import replace_nonfinite
    >>> replace_nonfinite({"loss": [0.5, float("nan")]})
    {'loss': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): replace_nonfinite(part) for key, part in value.items()}
    return [replace_nonfinite(part) for part in value] if isinstance(value, (list, tuple)) else value
