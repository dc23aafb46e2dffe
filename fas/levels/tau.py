"""The coarse right-hand side, tau, and the gate that reads them::

    b_c = grad f_c(inject x) + restrict(b - grad f(x)),      tau = grad f_c(inject x) - restrict(grad f(x))

With b_c the coarse problem has the injected fine solution as its own solution (Brandt, Math. Comp. 31, 1977, section 5). Tau
and the coarse smoothing that follows see the same minibatches. On other minibatches tau would correct the error of another
function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netgraph.fas.levels.grid import Grid, without_side_effects
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import (
    Value,
    check_gradient,
    compute_value,
    hold_gradients,
    mean_over_ranks,
    read_gradients,
    subtract_from_gradients,
)
from netgraph.fas.levels.vectors import Vector, norm, subtract_vectors
from netgraph.fas.options.groups import Gate

FIGURES = ("fine", "coarse", "tau", "restricted", "gradient")


@dataclass
class CoarseProblem:
    """The coarse problem, and the figures that the gate reads.

    If there is one right-hand side for each minibatch, the figures are means over the minibatches.

    Parameters
    ----------
    rhs : list of dict of str to Tensor
        Coarse right-hand sides b_c.
    fine, coarse : float
        f(x) and f_c(inject x), means over the minibatches.
    tau, restricted, gradient : float
        Norms of tau, of restrict(grad f - b) and of grad f - b. NaN if only the gap was measured.
    direction : dict of str to Tensor
        restrict(grad f - b), against which the angle of the correction is measured.
    """

    rhs: list[Vector]
    fine: float
    coarse: float
    tau: float = math.nan
    restricted: float = math.nan
    gradient: float = math.nan
    direction: Vector = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """(f_c(inject x) - f(x)) / |f(x)|."""
        return (self.coarse - self.fine) / max(abs(self.fine), 1e-12)


def form_coarse_problem(
    maps: Maps, level: int, fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any], *, each: bool
) -> CoarseProblem:
    """Form the coarse right-hand side on a set of minibatches.

    Parameters
    ----------
    maps : Maps
    level : int
        The finer level.
    fine, coarse : Grid
        The two levels, the coarse one at inject x.
    value : callable ``(model, minibatch) -> scalar``
    batches : sequence
    each : bool
        True: one right-hand side for each minibatch. False: one for their mean.

    Returns
    -------
    CoarseProblem
    """
    if not each:
        mean_b = _average_vectors(fine.rhs[: len(batches)]) if len(fine.rhs) > 1 else fine.b(0)
        return _form_rhs(maps, level, fine, coarse, value, batches, mean_b)
    parts = [_form_rhs(maps, level, fine, coarse, value, [batch], fine.b(i)) for i, batch in enumerate(batches)]
    means = {name: sum(getattr(part, name) for part in parts) / len(parts) for name in FIGURES}
    return CoarseProblem(
        [part.rhs[0] for part in parts], **means, direction=_average_vectors([part.direction for part in parts])
    )


# The residual grad f - b comes first, in the gradient buffers of the fine level. The gradient buffers of the coarse level
# become b_c = grad f_c - restrict(grad f - b). This equals tau + restrict(b), from which the norm of tau is taken.
def _form_rhs(
    maps: Maps, level: int, fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any], b: Vector
) -> CoarseProblem:
    """Return the coarse problem with one right-hand side, for the mean over the minibatches."""
    models = [fine.model, coarse.model]
    fine_value = evaluate_gradient(fine, value, batches, models)
    problem = CoarseProblem([], fine_value, evaluate_gradient(coarse, value, batches, models))
    subtract_from_gradients(b, fine.smoother.named)
    residual = read_gradients(fine.smoother)
    problem.gradient = norm(residual)
    problem.direction = maps.restrict(level, residual)
    problem.restricted = norm(problem.direction)
    problem.rhs = [read_gradients(coarse.smoother)]  # live: the next line subtracts from these tensors
    subtract_from_gradients(problem.direction, coarse.smoother.named)
    problem.tau = norm(subtract_vectors(problem.rhs[0], maps.restrict(level, b)) if b else problem.rhs[0])
    fine.smoother.optimizer.zero_grad()
    coarse.smoother.optimizer.zero_grad()  # sets .grad to None, which leaves the tensors to b_c
    return problem


def evaluate_gradient(grid: Grid, value: Value, batches: Sequence[Any], models: list[nn.Module]) -> float:
    """Write the mean gradient over minibatches to ``.grad`` without side effects on the models, and return the mean of f."""
    grid.smoother.optimizer.zero_grad()
    total = 0.0
    for i, batch in enumerate(batches, start=1):
        with without_side_effects(models), hold_gradients(value, grid.model, last=i == len(batches)):
            loss = compute_value(grid.model, value, batch, bf16=grid.smoother.options.bf16)
            check_gradient(loss)
            (loss / len(batches)).backward()
        total += float(loss.detach())
    return mean_over_ranks(value, total / len(batches))


def measure_gap(fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any]) -> CoarseProblem:
    """Measure f and f_c, without gradients and without tau."""
    return CoarseProblem([], mean_value(fine, value, batches), mean_value(coarse, value, batches))


@torch.no_grad()
def mean_value(grid: Grid, value: Value, batches: Sequence[Any]) -> float:
    """Return the mean of f over minibatches at x of a level."""
    total = 0.0
    for batch in batches:
        with without_side_effects([grid.model]):
            total += float(compute_value(grid.model, value, batch, bf16=grid.smoother.options.bf16))
    return mean_over_ranks(value, total / len(batches)) if batches else 0.0


# open if   (f_c - f) / |f| <= gap,   |tau| <= tau |restrict(grad f - b)|,   |restrict(grad f - b)| >= kappa |grad f - b|
def refusal_reason(problem: CoarseProblem, gate: Gate) -> str | None:
    """Return in words why the gate is closed, or None if it is open."""
    if not (math.isfinite(problem.fine) and math.isfinite(problem.coarse)):
        return f"the loss is {problem.fine} here and {problem.coarse} on the coarse level"
    if problem.gap > gate.gap:
        return f"the coarse loss is {problem.gap:.1%} above the fine one, more than {gate.gap:.1%}"
    if math.isnan(problem.tau):
        return None
    if problem.tau > gate.tau * problem.restricted:
        part = problem.tau / max(problem.restricted, 1e-300)
        return f"|tau| is {part:.2g} of |restrict grad f|, more than {gate.tau:.2g}"
    if problem.restricted < gate.kappa * problem.gradient:
        part = problem.restricted / max(problem.gradient, 1e-300)
        return f"the coarse level sees {part:.2g} of the gradient, less than {gate.kappa:.2g}"
    return None


def _average_vectors(vectors: Sequence[Vector]) -> Vector:
    """Return the mean of some vectors."""
    mean: Vector = {}
    n = len(vectors)
    for vector in vectors:
        for name, tensor in vector.items():
            mean[name] = mean[name].add_(tensor, alpha=1 / n) if name in mean else tensor / n
    return mean
