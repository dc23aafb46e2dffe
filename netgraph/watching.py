"""Training as it is watched: a bar on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


class Watch:
    """Where a run is: a callback of the solver.

    Parameters
    ----------
    show : callable ``(watch, text)``
        Called whenever something was learned.
    """

    def __init__(self, show: Any) -> None:
        self.show = show
        self.step = self.total = self.level = self.cycle = 0
        self.loss: float | None = None
        self.figures: dict[str, float] = {}
        self.begun = time.monotonic()
        self.first = 0

    def __call__(self, run: Any, record: dict[str, Any]) -> None:
        """Take note of a record."""
        event = record["event"]
        self.step, self.level, self.cycle = record["step"], record["level"], record["cycle"]
        if event == "begin":
            self.total, self.begun, self.first = record["steps"], time.monotonic(), record["step"]
        if event == "smooth":
            self.loss = record["loss"]
        if event == "evaluate":
            self.figures = record["figures"]
        self.show(self, event)

    @property
    def left(self) -> float | None:
        """Seconds that are left if all steps cost what those so far did."""
        done = self.step - self.first
        return None if done <= 0 else (time.monotonic() - self.begun) / done * max(self.total - self.step, 0)

    def __str__(self) -> str:
        parts = [f"level {self.level}"]
        if self.cycle:
            parts.append(f"cycle {self.cycle}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if "accuracy" in self.figures:
            parts.append(f"accuracy {self.figures['accuracy']:.2%}")
        return "  ".join(parts)


@contextmanager
def watched() -> Iterator[Watch]:
    """Give the callback that shows a run: on a terminal a bar with the time left, elsewhere a line an evaluation."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Watch(_line)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console, transient=True) as bar:
        task = bar.add_task("training", total=None, left="")

        def show(watch: Watch, event: str) -> None:
            bar.update(task, description=str(watch), completed=watch.step, total=watch.total, left=_left(watch))

        yield Watch(show)


def _line(watch: Watch, event: str) -> None:
    if event in ("evaluate", "start"):
        typer.echo(
            f"netgraph: step {watch.step}/{watch.total}  {watch}{'  ' * bool(_left(watch))}{_left(watch)}", err=True
        )


def _left(watch: Watch) -> str:
    if watch.left is None:
        return ""
    minutes, seconds = divmod(round(watch.left), 60)
    return f"{minutes}:{seconds:02d} left" if minutes else f"{seconds} s left"
