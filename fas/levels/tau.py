"""Going down: the coarse right-hand side and what it tells of the coarse problem::

    b_c = grad f_c(inject x) + restrict(b - grad f(x)),      tau = grad f_c(inject x) - restrict(grad f(x))

Brandt, Math. Comp. 31, 1977, section 5: with b_c the coarse problem has the fine solution, injected, as its own. Tau and the
smoothing that follows see the same minibatches: on others, tau would correct the error of another function.
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
from netgraph.fas.levels.smoother import Value, compute_value, read_gradients, subtract_from_gradients
from netgraph.fas.levels.vectors import Vector, norm, subtract_vectors
from netgraph.fas.options import Gate

FIGURES = ("fine", "coarse", "tau", "restricted", "gradient")


@dataclass
class CoarseProblem:
    """What was found on the way down.

    Parameters
    ----------
    rhs : list of dict of str to Tensor
        The coarse right-hand sides.
    fine, coarse : float
        f(x) and f_c(inject x), means over the minibatches.
    tau, restricted, gradient : float
        Norms of tau, of restrict(grad f - b) and of grad f - b; not a number where no gradient was asked for.
    direction : dict of str to Tensor
        restrict(grad f - b), to measure angles with.

    With a right-hand side for each minibatch, figures are means over them.
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
        The finer one.
    fine, coarse : Grid
        The coarse one at inject x.
    value : callable
    batches : sequence
    each : bool
        One right-hand side for each minibatch, in place of their mean.
    """
    if not each:
        mean_b = _average_vectors(fine.rhs[: len(batches)]) if len(fine.rhs) > 1 else fine.b(0)
        return _form_rhs(maps, level, fine, coarse, value, batches, mean_b)
    parts = [_form_rhs(maps, level, fine, coarse, value, [batch], fine.b(i)) for i, batch in enumerate(batches)]
    means = {name: sum(getattr(part, name) for part in parts) / len(parts) for name in FIGURES}
    return CoarseProblem(
        [part.rhs[0] for part in parts], **means, direction=_average_vectors([part.direction for part in parts])
    )


def _form_rhs(
    maps: Maps, level: int, fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any], b: Vector
) -> CoarseProblem:
    models = [fine.model, coarse.model]
    found = CoarseProblem(
        [], evaluate_gradient(fine, value, batches, models), evaluate_gradient(coarse, value, batches, models)
    )
    subtract_from_gradients(b, fine.smoother.named)
    residual = read_gradients(fine.smoother)
    found.gradient = norm(residual)
    found.direction = maps.restrict(level, residual)
    found.restricted = norm(found.direction)
    found.rhs = [read_gradients(coarse.smoother)]  # that memory is the right-hand side's from here on
    subtract_from_gradients(found.direction, coarse.smoother.named)
    # tau itself is without what came from the finer level: b_c = tau + restrict(b)
    found.tau = norm(subtract_vectors(found.rhs[0], maps.restrict(level, b)) if b else found.rhs[0])
    fine.smoother.optimizer.zero_grad()
    coarse.smoother.optimizer.zero_grad()
    return found


def evaluate_gradient(grid: Grid, value: Value, batches: Sequence[Any], models: list[nn.Module]) -> float:
    """Leave the mean gradient over minibatches in ``.grad``, and return the mean of f."""
    grid.smoother.optimizer.zero_grad()
    total = 0.0
    for batch in batches:
        with without_side_effects(models):
            loss = compute_value(grid.model, value, batch, bf16=grid.smoother.options.bf16)
            (loss / len(batches)).backward()
        total += float(loss.detach())
    return total / len(batches)


def measure_gap(fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any]) -> CoarseProblem:
    """Measure f and f_c alone, for cycles without tau."""
    return CoarseProblem([], mean_value(fine, value, batches), mean_value(coarse, value, batches))


@torch.no_grad()
def mean_value(grid: Grid, value: Value, batches: Sequence[Any]) -> float:
    """Return the mean of f over minibatches at a level's x."""
    total = 0.0
    for batch in batches:
        with without_side_effects([grid.model]):
            total += float(compute_value(grid.model, value, batch, bf16=grid.smoother.options.bf16))
    return total / max(len(batches), 1)


def refusal_reason(found: CoarseProblem, gate: Gate) -> str | None:
    """Return in words why the coarse step is not taken; None where the gate is open."""
    if not (math.isfinite(found.fine) and math.isfinite(found.coarse)):
        return f"the loss is {found.fine} here and {found.coarse} on the coarse level"
    if found.gap > gate.gap:
        return f"the coarse loss is {found.gap:.1%} above the fine one, more than {gate.gap:.1%}"
    if math.isnan(found.tau):
        return None
    if found.tau > gate.tau * found.restricted:
        return (
            f"|tau| is {found.tau / max(found.restricted, 1e-300):.2g} of |restrict grad f|, more than {gate.tau:.2g}"
        )
    if found.restricted < gate.kappa * found.gradient:
        share = found.restricted / max(found.gradient, 1e-300)
        return f"the coarse level sees {share:.2g} of the gradient, less than {gate.kappa:.2g}"
    return None


def _add_mean(total: Vector, part: Vector, n: int) -> None:
    for name, tensor in part.items():
        total[name] = total[name].add_(tensor, alpha=1 / n) if name in total else tensor / n


def _average_vectors(vectors: Sequence[Vector]) -> Vector:
    total: Vector = {}
    for vector in vectors:
        _add_mean(total, vector, len(vectors))
    return total
