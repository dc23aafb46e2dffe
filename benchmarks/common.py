"""Shared by the benchmarks: rows of results in JSON lines, the counts of a run, processor time, and spreads."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
TUNING = 100  # seed of the grids of rates, which no result uses


def read_rows(path: Path, having: str = "method") -> list[Row]:
    """Return the rows of a file of JSON lines that have a key. Lines about the machine lack it."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if having in row]


def row_key(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    """Return the values that identify a row. Lists count as tuples, because JSON knows only lists."""
    values = (row[name] for name in names)
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def run_missing(
    path: Path, names: Iterable[str], jobs: Iterable[tuple[Row, Callable[[], Row]]], machine: Row | None = None
) -> Iterator[Row]:
    """Run the jobs whose rows are not in a file yet. Append each new row to the file, and yield it.

    Parameters
    ----------
    path : Path
        File of JSON lines.
    names : iterable of str
        Keys that identify a row.
    jobs : iterable of (dict, callable)
        The identifying values of a row, and a function that measures it.
    machine : dict, optional
        A first line about the machine.
    """
    names = tuple(names)
    done = {row_key(row, names) for row in read_rows(path, names[0]) if all(name in row for name in names)}
    with path.open("a") as file:
        if machine is not None:
            file.write(json.dumps(machine) + "\n")
        for settings, measure in jobs:
            if row_key(settings, names) in done:
                continue
            row = measure()
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield row


def make_grid_parser(
    description: str | None, results: Path, rates: Iterable[float], seeds: int = 3
) -> argparse.ArgumentParser:
    """Return the options of a benchmark whose methods are tuned on a grid of rates before they are compared."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help=f"run the grid, with seed {TUNING}")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--rates", type=float, nargs="*", default=tuple(rates), help="rates of the grid")
    parser.add_argument("--out", type=Path, default=results)
    parser.add_argument("--report", action="store_true")
    return parser


def find_best_row(rows: Iterable[Row], settings: Row, by: str = "loss") -> Row:
    """Return the row of the grid in which a method ended lowest.

    Parameters
    ----------
    rows : iterable of dict
    settings : dict
        What a row of the grid must agree with: its method, and everything that its best point depends on.
    by : str, default "loss"
        The figure that is least in the best row.
    """
    tried = [r for r in rows if r["seed"] == TUNING and all(r[key] == value for key, value in settings.items())]
    if not tried:
        raise SystemExit(f"{settings} was not tuned. Run with --tune first.")
    return min(tried, key=lambda row: row[by])


def find_best_rate(rows: Iterable[Row], settings: Row) -> float:
    """Return the rate at which a method ended lowest in the grid. `find_best_row` says what the settings are."""
    return float(find_best_row(rows, settings)["lr"])


def describe_machine(device: str = "cpu") -> Row:
    """Return the first line of a file of results on one thread of a CPU, or on a GPU."""
    machine = platform.platform() if device == "cpu" else torch.cuda.get_device_name(device)
    return {"machine": machine, "torch": torch.__version__, "threads": torch.get_num_threads()}


def prepare_device(device: str) -> Callable[[], float]:
    """Return the clock of a device: processor time of one thread on a CPU, else time on the wall once the GPU is done.

    On a CPU torch is set to one thread.
    """
    if device == "cpu":
        torch.set_num_threads(1)
        return time.thread_time

    def read_clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read_clock


def count_events(solution: Any) -> Row:
    """Return the counts of a run's events, and of its accepted corrections, as entries of a row."""
    return {
        "events": dict(Counter(record["event"] for record in solution.history)),
        "accepted": sum(record["length"] > 0 for record in solution.events("up")),
    }


class TimedValidation:
    """Validation figures of a run, and the seconds of training without validation.

    Parameters
    ----------
    evaluate : callable ``(network) -> dict of float``
        Validation figures.
    clock : callable
        By default the processor time of the process.

    Attributes
    ----------
    marks : list of float
        Seconds of training at the beginning of each validation.
    """

    def __init__(
        self, evaluate: Callable[[torch.nn.Module], dict[str, float]], clock: Callable[[], float] = time.process_time
    ) -> None:
        self.evaluate, self.clock = evaluate, clock
        self.begun, self.validating, self.marks = clock(), 0.0, list[float]()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning, without those of validation."""
        return self.clock() - self.begun - self.validating

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        self.marks.append(self.seconds)
        begun = self.clock()
        figures = self.evaluate(network)
        self.validating += self.clock() - begun
        return figures


def time_call(function: Callable[[], Any]) -> float:
    """Return the seconds of processor time of a call, all threads together."""
    return time_result(function)[0]


def time_result(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of processor time of a call, and its result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def median_min_max(values: Iterable[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum."""
    values = list(values)
    return statistics.median(values), min(values), max(values)


def spread(values: Iterable[float], digits: int = 3) -> list[float]:
    """Return median, minimum and maximum, to a number of significant digits."""
    return [float(f"{value:.{digits}g}") for value in median_min_max(values)]
