"""Compiled passes that move two dimensions of an array at once: sums into aggregates, and copies to their members.

This is the fused row-wise sparse product of Gustavson, ACM TOMS 4(3), 1978, with one entry in each column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.environment.kernel_cache import compile_kernel
from netgraph.utils.parallel import parallel_for, split_range

# How memory is walked. An array of shape (a, n1, m, n2, b) is a matrix with a * n1 * m rows of n2 * b numbers. Dimensions n1
# and n2 are mapped, and b is folded into n2 (`IndexMap.repeat_inner`). A coarse row is made from the rows of its
# aggregate: they are added up in one buffer that stays in cache, and the buffer is then reduced along n2 into the result.
# So each number of the fine array is read once and each number of the coarse array is written once, front to back. The
# sparse product R W P would go over W three times, and would store an intermediate matrix. Going up, a coarse row is spread
# along n2 into the buffer once, and the buffer is copied to every member.
#
# Why the result does not depend on threads. A thread takes a run of coarse rows. Going down it writes these rows and nothing
# else. Going up it writes their members, and every fine row has one aggregate. No two threads write the same number, and
# the order of each sum is the order of the members.
#
# The buffer has one entry more than a row, which stays zero. In `IndexMap.pairs` an aggregate of one entry has this position
# as its second member, so pairs are added up without a branch.
PART = 1 << 18  # numbers that a thread takes at once
Shape = tuple[int, int, int, int, int]
Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IndexMap:
    """The map of one dimension from entries to aggregates, with a factor for each aggregate.

    Parameters
    ----------
    aggregates : int array of shape (n,)
        Aggregate of each entry, -1 for an entry that is left out.
    scale : array of shape (k,)
        Factor of each aggregate.
    """

    aggregates: NDArray[np.int64]
    scale: NDArray[np.float64]
    _repeated: dict[int, IndexMap] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def members(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Entries sorted by aggregate, and the start of each aggregate among them, (k + 1,)."""
        order, starts = _sort_by_aggregate(self.aggregates, len(self.scale))
        return order, starts

    @cached_property
    def pairs(self) -> NDArray[np.uint32]:
        """Both members of each aggregate, (2 k,), with n for a missing second one. Empty unless all sizes are 1 or 2."""
        order, starts = self.members
        sizes = np.diff(starts)
        if not sizes.size or sizes.min() < 1 or sizes.max() > 2:
            return np.empty(0, dtype=np.uint32)
        second = np.where(sizes == 2, order[starts[1:] - 1], len(self.aggregates))
        return np.stack([order[starts[:-1]], second], axis=1).ravel().astype(np.uint32)

    @cached_property
    def sources(self) -> NDArray[np.uint32]:
        """Aggregate of each entry, (n,), with k for an entry that is left out."""
        return np.where(self.aggregates < 0, len(self.scale), self.aggregates).astype(np.uint32)

    @cached_property
    def is_identity(self) -> bool:
        """True if every entry is its own aggregate, in order. Factors may differ from 1."""
        return len(self.aggregates) == len(self.scale) and bool((self.aggregates == np.arange(len(self.scale))).all())

    @cached_property
    def keeps_all(self) -> bool:
        """True if no entry is left out."""
        return bool((self.aggregates >= 0).all())

    def repeat_inner(self, times: int) -> IndexMap:
        """Return the map of this dimension flattened with an unmapped inner dimension of size ``times``."""
        if times == 1:
            return self
        if times not in self._repeated:
            positions = self.aggregates[:, None] * times + np.arange(times)
            aggregates = np.where(self.aggregates[:, None] >= 0, positions, -1).ravel()
            self._repeated[times] = IndexMap(aggregates, np.repeat(self.scale, times))
        return self._repeated[times]


IDENTITY = IndexMap(np.zeros(1, dtype=np.int64), np.ones(1))  # of a dimension of size 1


def sum_into_aggregates(
    x: Numbers, shape: Shape, first: IndexMap, second: IndexMap, out: Numbers | None = None
) -> Numbers:
    """Add up aggregates along axes 1 and 3 of an array, and scale the sums.

    Parameters
    ----------
    x : array
        Contiguous, of any shape with the right number of entries. Sums have its precision.
    shape : (a, n1, m, n2, b)
        Shape in which the mapped dimensions are axes 1 and 3.
    first, second : IndexMap
        Maps of axes 1 and 3.
    out : array, optional
        Contiguous array of the same dtype that takes the result.

    Returns
    -------
    array of shape (a * k1 * m * k2 * b,)
    """
    a, _, m, n2, b = shape
    rows, second = a * len(first.scale) * m, second.repeat_inner(b)
    x, out = x.reshape(-1, n2 * b), _output_array(rows, len(second.scale), x, out)
    maps = *first.members, first.scale.astype(x.dtype), *second.members, second.scale.astype(x.dtype)
    pairs, identity = second.pairs, second.is_identity
    _share_rows(lambda s: _sum_kernel(x, out, m, *maps, pairs, identity, s.start, s.stop), rows, x.size)
    return out.ravel()


