"""One budget for a whole network, spread over its axes by the cost of merging each of them.

The error of each axis is measured at the ratios of `GRID`. Axes then shrink one step of the grid at a time. The next is
always the axis that adds the least squared error for its savings, until the budget is met: a greedy knapsack. Errors of several axes
add up as squares, as if they were independent. The error of the result is measured and reported. He et al., "AMC: AutoML for model
compression", ECCV 2018, also choose ratios by layer, with reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from netgraph.coarsen.hierarchy.merge_plan import Judge, MergeStep
from netgraph.coarsen.partition.target_size import choose_n_coarse
from netgraph.errors import NetgraphError
from netgraph.tracing.unit_spec import UnitSpec, term_size
from netgraph.utils.choices import BUDGETS

GRID = (0.9, 0.75, 0.6, 0.5, 0.35, 0.25, 0.125)


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
    curves = measure_error_curves(step, judge, repaired)
    total = _network_cost(step.spec, {}, budget.kind)
    grid_index, shrinkable = dict.fromkeys(curves, -1), set(curves)  # -1 merges nothing
    while (
        budget.kind == "error"
        or _network_cost(step.spec, _coarse_sizes(step, grid_index), budget.kind) > budget.limit * total
    ):
        shrinkable = {
            name
            for name in shrinkable
            if grid_index[name] + 1 < len(GRID) and _is_within_budget(budget, curves, grid_index, name)
        }
        if not shrinkable:
            break
        name = min(shrinkable, key=lambda name: _step_price(step, budget.kind, curves, grid_index, name))
        grid_index[name] += 1
    if budget.kind != "error" and not shrinkable:
        raise NetgraphError(
            f"the budget {budget.kind}={budget.limit} cannot be met with {GRID[-1]} of every axis. Give a larger one."
        )
    return {name: GRID[i] if i >= 0 else 1.0 for name, i in grid_index.items()}, curves


def measure_error_curves(
    step: MergeStep, judge: Judge | None = None, repaired: Judge | None = None
) -> dict[str, list[float]]:
    """Return the error of merging each axis alone, at the ratios of `GRID`.

    Without a judge it is the error of the weights.
    """
    return {
        axis.name: [_measure_error(step, axis.name, ratio, judge, repaired) for ratio in GRID] for axis in step.axes
    }


def _measure_error(step: MergeStep, axis: str, ratio: float, judge: Judge | None, repaired: Judge | None) -> float:
    """Return the error of merging one axis at one ratio."""
    transfer, _ = step.choose_transfer(step.spec.axes[axis], ratio, judge)
    return 0.0 if transfer is None else (repaired or judge or step.weight_error)(axis, transfer)


def _is_within_budget(
    budget: Budget, curves: Mapping[str, list[float]], grid_index: Mapping[str, int], name: str
) -> bool:
    """Return True if one more step on an axis keeps the sum of squared errors within an error budget."""
    next_index = {**grid_index, name: grid_index[name] + 1}
    total = sum(curves[axis][i] ** 2 for axis, i in next_index.items() if i >= 0)
    return budget.kind != "error" or math.sqrt(total) <= budget.limit


def _step_price(
    step: MergeStep, kind: str, curves: Mapping[str, list[float]], grid_index: Mapping[str, int], name: str
) -> float:
    """Return the squared error that one more step on an axis adds, for each parameter or FLOP that it saves."""
    i = grid_index[name]
    added = curves[name][i + 1] ** 2 - (curves[name][i] ** 2 if i >= 0 else 0.0)
    now, after = (
        _network_cost(step.spec, _coarse_sizes(step, index), kind)
        for index in (grid_index, {**grid_index, name: i + 1})
    )
    return max(added, 0.0) / max(now - after, 1e-9)


def _coarse_sizes(step: MergeStep, grid_index: Mapping[str, int]) -> dict[str, int]:
    """Return the number of units of each axis at its place in the grid."""
    return {
        name: choose_n_coarse(step.spec.axes[name], GRID[i], step.plan.round_to)
        for name, i in grid_index.items()
        if i >= 0
    }


def _network_cost(spec: UnitSpec, sizes: Mapping[str, int], kind: str) -> int:
    """Return the number of parameters, FLOPs or free units of a network with other sizes of axes."""
    resized = spec.with_sizes(dict(sizes))
    if kind == "units":
        return sum(axis.size for axis in resized.free)
    if kind == "flops":
        return resized.flops
    terms = [resized.parameters[name] for name in spec.trainable if name in resized.parameters]
    return sum(math.prod(term_size(term, resized.sizes) for term in parameter_terms) for parameter_terms in terms)
