"""The number of units of every axis, and the blocks, that meet a target.

The error of merging is measured axis by axis, once (`netgraph.coarsen.hierarchy.budget`). Axes then shrink along one way, from the whole
network to the smallest: always the axis that adds the least loss for what it saves. A target is a place on this way::

    parameters, flops    the cost of every place is known
    latency              the layers' times predict it; what was chosen is measured, and the prediction is scaled by what it missed.
                         The goal lies below the target by what repeated measurements differ, because another one judges the result
    accuracy, error      networks are built and judged at a few places: a bisection

Where blocks may go too, there is one way for each number of blocks (`netgraph.coarsen.compression.depth`), which begins with the loss of
the blocks that are missing. The places of least loss are built, and the one of the smallest error is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

from torch import nn

from netgraph.coarsen.compression.latency import has_rows, measure_share, resize_rows
from netgraph.coarsen.compression.layer_times import predict_latency
from netgraph.coarsen.compression.target import TOLERANCE, Target
from netgraph.coarsen.directions.depth import ChainCoarsening
from netgraph.coarsen.hierarchy.budget import (
    ErrorCurve,
    find_sizes_at_cost,
    grow_back,
    list_larger_sizes,
    measure_error_curves,
    walk_steps,
)
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.partition.size_costs import COSTS, SizeCosts
from netgraph.errors import NothingToMergeError
from netgraph.tracing.unit_spec import Axis, UnitSpec

Sizes = dict[str, int]
RATIOS = (0.9, 0.75, 0.5, 0.25, 0.125)  # of units that stay, at which errors are measured
JUDGED_ROWS = 32  # on which they are measured
MEASUREMENTS = 5  # of candidates for a latency
MOST_SPREAD = 0.1  # of measured milliseconds, by which a goal lies below its target
BUILT = 3  # shapes of least loss, of different blocks, of which the best is taken
SPACING = 0.015  # of the cost of the whole network, between places that are judged: six or seven networks are built


@dataclass
class Chooser:
    """Chooses numbers of units of one network, which may have fewer blocks than the original.

    Parameters
    ----------
    builder : LevelBuilder
        Of the network.
    example : Tensor, tuple or dict
        Inputs of the size for which latency matters.
    round_to : int
        Numbers of units become multiples of it, if possible.
    repaired : bool, default False
        Measure errors after repair. This takes several times as long.
    only : collection of str, optional
        Axes whose units may merge. By default all that are free.
    alike : dict of str to str, default {}
        By axis another one, whose number of units it gets (`netgraph.analysis.alike_axes`).
    steps : tuple of ChainCoarsening, default ()
        Blocks that are missing.
    loss : float, default 0
        Of the blocks that are missing.
    known : dict of str to list of float, default {}
        Errors that are measured already.
    must_merge : bool, default True
        Refuse a network whose units all stay.

    Attributes
    ----------
    errors : dict of str to list of float
        The error of merging each axis alone, at each of `RATIOS`.
    """

    builder: LevelBuilder
    example: Any
    round_to: int
    repaired: bool = False
    only: Collection[str] | None = None
    alike: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[ChainCoarsening, ...] = ()
    loss: float = 0.0
    known: Mapping[str, list[float]] = field(default_factory=dict)
    must_merge: bool = True
    axes: list[Axis] = field(init=False)
    errors: dict[str, list[float]] = field(init=False)
    curves: dict[str, ErrorCurve] = field(init=False)

    def __post_init__(self) -> None:
        self.builder.plan = replace(self.builder.plan, alike=True)  # as `build_hierarchy` merges with ratios by axis
        step, judge, repaired_judge = self.builder.begin_channels(JUDGED_ROWS)
        free = [axis for axis in step.axes if self.only is None or axis.name in self.only]
        if not free and self.must_merge:
            raise NothingToMergeError(self.builder.plan.explain_nothing(self.builder.spec, None))
        missing = replace(step, axes=[axis for axis in free if axis.name not in self.known])
        measured = measure_error_curves(missing, judge, repaired_judge if self.repaired else None, RATIOS)
        self.errors = {axis.name: {**self.known, **measured}[axis.name] for axis in free}
        names = {axis.name for axis in free}
        self.alike = {axis: first for axis, first in self.alike.items() if {axis, first} <= names}
        self.axes = [axis for axis in free if axis.name not in self.alike]
        self.curves = {axis.name: self._add_curves([axis, *self._find_followers(axis, free)]) for axis in self.axes}

    @property
    def spec(self) -> UnitSpec:
        """The spec of the network, in which axes that are to be alike follow one another."""
        return replace(self.builder.spec, follows={**self.builder.spec.follows, **self.alike})

    def expand(self, sizes: Sizes) -> Sizes:
        """Return the sizes with those of the axes that follow others."""
        return {**sizes, **{axis: sizes[first] for axis, first in self.alike.items() if first in sizes}}

    def _find_followers(self, axis: Axis, axes: Sequence[Axis]) -> list[Axis]:
        return [other for other in axes if self.alike.get(other.name) == axis.name]

    def _add_curves(self, axes: Sequence[Axis]) -> ErrorCurve:
        """Return the sum of the losses of axes that have equal sizes."""
        curves = [ErrorCurve.of(axis, self.errors[axis.name], self.round_to, RATIOS) for axis in axes]
        sizes = curves[0].sizes
        return ErrorCurve(sizes, [sum(curve.loss(int(size)) for curve in curves) for size in sizes])

    def choose_for_cost(self, costs: SizeCosts, limit: float) -> tuple[Sizes, bool]:
        """Return the largest sizes on the way whose cost is within a limit, and whether there are any."""
        sizes, _ = found = self._fill_limit(costs, limit, self.round_to)
        if not limit * (1 - TOLERANCE) <= costs.measure(sizes) <= limit:  # multiples are too coarse for this network
            return self._fill_limit(costs, limit, 1)
        return found

    def _fill_limit(self, costs: SizeCosts, limit: float, round_to: int) -> tuple[Sizes, bool]:
        """Return sizes in multiples of a number, and whether their cost is within a limit.

        An axis whose aggregates have one size, as a stream before a layer norm, becomes smaller by large steps. The way is
        therefore also gone without the step of such an axis that leads below the limit, and the sizes of less loss are taken.
        """
        sizes, is_met = self._go_to(costs, limit, round_to, {})
        uneven = [axis for axis in self.axes if axis.equal is not None and sizes[axis.name] < axis.size]
        ladders = {axis.name: list_larger_sizes(axis, len(self.axes), round_to) for axis in uneven}
        for name, ladder in ladders.items() if is_met else ():
            other, is_other_met = self._go_to(
                costs, limit, round_to, {name: next(n for n in ladder if n > sizes[name])}
            )
            if is_other_met and self._add_losses(other) < self._add_losses(sizes):
                sizes = other
        return sizes, is_met

    def _go_to(self, costs: SizeCosts, limit: float, round_to: int, least: Sizes) -> tuple[Sizes, bool]:
        """Go on the way until a limit is met, and fill the room that the last step has left."""
        steps = walk_steps(self.axes, self.curves, costs, round_to=round_to, least=least)
        sizes, is_met = find_sizes_at_cost(steps, self.axes, costs, limit, round_to=round_to)
        if is_met:
            sizes = grow_back(sizes, self.axes, self.curves, costs, limit, round_to=round_to)
        return sizes, is_met

    def _add_losses(self, sizes: Sizes) -> float:
        return sum(self.curves[axis.name].loss(sizes[axis.name]) for axis in self.axes)

    def measure_loss(self, sizes: Sizes) -> float:
        """Return the loss of these sizes and of the blocks that are missing."""
        return self.loss + self._add_losses(sizes)

    def list_places(self, costs: SizeCosts, spacing: float) -> list[Sizes]:
        """Return sizes on the way, each cheaper by ``spacing`` than those before. Without blocks they begin with the whole network."""
        last = costs.measure({})
        places = [{axis.name: axis.size for axis in self.axes}] if self.steps else []
        for step in walk_steps(self.axes, self.curves, costs, round_to=self.round_to):
            cost = costs.measure(step.sizes)
            if last - cost >= spacing:
                places.append({axis.name: step.sizes[axis.name] for axis in self.axes})
                last = cost
        return places


class Shape(NamedTuple):
    """Numbers of units in a network of some blocks."""

    base: Chooser
    sizes: Sizes

    @property
    def is_whole(self) -> bool:
        """True if nothing becomes smaller."""
        return not self.base.steps and all(self.sizes.get(axis.name, axis.size) == axis.size for axis in self.base.axes)


Build = Callable[[Shape], nn.Module]


class Selection:
    """Chooses the shape that meets a target.

    Parameters
    ----------
    bases : sequence of Chooser
        The network with all blocks first.
    measure_error : callable ``(shape) -> float``, optional
        Builds and repairs a network, and returns its error on the calibration data. It is asked where there are several bases.

    Attributes
    ----------
    notes : list of str
        Sentences on the choice.
    """

    def __init__(self, bases: Sequence[Chooser], measure_error: Callable[[Shape], float] | None = None) -> None:
        self.bases, self.measure_error = bases, measure_error
        self.whole = bases[0].builder
        self.notes: list[str] = []

    def choose_for_share(self, target: Target) -> tuple[Shape, bool]:
        """Return the shape for a share of the parameters or FLOPs, and whether there is one."""
        costs = [COSTS[target.kind](base.spec) for base in self.bases]
        shapes, is_met = self._choose_shapes(costs, target.value * costs[0].measure({}))
        if is_met and len(shapes) > 1 and self.measure_error is not None:
            return min(shapes[:BUILT], key=self.measure_error), True
        return shapes[0], is_met

    def _choose_shapes(self, costs: Sequence[SizeCosts], limit: float) -> tuple[list[Shape], bool]:
        """Return the shapes within a limit, one for each base, by their loss. If there are none, return that of the lowest cost."""
        within: list[tuple[tuple[float, float], Shape]] = []
        beyond: list[tuple[tuple[float, float], Shape]] = []
        for base, cost in zip(self.bases, costs, strict=True):
            sizes, is_met = base.choose_for_cost(cost, limit)
            spent = cost.measure(sizes)
            place = (base.measure_loss(sizes), -spent) if is_met else (spent, 0.0)
            (within if is_met else beyond).append((place, Shape(base, sizes)))
        return [shape for _, shape in sorted(within or beyond, key=itemgetter(0))], bool(within)

    def choose_for_latency(self, target: Target, batch: int, build: Build) -> tuple[Shape, bool]:
        """Return the shape for a share of the milliseconds, and whether there is one.

        Parameters
        ----------
        target : Target
        batch : int
            Rows of the input.
        build : callable ``(shape) -> network``
            Builds a network of another shape. Its weights do not matter.
        """
        example = self.bases[0].example
        example = resize_rows(example, batch) if has_rows(example) else example
        costs = [predict_latency(base.builder.base, base.spec, example) for base in self.bases]
        whole, share, spread = costs[0].measure({}), target.value, 0.0
        tried: list[tuple[float, Shape]] = []
        for _ in range(MEASUREMENTS):
            shapes, _ = self._choose_shapes(costs, share * whole)
            refuse_whole(shapes[0])
            measured, differed = measure_share(self.whole.root, build(shapes[0]), example)
            tried.append((measured, shapes[0]))
            spread = max(spread, differed)
            goal = target.value * (1 - min(spread, MOST_SPREAD))
            if abs(measured - goal) <= TOLERANCE / 2 * goal:  # the other half is left to the last measurement
                break
            share = min(max(share * goal / measured, 0.01), 0.99)
        measured, shape = min(tried, key=lambda one: (not target.is_met(one[0]), abs(one[0] - goal)))
        self.notes.append(
            f"The search aimed at {goal:.3g} of the milliseconds, because repeated measurements differed by {spread:.0%}."
        )
        return shape, target.is_met(measured)

    def choose_for_quality(self, target: Target, judge: Callable[[Shape], float]) -> tuple[Shape, bool]:
        """Return the smallest shape, by FLOPs, whose network stays within a bound, or the largest below the whole network.

        Parameters
        ----------
        target : Target
            On accuracy or error.
        judge : callable ``(shape) -> float``
            Builds and repairs a network, and returns what `Target.is_met` takes.
        """
        way = self._list_places()
        low, high = -1, len(way) - 1  # way[low] is good enough; -1 is the whole network
        while high > low:
            middle = (low + high + 1) // 2
            if target.is_met(judge(way[middle])):
                low = middle
            else:
                high = middle - 1
        if not way:
            refuse_whole(Shape(self.bases[0], {}))
        return way[max(low, 0)], low >= 0

    def _list_places(self) -> list[Shape]:
        """Return shapes from dear to cheap, about `SPACING` of the whole network apart. None has more loss than a cheaper one."""
        kind = "flops" if COSTS["flops"](self.whole.spec).measure({}) else "parameters"
        costs = [COSTS[kind](base.spec) for base in self.bases]
        spacing = SPACING * costs[0].measure({})
        bins: dict[int, tuple[float, float, Shape]] = {}  # of each stretch of costs the shape of the least loss
        for base, cost in zip(self.bases, costs, strict=True):
            for sizes in base.list_places(cost, spacing):
                entry = (base.measure_loss(sizes), cost.measure(sizes), Shape(base, sizes))
                number = len(bins) if len(self.bases) == 1 else int(entry[1] // spacing)
                if number not in bins or entry[0] < bins[number][0]:
                    bins[number] = entry
        way: list[Shape] = []
        least = math.inf
        for loss, _, shape in sorted(bins.values(), key=lambda entry: entry[1]):
            if loss < least or len(self.bases) == 1:
                way, least = [shape, *way], loss
        return way


def refuse_whole(shape: Shape) -> None:
    """Raise an error if a shape is that of the whole network."""
    if shape.is_whole:
        raise NothingToMergeError(
            "no axis can become smaller for what it saves: each has too few units, or nothing counts its cost. Give another "
            "target, such as parameters=0.5."
        )
