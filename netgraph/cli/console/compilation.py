"""Announce the compilation of numba kernels, which happens once on a machine and takes a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from netgraph.cli.console.terminal import echo


@contextmanager
def announce_compilation() -> Iterator[None]:
    """Print a line on stderr before numba compiles its first kernel in a block. Compiled kernels are cached on disk."""
    from numba.core import event

    class FirstCompilation(event.Listener):
        announced = False

        def on_start(self, event: object) -> None:
            if not self.announced:
                echo("netgraph: compiling kernels. This takes a while once. Later runs use the cache.", err=True)
            self.announced = True

        def on_end(self, event: object) -> None:
            pass

    with event.install_listener("numba:compile", FirstCompilation()):
        yield
