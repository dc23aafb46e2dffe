"""Coming up: the coarse correction, its length and its acceptance::

    x <- x + s d,    d = prolong(y - inject x),    s the first of a few lengths that lowers f(x) - <b, x>

on the common minibatches; where none does, x stays (Nash, Optim. Methods Softw. 14, 2000, section 2: a line search
makes the recursive direction safe).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from netgraph.fas.grid import Grid
from netgraph.fas.maps import Maps
from netgraph.fas.smoother import Value
from netgraph.fas.tau import mean_value
from netgraph.fas.vectors import Vector, assign, copied, dot, minus, norm


@dataclass
class Ascent:
    """What became of a correction.

    Parameters
    ----------
    length : float
        s; 0 where the correction was rejected.
    before, after : float
        f(x) - <b, x> on the common minibatches; not a number where nobody measured.
    size : float
        |d|.
    angle : float
        Cosine between d and the descent direction of the fine level; not a number where that is not known.
    """

    length: float
    before: float = math.nan
    after: float = math.nan
    size: float = 0.0
    angle: float = math.nan


def correction(maps: Maps, level: int, fine: Grid, coarse: Grid) -> Vector:
    """Return d = prolong(y - inject x) of all floating tensors."""
    change = minus({n: t for n, t in coarse.x.items() if t.is_floating_point()}, coarse.injected)
    return maps.prolong(level, change)


def ascend(
    maps: Maps, level: int, fine: Grid, coarse: Grid, value: Value, lengths: tuple[float, ...], direction: Vector
) -> Ascent:
    """Correct a level's x in place.

    Parameters
    ----------
    lengths : tuple of float
        Tried in turn; empty: 1 without measuring.
    direction : dict of str to Tensor
        grad f - b where the level was left; empty where that is not known.
    """
    d = correction(maps, level, fine, coarse)
    found = Ascent(0.0, size=norm({n: d[n] for n in fine.smoother.named if n in d}))
    if direction and found.size:
        found.angle = -dot(direction, d) / max(norm(direction) * found.size, 1e-300)
    if not math.isfinite(found.size):
        return found
    start = copied(fine.x)
    if not lengths:
        _move(fine, coarse, start, d, 1.0)
        found.length = 1.0
        return found
    found.before = shifted_value(fine, value, coarse)
    for length in lengths:
        _move(fine, coarse, start, d, length)
        after = shifted_value(fine, value, coarse)
        if after < found.before:  # false for what is no number
            found.length, found.after = length, after
            return found
    assign(fine.x, start)
    return found


def shifted_value(fine: Grid, value: Value, coarse: Grid) -> float:
    """Return f(x) - <b, x> on the minibatches that the coarse level was given."""
    batches = coarse.common
    linear = sum(dot(fine.b(i), fine.x) for i in range(len(batches))) / max(len(batches), 1) if fine.rhs else 0.0
    return mean_value(fine, value, batches) - linear


@torch.no_grad()
def _move(fine: Grid, coarse: Grid, start: Vector, d: Vector, length: float) -> None:
    """Write start + length d; where nothing merged and the length is one that is y itself, bit for bit."""
    for name, tensor in fine.x.items():
        if not tensor.is_floating_point():
            if tensor.shape == coarse.x[name].shape:
                tensor.copy_(coarse.x[name])
        elif length == 1.0 and _unmerged(start[name], coarse, name):
            tensor.copy_(coarse.x[name])
        else:
            tensor.copy_(start[name]).add_(d[name], alpha=length)


def _unmerged(start: torch.Tensor, coarse: Grid, name: str) -> bool:
    injected = coarse.injected[name]
    return start.shape == injected.shape and torch.equal(start, injected)
