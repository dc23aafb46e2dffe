"""One pass: two dimensions of an array moved at once, each number read and written a single time.

A row of the coarse array is made from the rows of its aggregate while they are in cache; the sparse product R W P would
go over W three times (the fused row-wise product of Gustavson, ACM TOMS 4(3), 1978, with one entry a column).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from netgraph.shares import share, spans

PART = 1 << 18  # numbers that a thread takes at once

Shape = tuple[int, int, int, int, int]


@dataclass(frozen=True, eq=False)
class Way:
    """One dimension's aggregates, -1 for an entry that is left out, and the factor of each of them.

    Parameters
    ----------
    aggregates : int array of shape (n,)
    scale : array of shape (k,)
    """

    aggregates: NDArray[np.int64]
    scale: NDArray[np.float64]

    @cached_property
    def members(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Entries in the order of their aggregates, and where each aggregate starts, (k + 1,)."""
        order = np.argsort(self.aggregates, kind="stable")
        starts = np.searchsorted(self.aggregates[order], np.arange(len(self.scale) + 1))
        return order, starts.astype(np.int64)

    @property
    def is_whole(self) -> bool:
        """Whether no entry is left out."""
        return bool((self.aggregates >= 0).all())


STILL = Way(np.zeros(1, dtype=np.int64), np.ones(1))  # a dimension of one that stays


def down(x: NDArray[Any], shape: Shape, first: Way, second: Way) -> NDArray[Any]:
    """Add up aggregates along axes 1 and 3 of an array of this shape, and scale them; returns a flat array.

    Sums are in the precision of ``x``.
    """
    a, _, m, _, b = shape
    k1, k2 = len(first.scale), len(second.scale)
    x, out = x.reshape(shape), np.empty((a, k1, m, k2, b), dtype=x.dtype)
    ways = *first.members, first.scale.astype(x.dtype), *second.members, second.scale.astype(x.dtype)
    share(lambda s: _down(x, out, *ways, s.start, s.stop), _parts(a * k1 * m, x.size))
    return out.ravel()


def up(x: NDArray[Any], shape: Shape, first: Way, second: Way) -> NDArray[Any]:
    """Copy scaled aggregates to their members along axes 1 and 3 of an array of this (coarse) shape; flat."""
    a, k1, m, _, b = shape
    make = np.empty if first.is_whole else np.zeros
    out = make((a, len(first.aggregates), m, len(second.aggregates), b), dtype=x.dtype)
    ways = *first.members, first.scale.astype(x.dtype), second.aggregates, second.scale.astype(x.dtype)
    x = x.reshape(shape)
    share(lambda s: _up(x, out, *ways, s.start, s.stop), _parts(a * k1 * m, out.size))
    return np.asarray(out.ravel())


def _parts(rows: int, numbers: int) -> list[slice]:
    return spans(rows, max(1, rows * PART // max(numbers, 1)))


@njit(nogil=True, cache=True)
def _down(x, out, order1, starts1, scale1, order2, starts2, scale2, lo, hi):  # type: ignore[no-untyped-def]
    k1, m, b = out.shape[1], x.shape[2], x.shape[4]
    row = np.empty((x.shape[3], b), dtype=x.dtype)
    for at in range(lo, hi):
        outer, i, middle = at // (k1 * m), at // m % k1, at % m
        row[:] = x[outer, order1[starts1[i]], middle]
        for e in range(starts1[i] + 1, starts1[i + 1]):
            row += x[outer, order1[e], middle]
        into = out[outer, i, middle]
        if b == 1:
            _gather(row[:, 0], into[:, 0], order2, starts2, scale1[i], scale2)
            continue
        for j in range(len(scale2)):
            for c in range(b):
                total = row[order2[starts2[j]], c]
                for e in range(starts2[j] + 1, starts2[j + 1]):
                    total += row[order2[e], c]
                into[j, c] = total * (scale1[i] * scale2[j])


@njit(nogil=True, cache=True)
def _gather(row, into, order, starts, scale, scales):  # type: ignore[no-untyped-def]
    """Add up the members of each aggregate of a row; pairs, which most are, without a loop."""
    for j in range(len(scales)):
        e, stop = starts[j], starts[j + 1]
        total = row[np.uint64(order[e])]
        if stop - e == 2:
            total += row[np.uint64(order[e + 1])]
        else:
            for more in range(e + 1, stop):
                total += row[np.uint64(order[more])]
        into[j] = total * (scale * scales[j])


@njit(nogil=True, cache=True)
def _up(x, out, order1, starts1, scale1, aggregates2, scale2, lo, hi):  # type: ignore[no-untyped-def]
    k1, m, b = x.shape[1], x.shape[2], x.shape[4]
    row = np.zeros((len(aggregates2), b), dtype=x.dtype)
    for at in range(lo, hi):
        outer, i, middle = at // (k1 * m), at // m % k1, at % m
        if b == 1:
            source, alone = x[outer, i, middle, :, 0] * scale1[i] * scale2, row[:, 0]
            for j in range(len(aggregates2)):
                if aggregates2[j] >= 0:
                    alone[j] = source[np.uint64(aggregates2[j])]
        for j in range(len(aggregates2) if b > 1 else 0):
            from_ = aggregates2[j]
            if from_ >= 0:
                for c in range(b):
                    row[j, c] = x[outer, i, middle, from_, c] * (scale1[i] * scale2[from_])
        for e in range(starts1[i], starts1[i + 1]):
            out[outer, order1[e], middle] = row
