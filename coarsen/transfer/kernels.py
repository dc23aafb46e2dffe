"""One pass: two dimensions of an array moved at once, each number read and written a single time.

A row of the coarse array is made from the rows of its aggregate while they are in cache; the sparse product R W P would
go over W three times (the fused row-wise product of Gustavson, ACM TOMS 4(3), 1978, with one entry a column).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from netgraph.utils.parallel import parallel_for, split_range

PART = 1 << 18  # numbers that a thread takes at once
Shape = tuple[int, int, int, int, int]
Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IndexMap:
    """One dimension's aggregates, -1 for an entry that is left out, and the factor of each of them.

    Parameters
    ----------
    aggregates : int array of shape (n,)
    scale : array of shape (k,)
    """

    aggregates: NDArray[np.int64]
    scale: NDArray[np.float64]
    _repeated: dict[int, IndexMap] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def members(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Entries in the order of their aggregates, and where each aggregate starts, (k + 1,)."""
        order, starts = _sort_by_aggregate(self.aggregates, len(self.scale))
        return order, starts

    @cached_property
    def pairs(self) -> NDArray[np.uint32]:
        """Both members of each aggregate, (2 k,), n in place of a second; empty where some have more, or none."""
        order, starts = self.members
        sizes = np.diff(starts)
        if not sizes.size or sizes.min() < 1 or sizes.max() > 2:
            return np.empty(0, dtype=np.uint32)
        second = np.where(sizes == 2, order[starts[1:] - 1], len(self.aggregates))
        return np.stack([order[starts[:-1]], second], axis=1).ravel().astype(np.uint32)

    @cached_property
    def sources(self) -> NDArray[np.uint32]:
        """The aggregate of each entry, (n,), and k for an entry that is left out."""
        return np.where(self.aggregates < 0, len(self.scale), self.aggregates).astype(np.uint32)

    @cached_property
    def is_identity(self) -> bool:
        """Whether every entry stays where it is."""
        return len(self.aggregates) == len(self.scale) and bool((self.aggregates == np.arange(len(self.scale))).all())

    @cached_property
    def keeps_all(self) -> bool:
        """Whether no entry is left out."""
        return bool((self.aggregates >= 0).all())

    def repeat_inner(self, times: int) -> IndexMap:
        """Return the way of a dimension and one of ``times`` inside it that stays, as one."""
        if times == 1:
            return self
        if times not in self._repeated:
            inner = self.aggregates[:, None] * times + np.arange(times)
            aggregates = np.where(self.aggregates[:, None] >= 0, inner, -1).ravel()
            self._repeated[times] = IndexMap(aggregates, np.repeat(self.scale, times))
        return self._repeated[times]


IDENTITY = IndexMap(np.zeros(1, dtype=np.int64), np.ones(1))  # a dimension of one that stays


def sum_into_aggregates(
    x: Numbers, shape: Shape, first: IndexMap, second: IndexMap, out: Numbers | None = None
) -> Numbers:
    """Add up aggregates along axes 1 and 3 of an array of this shape, and scale them; returns a flat array.

    Sums are in the precision of ``x``. They are written to ``out``, contiguous and of the same kind, where it is given.
    """
    a, _, m, n2, b = shape
    rows, second = a * len(first.scale) * m, second.repeat_inner(b)
    x, out = x.reshape(-1, n2 * b), _output_array(rows, len(second.scale), x, out)
    ways = *first.members, first.scale.astype(x.dtype), *second.members, second.scale.astype(x.dtype)
    pairs, still = second.pairs, second.is_identity
    _share_rows(lambda s: _sum_kernel(x, out, m, *ways, pairs, still, s.start, s.stop), rows, x.size)
    return out.ravel()


def copy_to_members(x: Numbers, shape: Shape, first: IndexMap, second: IndexMap, out: Numbers | None = None) -> Numbers:
    """Copy scaled aggregates to their members along axes 1 and 3 of an array of this (coarse) shape; as `sum_into_aggregates`."""
    a, k1, m, _, b = shape
    rows, second = a * k1 * m, second.repeat_inner(b)
    x, out = x.reshape(rows, -1), _output_array(a * len(first.aggregates) * m, len(second.aggregates), x, out)
    if not first.keeps_all:
        out[:] = 0
    ways = *first.members, first.scale.astype(x.dtype), second.sources, second.scale.astype(x.dtype), second.is_identity
    _share_rows(lambda s: _copy_kernel(x, out, m, *ways, s.start, s.stop), rows, out.size)
    return out.ravel()


