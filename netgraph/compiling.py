"""Kernels are compiled at their first run, once on a machine: that is told, and its seconds are nobody's work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass
class Clock:
    """Seconds in which kernels were compiled."""

    seconds: float = 0.0


@contextmanager
def compiler() -> Iterator[Clock]:
    """Count the seconds in which numba compiles kernels in a block."""
    from numba.core import event

    clock, begun = Clock(), list[float]()

    class Nested(event.Listener):  # a kernel has those that it calls compiled
        def on_start(self, event: object) -> None:
            begun.append(perf_counter())

        def on_end(self, event: object) -> None:
            start = begun.pop()
            clock.seconds += 0.0 if begun else perf_counter() - start

    with event.install_listener("numba:compile", Nested()):
        yield clock


@contextmanager
def told_once() -> Iterator[None]:
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
