"""No garbage collection while many small objects are made that all stay.

Each thousand of new objects Python looks for cycles, now and then among all objects of the process; beside a few large
libraries one such look takes a fifth of a second, longer than a recording.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@contextmanager
def gc_paused() -> Iterator[None]:
    """Put off the search for cycles to the end of a block; a function that this decorates runs in one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass
class CompileClock:
    """Seconds in which kernels were compiled."""

    seconds: float = 0.0


@contextmanager
def measure_compilation() -> Iterator[CompileClock]:
    """Count the seconds in which numba compiles kernels in a block."""
    from numba.core import event

    clock, begun = CompileClock(), list[float]()

    class Nested(event.Listener):  # a kernel has those that it calls compiled
        def on_start(self, event: object) -> None:
            begun.append(perf_counter())

        def on_end(self, event: object) -> None:
            start = begun.pop()
            clock.seconds += 0.0 if begun else perf_counter() - start

    with event.install_listener("numba:compile", Nested()):
        yield clock


@contextmanager
def announce_compilation() -> Iterator[None]:
    """Tell, on stderr, of the first kernel in a block that numba compiles; it keeps what it compiled."""
    import typer
    from numba.core import event

    class First(event.Listener):
        told = False

        def on_start(self, event: object) -> None:
            if not self.told:
                typer.echo(
                    "netgraph: compiling kernels, which takes a while once; later runs find them compiled", err=True
                )
            self.told = True

        def on_end(self, event: object) -> None:
            pass

    with event.install_listener("numba:compile", First()):
        yield
