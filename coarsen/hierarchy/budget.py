"""One budget for a whole network, spread over its axes by what merging each of them costs.

On each axis the error is measured at the ratios of `GRID`. Axes are then made smaller one step of the grid at a time,
always the axis whose next step adds the least squared error for what it saves, until the budget is met: a greedy
knapsack. Errors of several axes add up as squares, as independent ones do; what came out is measured and reported.
He et al., "AMC: AutoML for model compression", ECCV 2018, chooses ratios by layer too, by reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from netgraph.coarsen.hierarchy.merge_plan import Judge, MergeStep
from netgraph.coarsen.partition.target_size import choose_n_coarse
from netgraph.errors import NetgraphError
from netgraph.tracing.unit_spec import UnitSpec, term_size

GRID = (0.9, 0.75, 0.6, 0.5, 0.35, 0.25, 0.125)
KINDS = ("parameters", "flops", "units", "error")


@dataclass(frozen=True)
class Budget:
    """What a level may cost: a share of the finer level's parameters, FLOPs or free units, or a relative function error.

    Parameters
    ----------
    kind : str
        ``parameters``, ``flops``, ``units`` or ``error``.
    limit : float
    """

    kind: str
    limit: float

    @classmethod
    def parsed(cls, text: str) -> Budget:
        """Read ``parameters=0.5``.

        Raises
        ------
        NetgraphError
            It is not KIND=NUMBER, or the number is not between 0 and 1.
        """
        kind, _, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if kind not in KINDS or not 0 < limit <= 1:
            raise NetgraphError(
                f"budget {text!r} is not KIND=SHARE; give one of {', '.join(KINDS)} and a share above 0 and at most 1, "
                "as in parameters=0.5"
            )
        return cls(kind, limit)


def spread_budget(
    step: MergeStep, budget: Budget, judge: Judge | None, repaired: Judge | None = None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the ratio of every axis within a budget, and the error curve of each axis over `GRID`.

    Parameters
    ----------
    step : Step
    budget : Budget
    judge : callable ``(axis, transfer) -> error``, optional
        Chooses among coarseners; by default the error in the units' own weights does.
    repaired : callable, optional
        Measures the curves, where that is another error: that after repair.

    Raises
    ------
    NetgraphError
        Even the smallest ratios do not meet it.
    """
    curves = measure_error_curves(step, judge, repaired)
    whole = _network_cost(step.spec, {}, budget.kind)
    place, able = dict.fromkeys(curves, -1), set(curves)  # -1 merges nothing
    while (
        budget.kind == "error"
        or _network_cost(step.spec, _coarse_sizes(step, place), budget.kind) > budget.limit * whole
    ):
        able = {name for name in able if place[name] + 1 < len(GRID) and _is_within_budget(budget, curves, place, name)}
        if not able:
            break
        name = min(able, key=lambda name: _step_price(step, budget.kind, curves, place, name))
        place[name] += 1
    if budget.kind != "error" and not able:
        raise NetgraphError(
            f"the budget {budget.kind}={budget.limit} cannot be met with {GRID[-1]} of every axis; give a larger one"
        )
    return {name: GRID[i] if i >= 0 else 1.0 for name, i in place.items()}, curves


def measure_error_curves(
    step: MergeStep, judge: Judge | None = None, repaired: Judge | None = None
) -> dict[str, list[float]]:
    """Return the error of merging each axis alone, at the ratios of `GRID`; by weights where no judge is given."""
    return {
        axis.name: [_measure_error(step, axis.name, ratio, judge, repaired) for ratio in GRID] for axis in step.axes
    }


def _measure_error(step: MergeStep, axis: str, ratio: float, judge: Judge | None, repaired: Judge | None) -> float:
    found, _ = step.best(step.spec.axes[axis], ratio, judge)
    return 0.0 if found is None else (repaired or judge or step.weight_error)(axis, found)


def _is_within_budget(budget: Budget, curves: Mapping[str, list[float]], place: Mapping[str, int], name: str) -> bool:
    """Tell whether one more step on an axis keeps the errors, added as squares, within an error budget."""
    at = {**place, name: place[name] + 1}
    total = sum(curves[axis][i] ** 2 for axis, i in at.items() if i >= 0)
    return budget.kind != "error" or math.sqrt(total) <= budget.limit


def _step_price(
    step: MergeStep, kind: str, curves: Mapping[str, list[float]], place: Mapping[str, int], name: str
) -> float:
    """Return what one more step on an axis adds to the squared error, for each parameter or FLOP that it saves."""
    i = place[name]
    added = curves[name][i + 1] ** 2 - (curves[name][i] ** 2 if i >= 0 else 0.0)
    now, then = (_network_cost(step.spec, _coarse_sizes(step, at), kind) for at in (place, {**place, name: i + 1}))
    return max(added, 0.0) / max(now - then, 1e-9)


def _coarse_sizes(step: MergeStep, place: Mapping[str, int]) -> dict[str, int]:
    return {
        name: choose_n_coarse(step.spec.axes[name], GRID[i], step.way.round_to) for name, i in place.items() if i >= 0
    }


def _network_cost(spec: UnitSpec, sizes: Mapping[str, int], kind: str) -> int:
    """Return the parameters, the FLOPs or the free units of a network with axes of other sizes."""
    resized = spec.with_sizes(dict(sizes))
    if kind == "units":
        return sum(axis.size for axis in resized.free)
    if kind == "flops":
        return resized.flops
    terms = [resized.parameters[name] for name in spec.trainable if name in resized.parameters]
    return sum(math.prod(term_size(term, resized.sizes) for term in found) for found in terms)
