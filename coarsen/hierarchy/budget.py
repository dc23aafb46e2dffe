"""One budget for a whole network, spread over its axes by the cost of merging each of them.

The relative error e of each axis is measured at the ratios of `GRID`, and its loss is interpolated between them. Axes then shrink by
small steps. The next is always the axis that adds the least loss for its savings, until the budget is met: a greedy knapsack. The last
step goes only so far as it must::

    loss = -log(1 - e²)        e² where e is small; large where nothing of the output is left, though e stays at 1

The shares 1 - e² of the output that survive multiply, as if the errors of several axes were independent. The error of the result is
measured and reported. He et al., "AMC: AutoML for model compression", ECCV 2018, also choose ratios by layer, with reinforcement
learning.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from netgraph.coarsen.hierarchy.merge_plan import Judge, MergeStep
from netgraph.coarsen.partition.size_costs import COSTS, SizeCosts, list_sizes
from netgraph.coarsen.partition.target_size import choose_n_coarse
from netgraph.errors import NetgraphError
from netgraph.tracing.unit_spec import Axis
from netgraph.utils.choices import BUDGETS

GRID = (0.9, 0.75, 0.6, 0.5, 0.35, 0.25, 0.125)
MOST_STEPS = 1200  # of all axes together
MOST_ERROR = 0.999  # of which nothing of the output is left
STEPS = (6, 40)  # of one axis, least and most


@dataclass(frozen=True)
class Budget:
    """A bound on the cost of a level.

    The cost is a share of the finer level's parameters, FLOPs or free units, or a relative functional error.

    Parameters
    ----------
    kind : {"parameters", "flops", "units", "error"}
    limit : float
    """

    kind: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget such as ``parameters=0.5``.

        Raises
        ------
        NetgraphError
            The text is not KIND=NUMBER, or the number is not between 0 and 1.
        """
        kind, _, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if kind not in BUDGETS or not 0 < limit <= 1:
            raise NetgraphError(
                f"budget {text!r} is not KIND=SHARE. Give one of {', '.join(BUDGETS)} and a share above 0 and at most 1, "
                "as in parameters=0.5."
            )
        return cls(kind, limit)


@dataclass(frozen=True)
class ErrorCurve:
    """The loss by merging one axis, at numbers of units from few to many. Between them it is interpolated.

    Parameters
    ----------
    sizes : sequence of float
        Rising numbers of units. The last is the whole axis, without a loss.
    losses : sequence of float
        Falling.
    """

    sizes: Sequence[float]
    losses: Sequence[float]

    @classmethod
    def of(cls, axis: Axis, errors: Sequence[float], round_to: int, grid: Sequence[float] = GRID) -> ErrorCurve:
        """Return the curve of errors that were measured at the ratios of a grid."""
        points = {choose_n_coarse(axis, ratio, round_to): error for ratio, error in zip(grid, errors, strict=True)}
        sizes = sorted(points)
        losses = np.maximum.accumulate([compute_loss(points[n]) for n in reversed(sizes)])[::-1]
        if sizes[-1] < axis.size:
            sizes, losses = [*sizes, axis.size], np.append(losses, 0.0)
        return cls(sizes, losses.tolist())

    def loss(self, size: int) -> float:
        """Return the loss at a number of units."""
        return float(np.interp(size, self.sizes, self.losses))


def compute_loss(error: float) -> float:
    """Return the loss for a relative error. Beyond `MOST_ERROR` it rises with the square, so that worse stays dearer."""
    square, most = min(error, 1e6) ** 2, MOST_ERROR**2
    return -math.log1p(-min(square, most)) + max(square - most, 0.0)


@dataclass(frozen=True)
class Step:
    """One step of an axis to fewer units.

    Parameters
    ----------
    axis : str
    size : int
        Units after it.
    before : int
        Units before it.
    sizes : dict of str to int
        Units of every axis after it.
    loss : float
        Sum of the losses of all axes after it.
    """

    axis: str
    size: int
    before: int
    sizes: dict[str, int]
    loss: float


