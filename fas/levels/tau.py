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

from netgraph.fas.levels.grid import Grid, still
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import Value, gradients, subtract, value_of
from netgraph.fas.levels.vectors import Vector, minus, norm
from netgraph.fas.options import Gate

FIGURES = ("fine", "coarse", "tau", "restricted", "gradient")


@dataclass
class Descent:
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


def descend(
    maps: Maps, level: int, fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any], *, each: bool
) -> Descent:
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
        mean_b = _mean(fine.rhs[: len(batches)]) if len(fine.rhs) > 1 else fine.b(0)
        return _descend(maps, level, fine, coarse, value, batches, mean_b)
    parts = [_descend(maps, level, fine, coarse, value, [batch], fine.b(i)) for i, batch in enumerate(batches)]
    means = {name: sum(getattr(part, name) for part in parts) / len(parts) for name in FIGURES}
    return Descent([part.rhs[0] for part in parts], **means, direction=_mean([part.direction for part in parts]))


def _descend(
    maps: Maps, level: int, fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any], b: Vector
) -> Descent:
    models = [fine.model, coarse.model]
    found = Descent([], slope(fine, value, batches, models), slope(coarse, value, batches, models))
    subtract(b, fine.smoother.named)
    residual = gradients(fine.smoother)
    found.gradient = norm(residual)
    found.direction = maps.restrict(level, residual)
    found.restricted = norm(found.direction)
    found.rhs = [gradients(coarse.smoother)]  # that memory is the right-hand side's from here on
    subtract(found.direction, coarse.smoother.named)
    # tau itself is without what came from the finer level: b_c = tau + restrict(b)
    found.tau = norm(minus(found.rhs[0], maps.restrict(level, b)) if b else found.rhs[0])
    fine.smoother.optimizer.zero_grad()
    coarse.smoother.optimizer.zero_grad()
    return found


def slope(grid: Grid, value: Value, batches: Sequence[Any], models: list[nn.Module]) -> float:
    """Leave the mean gradient over minibatches in ``.grad``, and return the mean of f."""
    grid.smoother.optimizer.zero_grad()
    total = 0.0
    for batch in batches:
        with still(models):
            loss = value_of(grid.model, value, batch, bf16=grid.smoother.options.bf16)
            (loss / len(batches)).backward()
        total += float(loss.detach())
    return total / len(batches)


def gap_only(fine: Grid, coarse: Grid, value: Value, batches: Sequence[Any]) -> Descent:
    """Measure f and f_c alone, for cycles without tau."""
    return Descent([], mean_value(fine, value, batches), mean_value(coarse, value, batches))


@torch.no_grad()
def mean_value(grid: Grid, value: Value, batches: Sequence[Any]) -> float:
    """Return the mean of f over minibatches at a level's x."""
    total = 0.0
    for batch in batches:
        with still([grid.model]):
            total += float(value_of(grid.model, value, batch, bf16=grid.smoother.options.bf16))
    return total / max(len(batches), 1)


def refusal(found: Descent, gate: Gate) -> str | None:
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


def _mean(vectors: Sequence[Vector]) -> Vector:
    total: Vector = {}
    for vector in vectors:
        _add_mean(total, vector, len(vectors))
    return total
