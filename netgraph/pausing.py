"""No garbage collection while many small objects are made that all stay.

Each thousand of new objects Python looks for cycles, now and then among all objects of the process; beside a few large
libraries one such look takes a fifth of a second, longer than a recording.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Put off the search for cycles to the end of a block; a function that this decorates runs in one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
