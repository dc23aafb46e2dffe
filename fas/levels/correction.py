"""Coarse-grid correction: its direction, its length, and the test that accepts it::

    x <- x + s d,    d = prolong(y - inject x),    s the first of a few lengths that lowers f(x) - <b, x>

f is measured on the common minibatches. If no length lowers it, x stays (Nash, Optim. Methods Softw. 14, 2000, section 2: a
line search makes the recursive direction safe). `blend` is the rule of multi-level training of transformers::

    x <- (1 - s) x + s prolong(y)

It measures nothing, and it also shrinks the part of x that the coarse level cannot represent (Zou, Zhang, Sun, "A multi-level
framework for accelerating training transformer models", ICLR 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from netgraph.environment.torch_internals import add_each_, negate_each_
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import Value
from netgraph.fas.levels.tau import CoarseProblem, mean_value
from netgraph.fas.levels.vectors import Vector, as_real, assign, copy_vector, dot, has_directions


@dataclass
class CorrectionResult:
    """Length, gain and size of a correction.

    Parameters
    ----------
    length : float
        s, or 0 if the correction was rejected.
    before, after : float
        f(x) - <b, x> on the common minibatches before and after. NaN if it was not measured.
    tried : int
        Number of lengths that were measured.
    size : float
        |d|.
    angle : float
        Cosine of the angle between d and the descent direction of the fine level. NaN if the direction is unknown.
    """

    length: float
    before: float = math.nan
    after: float = math.nan
    tried: int = 0
    size: float = 0.0
    angle: float = math.nan


def apply_correction(
    maps: Maps,
    level: int,
    fine: Grid,
    coarse: Grid,
    value: Value,
    lengths: tuple[float, ...],
    coarse_problem: CoarseProblem | None,
    *,
    stayed: bool = False,
) -> CorrectionResult:
    """Correct x of the fine level in place.

    Parameters
    ----------
    maps : Maps
    level : int
        The finer level.
    fine, coarse : Grid
        The two levels. ``coarse.injected`` and ``coarse.rhs`` are used up.
    value : callable ``(model, minibatch) -> scalar``
    lengths : tuple of float
        Lengths to try, in this order. Empty: the length is 1, and nothing is measured.
    coarse_problem : CoarseProblem, optional
        The coarse problem as it was formed on the way down. The angle is measured against its direction.
    stayed : bool, default False
        True if x has not changed since the way down. f(x) is then known.

    Returns
    -------
    CorrectionResult
    """
    names = coarse.injected.keys()
    unmerged = {n for n in names if len(maps.family(level, n)) == 1 and _has_same_bits(fine.x[n], coarse.injected[n])}
    change, named = _subtract_injected(coarse), fine.smoother.named
    sizes = [
        float(d.norm()) for name in change for n, d in _prolong_family(maps, level, change, name).items() if n in named
    ]
    result = CorrectionResult(0.0, size=math.hypot(*sizes))
    if coarse_problem is not None and coarse_problem.direction and result.size:
        # <grad f - b, P e> = <restrict(grad f - b), e>, which needs no prolonged vector
        slope = dot(coarse_problem.direction, change)
        result.angle = -slope / max(coarse_problem.gradient * result.size, 1e-300)
        coarse_problem.direction = {}
    if not math.isfinite(result.size):
        return result
    start = copy_vector(fine.x)
    if not lengths:
        _write_correction(maps, level, fine, coarse, start, change, 1.0, unmerged)
        result.length = 1.0
        return result
    fine_value = coarse_problem.fine if coarse_problem is not None and stayed else None
    result.before = shifted_value(fine, value, coarse, fine_value)
    for length in lengths:
        _write_correction(maps, level, fine, coarse, start, change, length, unmerged)
        after = shifted_value(fine, value, coarse)
        result.tried += 1
        if after < result.before:  # False if one of the two is NaN
            result.length, result.after = length, after
            return result
    assign(fine.x, start)
    return result


# x <- (1 - s) x + s prolong(y)
@torch.no_grad()
def blend(maps: Maps, level: int, fine: Grid, coarse: Grid, share: float) -> CorrectionResult:
    """Mix x of the fine level with the prolonged y in place. Integer buffers, which count, are taken from y."""
    squares = 0.0
    for name, y in coarse.x.items():
        for member, value in maps.prolong(level, {name: y}).items():
            x = fine.x[member]
            if has_directions(y):
                squares += float(as_real(value - x).square().sum()) if member in fine.smoother.named else 0.0
                x.lerp_(value, share)
            elif x.shape == value.shape:
                x.copy_(value)
    return CorrectionResult(share, size=math.sqrt(squares))


def shifted_value(fine: Grid, value: Value, coarse: Grid, fine_value: float | None = None) -> float:
    """Return f(x) - <b, x> on the minibatches of the coarse level. ``fine_value`` is f(x), if it is known."""
    batches = coarse.common
    linear = sum(dot(fine.b(i), fine.x) for i in range(len(batches))) / max(len(batches), 1) if fine.rhs else 0.0
    return (mean_value(fine, value, batches) if fine_value is None else fine_value) - linear


def _prolong_family(maps: Maps, level: int, change: Vector, name: str) -> Vector:
    """Return one family of d = prolong(y - inject x). All of d at once would need as much memory as the network."""
    return maps.prolong(level, {name: change[name]})


def _subtract_injected(coarse: Grid) -> Vector:
    """Return y - inject(x), computed in place in the buffers of inject(x).

    The right-hand side is freed first. The copy of x that comes later then does not add to the peak of memory.
    """
    names, coarse.rhs = list(coarse.injected), []
    change = [coarse.injected[name] for name in names]
    negate_each_(change)
    add_each_(change, [coarse.x[name].detach() for name in names])
    coarse.injected = {}
    return dict(zip(names, change, strict=True))


# A parameter in which nothing merged, and that did not change since inject, has d = y - x exactly. At length 1 its corrected
# value is y. Copying y gives it bit for bit, while start + d would round.
@torch.no_grad()
def _write_correction(
    maps: Maps, level: int, fine: Grid, coarse: Grid, start: Vector, change: Vector, length: float, unmerged: set[str]
) -> None:
    """Write start + length d to the fine level. Integer buffers are taken from y."""
    for name, y in coarse.x.items():
        family = maps.family(level, name)
        if not has_directions(y):
            for member in family:
                if fine.x[member].shape == y.shape:
                    fine.x[member].copy_(y)
        elif length == 1.0 and name in unmerged:
            fine.x[name].copy_(y)
        else:
            for member, d in _prolong_family(maps, level, change, name).items():
                fine.x[member].copy_(start[member]).add_(d, alpha=length)


def _has_same_bits(x: Tensor, injected: Tensor) -> bool:
    """Return True if two tensors are equal in shape and bits."""
    return x.shape == injected.shape and torch.equal(x, injected)
