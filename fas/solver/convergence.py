"""Tests for convergence and divergence after each cycle of the finest level, in the words of PETSc::

    |g| < atol,    |g| < rtol |g_0|,    |x - x_before| < stol |x|,    |g| > divtol |g_0| is divergence

g is the gradient of the mean over all minibatches. With ``tolerance.measure = valid`` the loss on validation data takes the
place of its norm. Balay et al., PETSc/TAO users manual, SNESSetTolerances and SNESConvergedDefault.
"""

from __future__ import annotations

import math
from typing import Any

from netgraph.errors import NetgraphError
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.smoother import read_gradients
from netgraph.fas.levels.tau import evaluate_gradient
from netgraph.fas.levels.vectors import copy_vector, norm, subtract_vectors
from netgraph.fas.options.groups import Tolerance
from netgraph.fas.outcome import Outcome
from netgraph.fas.parallel.ranks import on_every_rank
from netgraph.fas.solver.problem import Objective, count_rows
from netgraph.fas.solver.run import Run

MEASURES = {"gradient": "|grad f|", "valid": "the loss on validation data"}


def check_tolerance(tolerance: Tolerance, problem: Objective) -> None:
    """Refuse a tolerance that cannot be measured.

    Raises
    ------
    NetgraphError
        The tolerance is on the loss on validation data, and the problem has no such figure.
    """
    if tolerance.is_set and tolerance.measure == "valid" and getattr(problem, "valid", None) is None:
        raise NetgraphError(
            "tolerance.measure is 'valid', and the problem has no figures on validation data. Give Problem(valid=...), "
            "or take 'gradient'."
        )


@on_every_rank
def check_convergence(run: Run, record: dict[str, Any]) -> None:
    """Measure a run when its finest level begins and after each cycle there, and stop it if a tolerance is met.

    This is the first callback of every run. Its verdict is kept in ``run.notes``, so a resumed run does not measure again.
    """
    tolerance, event = run.options.tolerance, record["event"]
    if not tolerance.is_set or run.top or event not in ("begin", "start", "cycle"):
        return
    if event == "begin" and "norm" in run.notes:  # resumed
        if "tolerance" in run.notes:
            converged, reason, *outcome = run.notes["tolerance"]  # older checkpoints have no outcome
            run.stop(reason, converged=converged, outcome=Outcome(outcome[0]) if outcome else None)
        return
    size = _measure_norm(run, tolerance.measure)
    first = run.notes.setdefault("first norm", size)
    run.notes["norm"], cycles = size, run.cycles - run.notes.setdefault("first cycle", run.cycles)
    run.emit_event("norm", 0, norm=size, cycles=cycles)
    verdict = (
        find_divergence(tolerance, size, first)
        or find_convergence(tolerance, size, first)
        or _find_stagnation(run, tolerance)
    )
    if verdict is None and tolerance.max_it and cycles >= tolerance.max_it:
        verdict = (
            Outcome.DIVERGED_MAX_IT,
            f"{cycles} cycles were taken, max_it, and {MEASURES[tolerance.measure]} is {size:.3g}",
        )
    if verdict is not None:
        outcome, reason = verdict
        run.notes["tolerance"] = [outcome.is_converged, reason, outcome.value]
        run.stop(reason, converged=outcome.is_converged, outcome=outcome)


def find_convergence(tolerance: Tolerance, size: float, first: float) -> tuple[Outcome, str] | None:
    """Return the outcome and the reason in words if the measured size is small enough, otherwise None."""
    measure = MEASURES[tolerance.measure]
    if size < tolerance.atol:
        return Outcome.CONVERGED_FNORM_ABS, f"{measure} is {size:.3g}, below atol = {tolerance.atol:g}"
    if size < tolerance.rtol * first:
        words = f"{measure} is {size / first:.3g} of the first, {first:.3g}, below rtol = {tolerance.rtol:g}"
        return Outcome.CONVERGED_FNORM_RELATIVE, words
    return None


def find_divergence(tolerance: Tolerance, size: float, first: float) -> tuple[Outcome, str] | None:
    """Return the outcome and the reason in words if a run has diverged, otherwise None."""
    measure = MEASURES[tolerance.measure]
    if not math.isfinite(size):
        return Outcome.DIVERGED_FNORM_NAN, f"diverged: {measure} is {size}"
    if size > tolerance.divtol * first > 0:
        return (
            Outcome.DIVERGED_DTOL,
            f"diverged: {measure} is {size / first:.3g} times the first, {first:.3g}, above divtol = {tolerance.divtol:g}",
        )
    return None


def _find_stagnation(run: Run, tolerance: Tolerance) -> tuple[Outcome, str] | None:
    """Return the outcome and the reason in words if the last cycle hardly moved x, otherwise None."""
    if not tolerance.stol:
        return None
    x = run.grids[0].smoother.named
    before, run.before = run.before, copy_vector(x)
    if not before:
        return None
    moved, size = norm(subtract_vectors(x, before)), norm(run.before)
    if moved < tolerance.stol * size:
        words = f"x moved by {moved / size:.3g} of its length in a cycle, below stol = {tolerance.stol:g}"
        return Outcome.CONVERGED_SNORM_RELATIVE, words
    return None


def _measure_norm(run: Run, measure: str) -> float:
    """Return the norm of the mean gradient over all minibatches, or the loss on validation data."""
    if measure == "valid":
        figures = run.evaluate()
        if "loss" not in figures:
            raise NetgraphError(
                f"tolerance.measure is 'valid', and the problem's figures are {', '.join(figures) or 'none'}. Give one called "
                "loss."
            )
        return float(figures["loss"])
    grid = run.grids[0]
    batches = [run.move_to_level(batch, grid) for batch in run.list_data()]
    with run.ledger.clock(0, "norm"):
        evaluate_gradient(grid, run.problem.value, batches, [grid.model])
        size = norm(read_gradients(grid.smoother))
        grid.smoother.optimizer.zero_grad()
    run.ledger.spend(0, "norm", STEP * sum(count_rows(batch) for batch in batches) * run.maps.flops[0])
    return size
