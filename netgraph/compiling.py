"""Say that kernels are compiled when they are: at their first run, for half a minute that would look like a standstill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def told_once() -> Iterator[None]:
    """Tell, on stderr, of the first kernel in a block that numba compiles; it keeps what it compiled."""
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
