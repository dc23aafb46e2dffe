"""The number of units of every axis that meets a target.

The error of merging is measured axis by axis, once (`netgraph.coarsen.hierarchy.budget`). Axes then shrink along one way, from the whole
network to the smallest: always the axis that adds the least loss for what it saves. A target is a place on this way::

    parameters, flops    the cost of every place is known
    latency              the layers' times predict it; what was chosen is measured, and the prediction is scaled by what it missed
    accuracy, error      networks are built and judged at a few places: a bisection
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from netgraph.coarsen.compression.latency import compare_latencies, has_rows, measure_latencies, resize_rows
from netgraph.coarsen.compression.layer_times import predict_latency
from netgraph.coarsen.compression.target import TOLERANCE, Target
from netgraph.coarsen.hierarchy.budget import (
    ErrorCurve,
    Step,
    find_sizes_at_cost,
    grow_back,
    list_larger_sizes,
    measure_error_curves,
    walk_steps,
)
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.partition.size_costs import COSTS, SizeCosts
from netgraph.errors import NothingToMergeError
from netgraph.tracing.unit_spec import Axis

Sizes = dict[str, int]
Build = Callable[[Sizes], nn.Module]
RATIOS = (0.9, 0.75, 0.5, 0.25, 0.125)  # of units that stay, at which errors are measured
JUDGED_ROWS = 32  # on which they are measured
MEASUREMENTS = 5  # of candidates for a latency
SPACING = 0.015  # of the cost of the whole network, between places that are judged: six or seven networks are built


@dataclass
class Chooser:
    """Chooses numbers of units.

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

    Attributes
    ----------
    errors : dict of str to list of float
        The error of merging each axis alone, at each of `RATIOS`.
    """

    builder: LevelBuilder
    example: Any
    round_to: int
    repaired: bool = False
    axes: list[Axis] = field(init=False)
    errors: dict[str, list[float]] = field(init=False)
    curves: dict[str, ErrorCurve] = field(init=False)

    def __post_init__(self) -> None:
        self.builder.plan = replace(self.builder.plan, alike=True)  # as `build_hierarchy` merges with ratios by axis
        step, judge, repaired_judge = self.builder.begin_channels(JUDGED_ROWS)
        self.axes = step.axes
        if not self.axes:
            raise NothingToMergeError(self.builder.plan.explain_nothing(self.builder.spec, None))
        self.errors = measure_error_curves(step, judge, repaired_judge if self.repaired else None, RATIOS)
        self.curves = {
            axis.name: ErrorCurve.of(axis, self.errors[axis.name], self.round_to, RATIOS) for axis in self.axes
        }

    def refuse_whole(self, sizes: Sizes) -> None:
        """Raise an error if these sizes are those of the whole network."""
        if all(sizes.get(axis.name, axis.size) == axis.size for axis in self.axes):
            raise NothingToMergeError(
                "no axis can become smaller for what it saves: each has too few units, or nothing counts its cost. Give another "
                "target, such as parameters=0.5."
            )

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

    def choose_for_share(self, target: Target) -> tuple[Sizes, bool]:
        """Return the sizes for a share of the parameters or FLOPs."""
        costs = COSTS[target.kind](self.builder.spec)
        return self.choose_for_cost(costs, target.value * costs.measure({}))

    def choose_for_latency(self, target: Target, batch: int, build: Build) -> tuple[Sizes, bool]:
        """Return the sizes for a share of the milliseconds.

        Parameters
        ----------
        target : Target
        batch : int
            Rows of the input.
        build : callable ``(sizes) -> network``
            Builds a network of other sizes. Its weights do not matter.
        """
        network = self.builder.root
        example = resize_rows(self.example, batch) if has_rows(self.example) else self.example
        costs = predict_latency(network, self.builder.spec, example)
        whole, share = costs.measure({}), target.value
        tried: list[tuple[float, Sizes]] = []
        for _ in range(MEASUREMENTS):
            sizes, _ = self.choose_for_cost(costs, share * whole)
            self.refuse_whole(sizes)
            before, after = measure_latencies([network, build(sizes)], example)
            tried.append((compare_latencies(before, after), sizes))
            if abs(tried[-1][0] - target.value) <= TOLERANCE * target.value:
                break
            share = min(max(share * target.value / tried[-1][0], 0.01), 0.99)
        measured, sizes = min(tried, key=lambda one: (not target.is_met(one[0]), abs(one[0] - target.value)))
        return sizes, target.is_met(measured)

    def choose_for_quality(self, target: Target, judge: Callable[[Sizes], float]) -> tuple[Sizes, bool]:
        """Return the smallest sizes, by FLOPs, whose networks stay within a bound, or the largest below the whole network.

        Parameters
        ----------
        target : Target
            On accuracy or error.
        judge : callable ``(sizes) -> float``
            Builds and repairs a network, and returns what `Target.is_met` takes.
        """
        costs = COSTS["flops"](self.builder.spec)
        if not costs.measure({}):
            costs = COSTS["parameters"](self.builder.spec)
        way = self._list_places(costs)
        low, high = -1, len(way) - 1  # way[low] is good enough; -1 is the whole network
        while high > low:
            middle = (low + high + 1) // 2
            if target.is_met(judge(self._sizes_of(way[middle]))):
                low = middle
            else:
                high = middle - 1
        if not way:
            self.refuse_whole({})
        return self._sizes_of(way[max(low, 0)]), low >= 0

    def _list_places(self, costs: SizeCosts) -> list[Step]:
        """Return places on the way, each cheaper than the one before by `SPACING` of the whole network."""
        places: list[Step] = []
        whole = last = costs.measure({})
        for step in walk_steps(self.axes, self.curves, costs, round_to=self.round_to):
            cost = costs.measure(step.sizes)
            if last - cost >= SPACING * whole:
                places.append(step)
                last = cost
        return places

    def _sizes_of(self, step: Step) -> Sizes:
        return {axis.name: step.sizes[axis.name] for axis in self.axes}
