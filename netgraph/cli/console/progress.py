"""Progress on stderr: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from netgraph.cli.console.terminal import echo


@contextmanager
def show_progress(label: str) -> Iterator[Callable[..., None]]:
    """Show a bar with the time left on a terminal, and nothing elsewhere.

    Yields a function ``(axis, done, total, label=label)``, as `netgraph.build_hierarchy` takes it for ``progress``.
    """
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
        task = bar.add_task(label, total=None, done="")  # the first call knows the total

        def update(axis: str, done: int, total: int, label: str = label) -> None:
            bar.update(task, description=label, completed=done, total=total, done=f"{done}/{total}")

        yield update


BLOCKS = "▁▂▃▄▅▆▇█"  # from the coarsest level to the finest
VISITS = 16  # number of visits in the trace


class RunDisplay:
    """The position of a run in its cycles: a callback of the solver.

    Parameters
    ----------
    show : callable ``(display, event)``
        Called after every event.
    """

    def __init__(self, show: Callable[[RunDisplay, str], None]) -> None:
        self.show = show
        self.step = self.total = self.level = self.cycle = self.depth = 0
        self.visits: list[int] = []
        self.loss: float | None = None
        self.figures: dict[str, float] = {}
        self.begun = time.monotonic()
        self.first = 0

    def __call__(self, run: Any, record: dict[str, Any]) -> None:
        """Note an event of the run."""
        event = record["event"]
        self.step, self.cycle = record["step"], record["cycle"]
        if event in ("begin", "start", "smooth"):
            self._record_visit(record["level"])
        if event == "begin":
            self.depth = len(run.grids) - 1
            self.total, self.begun, self.first = record["steps"], time.monotonic(), record["step"]
        if event in ("start", "smooth"):
            self.loss = record.get("loss")  # None at a start: the last loss was of another level
        if event == "evaluate":
            self.figures = record["figures"]
        self.show(self, event)

    @property
    def seconds_left(self) -> float | None:
        """Time to the end of the run in seconds, at the mean cost of the steps so far."""
        done = self.step - self.first
        return None if done <= 0 else (time.monotonic() - self.begun) / done * max(self.total - self.step, 0)

    def _record_visit(self, level: int) -> None:
        self.level = level
        if self.visits[-1:] != [level]:
            self.visits = [*self.visits, level][-VISITS:]

    @property
    def blocks(self) -> str:
        """The levels of the last visits as a picture, where the finest level is the tallest block."""
        top = len(BLOCKS) - 1
        return "".join(BLOCKS[round(top * (1 - level / max(self.depth, 1)))] for level in self.visits)

    @property
    def digits(self) -> str:
        """The levels of the last visits as numbers."""
        return " ".join(map(str, self.visits[-7:]))

    def format_line(self, trace: str) -> str:
        """Return the position of the run as text. A run on one level has no trace."""
        parts = [f"level {self.level}"]
        if self.cycle:
            parts.append(f"cycle {self.cycle}")
        if self.depth:
            parts.append(trace)
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if "accuracy" in self.figures:
            parts.append(f"accuracy {self.figures['accuracy']:.2%}")
        if "psnr" in self.figures:
            parts.append(f"PSNR {self.figures['psnr']:.2f} dB")
        return "  ".join(parts)


@contextmanager
def show_run() -> Iterator[RunDisplay]:
    """Give the callback that shows a run.

    A terminal has a bar with the time left, and below it level, trace and figures. Elsewhere every evaluation prints a line.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield RunDisplay(_print_line)
        return
    columns = (BarColumn(bar_width=32), TextColumn("{task.fields[done]}"), TextColumn("{task.fields[left]}"))
    bar, line = Progress(*columns, console=console), Text(no_wrap=True, overflow="ellipsis")
    task = bar.add_task("training", total=None, done="", left="")
    with Live(Group(bar, line), console=console, transient=True):

        def show(display: RunDisplay, event: str) -> None:
            bar.update(
                task,
                completed=display.step,
                total=display.total,
                done=f"{display.step}/{display.total}",
                left=_format_time_left(display),
            )
            line.plain = display.format_line(display.blocks)

        yield RunDisplay(show)


def _print_line(display: RunDisplay, event: str) -> None:
    """Print the position of a run where a level was evaluated or started."""
    if event in ("evaluate", "start"):
        left = _format_time_left(display)
        line = f"netgraph: step {display.step}/{display.total}  {display.format_line(display.digits)}"
        echo(f"{line}  {left}" if left else line, err=True)


def _format_time_left(display: RunDisplay) -> str:
    """Return the time left as text, empty where it is not known."""
    if display.seconds_left is None:
        return ""
    minutes, seconds = divmod(round(display.seconds_left), 60)
    return f"{minutes}:{seconds:02d} left" if minutes else f"{seconds} s left"