def _output_array(rows: int, columns: int, x: Numbers, out: Numbers | None) -> Numbers:
    return np.empty((rows, columns), dtype=x.dtype) if out is None else out.reshape(rows, columns)


def _share_rows(work: Any, rows: int, numbers: int) -> None:
    """Share out the rows; few numbers are done at once, before a thread would have begun."""
    parts = split_range(rows, max(1, rows * PART // max(numbers, 1)))
    if len(parts) == 1:
        work(parts[0])
    else:
        parallel_for(work, parts)


@njit(nogil=True, cache=True)
def _sort_by_aggregate(aggregates: Any, k: Any) -> Any:
    starts = np.zeros(k + 1, dtype=np.uint32)
    for a in aggregates:
        if a >= 0:
            starts[a + 1] += 1
    for a in range(k):
        starts[a + 1] += starts[a]
    order, at = np.empty(starts[k], dtype=np.uint32), starts[:-1].copy()
    for e in range(len(aggregates)):
        a = aggregates[e]
        if a >= 0:
            order[at[a]] = e
            at[a] += np.uint32(1)
    return order, starts


@njit(nogil=True, cache=True)
def _sum_kernel(
    x: Any,
    out: Any,
    m: Any,
    order1: Any,
    starts1: Any,
    scale1: Any,
    order2: Any,
    starts2: Any,
    scale2: Any,
    pairs: Any,
    still: Any,
    lo: Any,
    hi: Any,
) -> Any:
    k1 = len(scale1)
    n1 = x.shape[0] * k1 // max(out.shape[0], 1)
    row = np.zeros(x.shape[1] + 1, dtype=x.dtype)
    for at in range(lo, hi):
        i, first = at // m % k1, at // (k1 * m) * n1 * m + at % m
        _add_rows(row, x, first, m, order1[starts1[i] : starts1[i + 1]])
        if still:
            _scale_row(row, scale1[i], scale2, out[at])
        elif len(pairs):
            _add_pairs(row, pairs, scale1[i], scale2, out[at])
        else:
            _add_members(row, order2, starts2, scale1[i], scale2, out[at])


@njit(nogil=True, cache=True)
def _add_rows(row: Any, x: Any, first: Any, step: Any, members: Any) -> Any:
    """Write the sum of rows, but for the last entry of ``row``, which stays zero."""
    a = x[first + members[0] * step]
    if len(members) == 1:
        for c in range(len(a)):
            row[c] = a[c]
        return
    b = x[first + members[1] * step]
    for c in range(len(a)):
        row[c] = a[c] + b[c]
    for e in range(2, len(members)):
        a = x[first + members[e] * step]
        for c in range(len(a)):
            row[c] += a[c]


@njit(nogil=True, cache=True)
def _add_pairs(row: Any, pairs: Any, scale: Any, scales: Any, into: Any) -> Any:
    """Add up two members of each aggregate, the zero at the end of the row where it has one."""
    for j in range(len(into)):
        into[j] = (row[pairs[2 * j]] + row[pairs[2 * j + 1]]) * (scale * scales[j])


@njit(nogil=True, cache=True)
def _add_members(row: Any, order: Any, starts: Any, scale: Any, scales: Any, into: Any) -> Any:
    for j in range(len(into)):
        total = row[order[starts[j]]]
        for e in range(starts[j] + 1, starts[j + 1]):
            total += row[order[np.uint32(e)]]
        into[j] = total * (scale * scales[j])


@njit(nogil=True, cache=True)
def _scale_row(row: Any, scale: Any, scales: Any, into: Any) -> Any:
    for j in range(len(into)):
        into[j] = row[j] * (scale * scales[j])


@njit(nogil=True, cache=True)
def _copy_kernel(
    x: Any,
    out: Any,
    m: Any,
    order1: Any,
    starts1: Any,
    scale1: Any,
    sources: Any,
    scale2: Any,
    still: Any,
    lo: Any,
    hi: Any,
) -> Any:
    k1, width = len(scale1), out.shape[1]
    n1 = out.shape[0] * k1 // max(x.shape[0], 1)
    source, row = np.zeros(len(scale2) + 1, dtype=x.dtype), np.empty(width, dtype=x.dtype)
    for at in range(lo, hi):
        i, first = at // m % k1, at // (k1 * m) * n1 * m + at % m
        _scale_row(x[at], scale1[i], scale2, source[:-1])
        if not still:
            for c in range(width):
                row[c] = source[sources[c]]
        for e in range(starts1[i], starts1[i + 1]):
            into, found = out[first + order1[np.uint32(e)] * m], source if still else row
            for c in range(width):
                into[c] = found[c]
