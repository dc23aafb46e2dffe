"""When a run has converged, asked after each cycle of the finest level, in the words of PETSc::

    |g| < atol,    |g| < rtol |g_0|,    |x - x_before| < stol |x|,    |g| > divtol |g_0| is divergence

Balay et al., PETSc/TAO users manual, SNESSetTolerances and SNESConvergedDefault. g is the gradient of the mean over all
minibatches, or, where asked for, the loss on validation data stands in the place of its norm.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from netgraph.errors import NetgraphError
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.smoother import read_gradients
from netgraph.fas.levels.tau import evaluate_gradient
from netgraph.fas.levels.vectors import copy_vector, norm, subtract_vectors
from netgraph.fas.options import Tolerance
from netgraph.fas.solver.problem import Objective, count_rows

if TYPE_CHECKING:
    from netgraph.fas.solver.run import Run

WORDS = {"gradient": "|grad f|", "valid": "the loss on validation data"}


def check_tolerance(tolerance: Tolerance, problem: Objective) -> None:
    """Refuse a tolerance that nothing can be measured for.

    Raises
    ------
    NetgraphError
        The loss on validation data is asked for, and the problem has none.
    """
    if tolerance.is_set and tolerance.measure == "valid" and getattr(problem, "valid", None) is None:
        raise NetgraphError(
            "tolerance.measure is 'valid', and the problem has no figures on validation data; give Problem(valid=...), "
            "or take 'gradient'"
        )


def check_convergence(run: Run, record: dict[str, Any]) -> None:
    """Measure a run where it begins its finest level and after each cycle there, and stop it where a tolerance is met."""
    tolerance, event = run.options.tolerance, record["event"]
    if not tolerance.is_set or run.top or event not in ("begin", "start", "cycle"):
        return
    if event == "begin" and "norm" in run.notes:  # resumed
        if "tolerance" in run.notes:
            run.stop(run.notes["tolerance"][1], converged=run.notes["tolerance"][0])
        return
    size = _measure_norm(run, tolerance.measure)
    first = run.notes.setdefault("first norm", size)
    run.notes["norm"], cycles = size, run.cycles - run.notes.setdefault("first cycle", run.cycles)
    run.emit_event("norm", 0, norm=size, cycles=cycles)
    found = (
        find_divergence(tolerance, size, first)
        or find_convergence(tolerance, size, first)
        or _find_stagnation(run, tolerance)
    )
    if found is None and tolerance.max_it and cycles >= tolerance.max_it:
        found = False, f"{cycles} cycles were taken, max_it, and {WORDS[tolerance.measure]} is {size:.3g}"
    if found is not None:
        run.notes["tolerance"] = [*found]
        run.stop(found[1], converged=found[0])


def find_convergence(tolerance: Tolerance, size: float, first: float) -> tuple[bool, str] | None:
    """Return whether, and in words why, a run has converged by what was measured; None where it has not."""
    what = WORDS[tolerance.measure]
    if size < tolerance.atol:
        return True, f"{what} is {size:.3g}, below atol = {tolerance.atol:g}"
    if size < tolerance.rtol * first:
        return True, f"{what} is {size / first:.3g} of the first, {first:.3g}, below rtol = {tolerance.rtol:g}"
    return None


def find_divergence(tolerance: Tolerance, size: float, first: float) -> tuple[bool, str] | None:
    """Return that, and in words why, a run has diverged; None where it has not."""
    what = WORDS[tolerance.measure]
    if not math.isfinite(size):
        return False, f"diverged: {what} is {size}"
    if size > tolerance.divtol * first > 0:
        return (
            False,
            f"diverged: {what} is {size / first:.3g} times the first, {first:.3g}, above divtol = {tolerance.divtol:g}",
        )
    return None


def _find_stagnation(run: Run, tolerance: Tolerance) -> tuple[bool, str] | None:
    if not tolerance.stol:
        return None
    x = run.grids[0].smoother.named
    before, run.before = run.before, copy_vector(x)
    if not before:
        return None
    moved, size = norm(subtract_vectors(x, before)), norm(run.before)
    if moved < tolerance.stol * size:
        return True, f"x moved by {moved / size:.3g} of its length in a cycle, below stol = {tolerance.stol:g}"
    return None


def _measure_norm(run: Run, measure: str) -> float:
    if measure == "valid":
        figures = run.evaluate()
        if "loss" not in figures:
            raise NetgraphError(
                f"tolerance.measure is 'valid', and the problem's figures are {', '.join(figures) or 'none'}; give one called loss"
            )
        return float(figures["loss"])
    grid = run.grids[0]
    batches = [run.placed(batch, grid) for batch in run.problem.batches]
    with run.ledger.clock(0, "norm"):
        evaluate_gradient(grid, run.problem.value, batches, [grid.model])
        size = norm(read_gradients(grid.smoother))
        grid.smoother.optimizer.zero_grad()
    run.ledger.spend(0, "norm", STEP * sum(count_rows(batch) for batch in batches) * run.maps.flops[0])
    return size
