"""Training as it is watched: two live lines on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


@contextmanager
def show_progress(what: str) -> Iterator[Any]:
    """Show progress with time left on a terminal; say nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, done="")  # how many there are is known when the first is begun
        yield lambda axis, done, total: bar.update(task, completed=done, total=total, done=f"{done}/{total}")


BLOCKS = "▁▂▃▄▅▆▇█"  # a visit of the coarsest level, up to one of the finest
VISITS = 16  # of the trace that is shown, the last of them


class RunDisplay:
    """Where a run is: a callback of the solver.

    Parameters
    ----------
    show : callable ``(watch, text)``
        Called whenever something was learned.
    """

    def __init__(self, show: Any) -> None:
        self.show = show
        self.step = self.total = self.level = self.cycle = self.depth = 0
        self.visits: list[int] = []
        self.loss: float | None = None
        self.figures: dict[str, float] = {}
        self.begun = time.monotonic()
        self.first = 0

    def __call__(self, run: Any, record: dict[str, Any]) -> None:
        """Take note of a record."""
        event = record["event"]
        self.step, self.cycle = record["step"], record["cycle"]
        if event in ("begin", "start", "smooth"):
            self._visit(record["level"])
        if event == "begin":
            self.depth = len(run.grids) - 1
            self.total, self.begun, self.first = record["steps"], time.monotonic(), record["step"]
        if event in ("start", "smooth"):
            self.loss = record.get("loss")  # that of a level which was left is not this one's
        if event == "evaluate":
            self.figures = record["figures"]
        self.show(self, event)

    @property
    def left(self) -> float | None:
        """Seconds that are left if all steps cost what those so far did."""
        done = self.step - self.first
        return None if done <= 0 else (time.monotonic() - self.begun) / done * max(self.total - self.step, 0)

    def _visit(self, level: int) -> None:
        self.level = level
        if self.visits[-1:] != [level]:
            self.visits = [*self.visits, level][-VISITS:]

    @property
    def blocks(self) -> str:
        """The levels of the last visits, the finest tallest: the V and W of cycles."""
        top = len(BLOCKS) - 1
        return "".join(BLOCKS[round(top * (1 - level / max(self.depth, 1)))] for level in self.visits)

    @property
    def digits(self) -> str:
        """The levels of the last visits as numbers."""
        return " ".join(map(str, self.visits[-7:]))

    def words(self, trace: str) -> str:
        """Return where the run is; the trace is left out where there is one level."""
        parts = [f"level {self.level}"]
        if self.cycle:
            parts.append(f"cycle {self.cycle}")
        if self.depth:
            parts.append(trace)
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if "accuracy" in self.figures:
            parts.append(f"accuracy {self.figures['accuracy']:.2%}")
        return "  ".join(parts)


@contextmanager
def show_run() -> Iterator[RunDisplay]:
    """Give the callback that shows a run: on a terminal a bar with the time left, and below it level, trace and figures; elsewhere a line an evaluation."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield RunDisplay(_print_line)
        return
    columns = (BarColumn(bar_width=32), TextColumn("{task.fields[done]}"), TextColumn("{task.fields[left]}"))
    bar, told = Progress(*columns, console=console), Text(no_wrap=True, overflow="ellipsis")
    task = bar.add_task("training", total=None, done="", left="")
    with Live(Group(bar, told), console=console, transient=True):

        def show(watch: RunDisplay, event: str) -> None:
            bar.update(
                task,
                completed=watch.step,
                total=watch.total,
                done=f"{watch.step}/{watch.total}",
                left=_format_time_left(watch),
            )
            told.plain = watch.words(watch.blocks)

        yield RunDisplay(show)


def _print_line(watch: RunDisplay, event: str) -> None:
    if event in ("evaluate", "start"):
        left = _format_time_left(watch)
        told = f"netgraph: step {watch.step}/{watch.total}  {watch.words(watch.digits)}"
        typer.echo(f"{told}  {left}" if left else told, err=True)


def _format_time_left(watch: RunDisplay) -> str:
    if watch.left is None:
        return ""
    minutes, seconds = divmod(round(watch.left), 60)
    return f"{minutes}:{seconds:02d} left" if minutes else f"{seconds} s left"