def walk_steps(
    axes: Sequence[Axis],
    curves: Mapping[str, ErrorCurve],
    costs: SizeCosts,
    *,
    round_to: int = 1,
    most_loss: float = math.inf,
    least: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Step]:
    """Yield steps of axes to fewer units, always the one that adds the least loss for its savings.

    A step may skip sizes, because an axis whose first units are dear may be cheap as a whole. A price changes little while other axes
    shrink. It is therefore computed again only when it is the lowest (a lazy heap).

    Parameters
    ----------
    axes : sequence of Axis
    curves : dict of str to ErrorCurve
        By axis.
    costs : SizeCosts
        What is to be saved.
    round_to : int, default 1
        Numbers of units become multiples of it, if possible.
    most_loss : float, optional
        Steps beyond this sum of losses are left out.
    least : dict of str to int, default {}
        Fewest units of some axes.
    """
    ladders = {
        axis.name: [n for n in _list_ladder(axis, len(axes), round_to) if n >= least.get(axis.name, 0)] for axis in axes
    }
    sizes, places = costs.spec.sizes, dict.fromkeys(ladders, 0)
    now, loss = dict(sizes), 0.0

    def find_cheapest(name: str) -> tuple[float, int]:
        """Return the lowest price of a step of an axis, and its place on the ladder."""
        ladder, place = ladders[name], places[name]
        reach = {min(place + jump, len(ladder)) - 1 for jump in (1, 2, 4, 8, 16, 32)}
        return min((price(name, ladder[i]), i) for i in reach)

    def price(name: str, size: int) -> float:
        """Return the loss that a step adds for each unit of cost that it saves."""
        saved = costs.saving(now, name, size)
        added = curves[name].loss(size) - curves[name].loss(now[name])
        return math.inf if saved <= 0 or loss + added > most_loss else max(added, 0.0) / saved

    heap = [(find_cheapest(name)[0], name) for name, ladder in ladders.items() if ladder]
    heapq.heapify(heap)
    while heap:
        _, name = heapq.heappop(heap)
        current, place = find_cheapest(name)
        if heap and current > heap[0][0]:
            heapq.heappush(heap, (current, name))
            continue
        if current == math.inf:
            continue
        size, before = ladders[name][place], now[name]
        loss += curves[name].loss(size) - curves[name].loss(before)
        now, places[name] = costs.with_size(now, name, size), place + 1
        yield Step(name, size, before, now, loss)
        if places[name] < len(ladders[name]):
            heapq.heappush(heap, (find_cheapest(name)[0], name))