def copy_to_members(x: Numbers, shape: Shape, first: IndexMap, second: IndexMap, out: Numbers | None = None) -> Numbers:
    """Copy scaled aggregates to their members along axes 1 and 3 of an array. An entry that is left out becomes zero.

    Parameters
    ----------
    x : array
        Contiguous, of any shape with the right number of entries.
    shape : (a, k1, m, k2, b)
        Coarse shape in which the mapped dimensions are axes 1 and 3.
    first, second : IndexMap
        Maps of axes 1 and 3.
    out : array, optional
        Contiguous array of the same dtype that takes the result.

    Returns
    -------
    array of shape (a * n1 * m * n2 * b,)
    """
    a, k1, m, _, b = shape
    rows, second = a * k1 * m, second.repeat_inner(b)
    x, out = x.reshape(rows, -1), _output_array(a * len(first.aggregates) * m, len(second.aggregates), x, out)
    if not first.keeps_all:
        out[:] = 0
    maps = *first.members, first.scale.astype(x.dtype), second.sources, second.scale.astype(x.dtype), second.is_identity
    _share_rows(lambda s: _copy_kernel(x, out, m, *maps, s.start, s.stop), rows, out.size)
    return out.ravel()


def _output_array(rows: int, columns: int, x: Numbers, out: Numbers | None) -> Numbers:
    """Return the array for the result as a matrix: ``out``, or a new one."""
    return np.empty((rows, columns), dtype=x.dtype) if out is None else out.reshape(rows, columns)


def _share_rows(work: Callable[[slice], object], rows: int, numbers: int) -> None:
    """Share the rows among threads. Few numbers are worked at once, which is faster than starting a thread."""
    parts = split_range(rows, max(1, rows * PART // max(numbers, 1)))
    if len(parts) == 1:
        work(parts[0])
    else:
        parallel_for(work, parts)


@compile_kernel(nogil=True)
def _sort_by_aggregate(aggregates: Any, k: Any) -> Any:
    """Sort entries by aggregate (counting sort), and return the starts of the aggregates too."""
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


@compile_kernel(nogil=True)
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
    identity: Any,
    lo: Any,
    hi: Any,
) -> Any:
    """Write the coarse rows lo .. hi - 1. Row (p, i, q) adds up the fine rows (p, e, q) of the members e of i."""
    k1 = len(scale1)
    n1 = x.shape[0] * k1 // max(out.shape[0], 1)
    row = np.zeros(x.shape[1] + 1, dtype=x.dtype)
    for at in range(lo, hi):
        i, first = at // m % k1, at // (k1 * m) * n1 * m + at % m
        _add_rows(row, x, first, m, order1[starts1[i] : starts1[i + 1]])
        if identity:
            _scale_row(row, scale1[i], scale2, out[at])
        elif len(pairs):
            _add_pairs(row, pairs, scale1[i], scale2, out[at])
        else:
            _add_members(row, order2, starts2, scale1[i], scale2, out[at])


@compile_kernel(nogil=True)
def _add_rows(row: Any, x: Any, first: Any, step: Any, members: Any) -> Any:
    """Write the sum of some rows of x into ``row``, except for its last entry, which stays zero."""
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


@compile_kernel(nogil=True)
def _add_pairs(row: Any, pairs: Any, scale: Any, scales: Any, into: Any) -> Any:
    """Write the scaled sum of the two members of each aggregate. A missing member is the zero at the end of ``row``."""
    for j in range(len(into)):
        into[j] = (row[pairs[2 * j]] + row[pairs[2 * j + 1]]) * (scale * scales[j])


@compile_kernel(nogil=True)
def _add_members(row: Any, order: Any, starts: Any, scale: Any, scales: Any, into: Any) -> Any:
    """Write the scaled sum of the members of each aggregate."""
    for j in range(len(into)):
        total = row[order[starts[j]]]
        for e in range(starts[j] + 1, starts[j + 1]):
            total += row[order[np.uint32(e)]]
        into[j] = total * (scale * scales[j])


@compile_kernel(nogil=True)
def _scale_row(row: Any, scale: Any, scales: Any, into: Any) -> Any:
    """Write the scaled row."""
    for j in range(len(into)):
        into[j] = row[j] * (scale * scales[j])


@compile_kernel(nogil=True)
def _copy_kernel(
    x: Any,
    out: Any,
    m: Any,
    order1: Any,
    starts1: Any,
    scale1: Any,
    sources: Any,
    scale2: Any,
    identity: Any,
    lo: Any,
    hi: Any,
) -> Any:
    """Write the members of the coarse rows lo .. hi - 1. The row is spread along n2 once, then copied to each member."""
    k1, width = len(scale1), out.shape[1]
    n1 = out.shape[0] * k1 // max(x.shape[0], 1)
    source, row = np.zeros(len(scale2) + 1, dtype=x.dtype), np.empty(width, dtype=x.dtype)
    for at in range(lo, hi):
        i, first = at // m % k1, at // (k1 * m) * n1 * m + at % m
        _scale_row(x[at], scale1[i], scale2, source[:-1])
        if not identity:
            for c in range(width):
                row[c] = source[sources[c]]
        for e in range(starts1[i], starts1[i + 1]):
            into, values = out[first + order1[np.uint32(e)] * m], source if identity else row
            for c in range(width):
                into[c] = values[c]
