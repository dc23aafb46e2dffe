"""Coming up: the coarse correction, its length and its acceptance::

    x <- x + s d,    d = prolong(y - inject x),    s the first of a few lengths that lowers f(x) - <b, x>

on the common minibatches; where none does, x stays (Nash, Optim. Methods Softw. 14, 2000, section 2: a line search
makes the recursive direction safe). `blend` is what multi-level training of transformers does in its place::

    x <- (1 - s) x + s prolong(y)

which shrinks what the coarse level cannot hold, too, and measures nothing (Zou, Zhang, Sun, "A multi-level framework for
accelerating training transformer models", ICLR 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import Value
from netgraph.fas.levels.tau import CoarseProblem, mean_value
from netgraph.fas.levels.vectors import Vector, assign, copy_vector, dot


@dataclass
class CorrectionResult:
    """What became of a correction.

    Parameters
    ----------
    length : float
        s; 0 where the correction was rejected.
    before, after : float
        f(x) - <b, x> on the common minibatches; not a number where nobody measured.
    tried : int
        Lengths that were measured.
    size : float
        |d|.
    angle : float
        Cosine between d and the descent direction of the fine level; not a number where that is not known.
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
    found: CoarseProblem | None,
    *,
    stayed: bool = False,
) -> CorrectionResult:
    """Correct a level's x in place.

    Parameters
    ----------
    lengths : tuple of float
        Tried in turn; empty: 1 without measuring.
    found : Descent, optional
        What was found where the level was left, for the angle.
    stayed : bool
        Whether x is what it was there, so that f(x) is known.
    """
    whole = {
        n for n in coarse.injected if len(maps.family(level, n)) == 1 and _has_same_bits(fine.x[n], coarse.injected[n])
    }
    change, named = _subtract_injected(coarse), fine.smoother.named
    sizes = [
        float(d.norm()) for name in change for n, d in _prolong_family(maps, level, change, name).items() if n in named
    ]
    taken = CorrectionResult(0.0, size=math.hypot(*sizes))
    if found is not None and found.direction and taken.size:  # <grad f - b, P e> = <restrict(grad f - b), e>
        taken.angle = -dot(found.direction, change) / max(found.gradient * taken.size, 1e-300)
        found.direction = {}
    if not math.isfinite(taken.size):
        return taken
    start = copy_vector(fine.x)
    if not lengths:
        _write_correction(maps, level, fine, coarse, start, change, 1.0, whole)
        taken.length = 1.0
        return taken
    known = found.fine if found is not None and stayed else None
    taken.before = shifted_value(fine, value, coarse, known)
    for length in lengths:
        _write_correction(maps, level, fine, coarse, start, change, length, whole)
        after = shifted_value(fine, value, coarse)
        taken.tried += 1
        if after < taken.before:  # false for what is no number
            taken.length, taken.after = length, after
            return taken
    assign(fine.x, start)
    return taken


@torch.no_grad()
def blend(maps: Maps, level: int, fine: Grid, coarse: Grid, share: float) -> CorrectionResult:
    """Mix a level's x with the prolonged y in place; what counts is taken from y."""
    squares = 0.0
    for name, y in coarse.x.items():
        for member, value in maps.prolong(level, {name: y}).items():
            x = fine.x[member]
            if y.is_floating_point():
                squares += float((value - x).square().sum()) if member in fine.smoother.named else 0.0
                x.lerp_(value, share)
            elif x.shape == value.shape:
                x.copy_(value)
    return CorrectionResult(share, size=math.sqrt(squares))


def shifted_value(fine: Grid, value: Value, coarse: Grid, known: float | None = None) -> float:
    """Return f(x) - <b, x> on the minibatches that the coarse level was given; ``known`` is f(x) where somebody has it."""
    batches = coarse.common
    linear = sum(dot(fine.b(i), fine.x) for i in range(len(batches))) / max(len(batches), 1) if fine.rhs else 0.0
    return (mean_value(fine, value, batches) if known is None else known) - linear


def _prolong_family(maps: Maps, level: int, change: Vector, name: str) -> Vector:
    """Return one family of d = prolong(y - inject x): a whole d would be as large as the network."""
    return maps.prolong(level, {name: change[name]})


def _subtract_injected(coarse: Grid) -> Vector:
    """Return y - inject x, in the memory of inject x, which nobody needs any more; the right-hand side's goes before a copy of x comes."""
    names, coarse.rhs = list(coarse.injected), []
    change = [coarse.injected[name] for name in names]
    torch._foreach_neg_(change)
    torch._foreach_add_(change, [coarse.x[name].detach() for name in names])
    found, coarse.injected = dict(zip(names, change, strict=True)), {}
    return found


@torch.no_grad()
def _write_correction(
    maps: Maps, level: int, fine: Grid, coarse: Grid, start: Vector, change: Vector, length: float, whole: set[str]
) -> None:
    """Write start + length d; where nothing merged and the length is one that is y itself, bit for bit."""
    for name, y in coarse.x.items():
        family = maps.family(level, name)
        if not y.is_floating_point():
            for member in family:
                if fine.x[member].shape == y.shape:
                    fine.x[member].copy_(y)
        elif length == 1.0 and name in whole:
            fine.x[name].copy_(y)
        else:
            for member, d in _prolong_family(maps, level, change, name).items():
                fine.x[member].copy_(start[member]).add_(d, alpha=length)


def _has_same_bits(x: Tensor, injected: Tensor) -> bool:
    return x.shape == injected.shape and torch.equal(x, injected)
