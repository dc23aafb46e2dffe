"""Pause garbage collection while many small objects are created that all stay alive.

Python searches for reference cycles after every few thousand new objects, from time to time among all objects of the
process. With a few large libraries loaded, one full search takes a fifth of a second, longer than a recording.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Postpone the search for cycles to the end of a block. It also decorates functions."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def old_objects_skipped() -> Iterator[None]:
    """Search for cycles among the objects alone that are made in a block. It also decorates functions.

    It is for longer work, whose own garbage has to go in time. Where the caller has frozen objects himself, nothing changes.
    """
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
