"""Measure the time that numba spends on compilation, which reported timings exclude."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass
class CompileClock:
    """Time spent on compilation.

    Parameters
    ----------
    seconds : float, default=0.0
    """

    seconds: float = 0.0


@contextmanager
def measure_compilation() -> Iterator[CompileClock]:
    """Count the seconds in which numba compiles kernels in a block."""
    from numba.core import event

    clock, starts = CompileClock(), list[float]()

    class NestedTimer(event.Listener):
        """Times outermost compilations only: a kernel triggers the compilation of the kernels that it calls."""

        def on_start(self, event: object) -> None:
            starts.append(perf_counter())

        def on_end(self, event: object) -> None:
            start = starts.pop()
            clock.seconds += 0.0 if starts else perf_counter() - start

    with event.install_listener("numba:compile", NestedTimer()):
        yield clock
