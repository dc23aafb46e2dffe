"""Positions of a saved run, checked before the run takes them over: a file may hold any numbers under a right digest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from netgraph.fas.solver.run import REFUSED, Run

LARGEST = 2**53  # of a count, as JSON holds it exactly
PLAN = ("levels", "sizes", "coefficients", "age")  # of an estimate
KINDS = ("smooth", "down", "up", "start", "end")


def check_positions(run: Run, document: Mapping[str, Any], n_tensors: int) -> None:
    """Refuse positions beyond the levels and the visits of a run.

    Raises
    ------
    ValueError
        A position is no whole number, or lies outside the run. The message names it.
    """
    last = len(run.grids) - 1
    bounds = {"top": last, "at": len(run.visits), "refused": REFUSED}
    for name in ("top", "at", "done", "steps", "cycles", "refused"):
        _check_whole(name, document[name], bounds.get(name, LARGEST))
    if document["instead"] is not None:
        kind, level, steps = document["instead"]
        _check_whole("level", level, last)
        _check_whole("steps", steps, max(run.total_steps, 1))
        if kind not in KINDS:
            raise ValueError(f"its visit is {kind!r:.40}")
    for key in document["rests"]:
        _check_whole("level", int(key), last)
    for key in document["descents"]:
        _check_whole("level", int(key), last - 1)
    for grid in document["grids"]:
        _check_whole("turns", grid["turns"], LARGEST)
        _check_whole("rhs", grid["rhs"], n_tensors)  # each right-hand side has tensors of its own
    _check_whole("largest", document.get("remainder", {"largest": 0})["largest"], LARGEST)
    for key, state in document.get("estimates", {}).items():
        _check_whole("level", int(key), last)
        _check_plan(state, int(key), last)
    losses, notes = document["losses"], document["notes"]
    if not isinstance(losses, list) or not all(type(loss) is float for loss in losses) or not isinstance(notes, dict):
        raise ValueError("its losses are no list of numbers, or its notes are no dict")


def check_switch(run: Run, switch: Any) -> tuple[int, int, float]:
    """Return the position, the steps and the operations of a level that was left early, if the run can have left it there.

    Raises
    ------
    ValueError
    """
    at, done, spent = switch
    _check_whole("switch", at, len(run.visits) - 1)
    _check_whole("steps", done, run.visits[at].steps)
    if not isinstance(spent, float) or not math.isfinite(spent):
        raise ValueError(f"its switch took {spent!r:.40} operations")
    return at, done, spent


def _check_plan(state: Mapping[str, Any], first: int, last: int) -> None:
    """Refuse the plan of an estimate that no run could have: levels beyond the last one, no samples, or unequal lists."""
    if set(state) != set(PLAN):
        raise ValueError(f"its estimate of level {first} has {', '.join(sorted(state))!r:.80}")
    _check_whole("age", state["age"] + 1, LARGEST)
    levels, sizes, coefficients = state["levels"], state["sizes"], state["coefficients"]
    for level in levels:
        _check_whole("level", level, last)
    if levels and (levels != sorted(set(levels)) or levels[0] != first):
        raise ValueError(f"its estimate of level {first} has the levels {levels!r:.40}")
    for size in sizes:
        _check_whole("number of samples", size - 1, LARGEST)
    if not all(type(a) is float for a in coefficients) or not len(levels) == len(sizes) == len(coefficients):
        raise ValueError("its coefficients are no numbers, one for each level")


def check_same_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], owner: str) -> None:
    """Refuse saved tensors of other names or shapes than those that they replace.

    Raises
    ------
    ValueError
    """
    wrong = [name for name in live.keys() | saved.keys() if name not in live or name not in saved]
    wrong += [name for name in live.keys() & saved.keys() if live[name].shape != saved[name].shape]
    if wrong:
        raise ValueError(f"its tensors of {owner} are not those of the run: {min(wrong)}")


def _check_whole(name: str, number: Any, most: int) -> None:
    """Raise for anything but a whole number from 0 to a bound."""
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError(f"its {name} is {number!r:.40}, and may be a whole number up to {most:,}")