def _list_ladder(axis: Axis, n_axes: int, round_to: int) -> list[int]:
    """Return the numbers of units that an axis may have, from many to few."""
    n = min(max(MOST_STEPS // n_axes, STEPS[0]), STEPS[1])
    least = choose_n_coarse(axis, GRID[-1], round_to)
    if axis.equal is None:
        return list_sizes(axis.size, least, n, round_to)
    counts = {choose_n_coarse(axis, ratio, round_to) for ratio in np.linspace(GRID[-1], 1.0, n, endpoint=False)}
    return sorted((count for count in counts if count < axis.size), reverse=True)


def find_sizes_at_cost(
    steps: Iterator[Step], axes: Sequence[Axis], costs: SizeCosts, limit: float, *, round_to: int = 1
) -> tuple[dict[str, int], bool]:
    """Return the largest sizes on the way of `walk_steps` whose cost is within a limit.

    Parameters
    ----------
    steps : iterator of Step
    axes : sequence of Axis
        Those of the steps.
    costs : SizeCosts
    limit : float
        In the unit of the costs.
    round_to : int, default 1

    Returns
    -------
    sizes : dict of str to int
        By axis that may shrink.
    is_met : bool
        False if even the last step costs more. The sizes are then those of the last step.
    """
    names, sizes = [axis.name for axis in axes], costs.spec.sizes
    is_met = costs.measure(sizes) <= limit
    for step in () if is_met else steps:
        sizes = step.sizes
        if costs.measure(sizes) <= limit:
            axis = costs.spec.axes[step.axis]
            sizes = costs.with_size(sizes, step.axis, _shorten_step(step, axis, costs, limit, round_to))
            is_met = True
            break
    return {name: sizes[name] for name in names}, is_met


def _shorten_step(step: Step, axis: Axis, costs: SizeCosts, limit: float, round_to: int) -> int:
    """Return the largest number of units of the axis of the last step that is within the limit."""
    if axis.equal is not None:
        return step.size
    unit = round_to if axis.size > round_to else 1
    low, high = step.size, step.before  # `low` is within the limit, `high` is not
    while high - low > unit:
        middle = low + (high - low) // (2 * unit) * unit or low + unit
        middle = min(max(middle, low + unit), high - 1)
        if costs.measure(costs.with_size(step.sizes, axis.name, middle)) <= limit:
            low = middle
        else:
            high = middle
    return low


def grow_back(
    sizes: Mapping[str, int],
    axes: Sequence[Axis],
    curves: Mapping[str, ErrorCurve],
    costs: SizeCosts,
    limit: float,
    *,
    round_to: int = 1,
) -> dict[str, int]:
    """Return sizes that fill the room that a last large step has left below a limit.

    The next axis to grow is always the one that wins back the most loss. At the end none can grow within the limit.

    Parameters
    ----------
    sizes : dict of str to int
        Within the limit.
    axes, curves, costs, round_to
        As `walk_steps` takes them.
    limit : float
        In the unit of the costs.
    """
    now = costs.spec.sizes
    for name, size in sizes.items():
        now = costs.with_size(now, name, size)
    ladders = {axis.name: list_larger_sizes(axis, len(axes), round_to) for axis in axes}
    while True:
        room = limit - costs.measure(now)
        grown = {name: _find_largest(now, name, ladder, costs, room) for name, ladder in ladders.items()}
        wins = {name: curves[name].loss(now[name]) - curves[name].loss(n) for name, n in grown.items() if n > now[name]}
        if not wins:
            return {axis.name: now[axis.name] for axis in axes}
        best = max(wins, key=wins.__getitem__)
        now = costs.with_size(now, best, grown[best])


def list_larger_sizes(axis: Axis, n_axes: int, round_to: int) -> list[int]:
    """Return all numbers of units that an axis may have, from few to many."""
    if axis.equal is not None:
        return [*reversed(_list_ladder(axis, n_axes, round_to)), axis.size]
    unit = round_to if axis.size > round_to else 1
    return [*range(unit, axis.size, unit), axis.size]


def _find_largest(now: Mapping[str, int], name: str, ladder: Sequence[int], costs: SizeCosts, room: float) -> int:
    """Return the largest size of an axis that costs at most ``room`` more, by bisection."""
    low, high = bisect.bisect_right(ladder, now[name]), len(ladder)
    while low < high:
        middle = (low + high) // 2
        if -costs.saving(now, name, ladder[middle]) <= room:
            low = middle + 1
        else:
            high = middle
    return max(ladder[low - 1], now[name]) if low else now[name]


def spread_budget(
    step: MergeStep, budget: Budget, judge: Judge | None, repaired: Judge | None = None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the ratio of every axis within a budget, and the error curve of each axis over `GRID`.

    Parameters
    ----------
    step : MergeStep
    budget : Budget
    judge : callable ``(axis, transfer) -> error``, optional
        Chooses among coarseners. By default the error of the units' own weights does.
    repaired : callable ``(axis, transfer) -> error``, optional
        Measures the curves instead of ``judge``: the error after repair.

    Raises
    ------
    NetgraphError
        Even the smallest ratios do not meet the budget.
    """
    measured = measure_error_curves(step, judge, repaired)
    costs, round_to = COSTS[budget.kind](step.spec), step.plan.round_to
    curves = {axis.name: ErrorCurve.of(axis, measured[axis.name], round_to) for axis in step.axes}
    walk = partial(walk_steps, step.axes, curves, costs, round_to=round_to)
    if budget.kind == "error":
        sizes = step.spec.sizes
        for taken in walk(most_loss=compute_loss(budget.limit)):
            sizes = taken.sizes
    else:
        limit = budget.limit * costs.measure({})
        sizes, is_met = find_sizes_at_cost(walk(), step.axes, costs, limit, round_to=round_to)
        if not is_met:
            raise NetgraphError(
                f"the budget {budget.kind}={budget.limit} cannot be met with {GRID[-1]} of every axis. Give a larger one."
            )
    return {axis.name: sizes[axis.name] / axis.size for axis in step.axes}, measured


def measure_error_curves(
    step: MergeStep, judge: Judge | None = None, repaired: Judge | None = None, grid: Sequence[float] = GRID
) -> dict[str, list[float]]:
    """Return the error of merging each axis alone, at the ratios of a grid.

    Without a judge it is the error of the weights.
    """
    curves = {}
    for i, axis in enumerate(step.axes):
        if step.plan.progress is not None:
            step.plan.progress(axis.name, i, len(step.axes))
        curves[axis.name] = [_measure_error(step, axis.name, ratio, judge, repaired) for ratio in grid]
    return curves


def _measure_error(step: MergeStep, axis: str, ratio: float, judge: Judge | None, repaired: Judge | None) -> float:
    """Return the error of merging one axis at one ratio."""
    transfer, _ = step.choose_transfer(step.spec.axes[axis], ratio, judge)
    return 0.0 if transfer is None else (repaired or judge or step.weight_error)(axis, transfer)
