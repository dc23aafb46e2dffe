"""All pairs of a small axis: the products of its rows, and their cosines, which no row needs to be scaled for.

The lengths of rows stand on the diagonal of the products, so that features are read once and never copied. Weights of all
pairs stay in one dense matrix, where the products were: the columns of a sparse one would double what is written and read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.utils.parallel import parallel_for, split_range

BLOCK = 768
SMALL = 256
TILE = 32  # a square of this many numbers a side is turned over within the cache


@dataclass(frozen=True, eq=False)
class AllPairs:
    """The weights of all pairs of an axis' units. `tocsr` and `toarray` are named as scipy names them.

    Parameters
    ----------
    weights : array of shape (n, n)
        Symmetric, non-negative, zero diagonal; zero is no edge.
    """

    weights: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Units, twice."""
        return len(self.weights), len(self.weights)

    def toarray(self) -> NDArray[Any]:
        """Return a copy of the weights."""
        return self.weights.copy()

    def tocsr(self) -> sparse.csr_array:
        """Return the graph of the weights that are not zero."""
        n = len(self.weights)
        data, columns = _off_diagonal_entries(self.weights)
        starts = np.arange(n + 1, dtype=np.int32) * np.int32(max(n - 1, 0))
        graph = sparse.csr_array((data, columns, starts), shape=(n, n))
        if not data.all():
            graph.eliminate_zeros()
        return graph


Affinity: TypeAlias = sparse.csr_array | AllPairs


def multiply_pairs(x: NDArray[Any]) -> NDArray[Any]:
    """Return ``x x'`` (n, n), symmetric to the last digit: blocks on and above the diagonal, turned over."""
    n = len(x)
    out = np.empty((n, n), dtype=x.dtype)
    parts = split_range(
        n, min(BLOCK, max(SMALL, -(-n // 4)))
    )  # small axes are cut up too, so that all threads have some

    def work(pair: tuple[slice, slice]) -> None:
        i, j = pair
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large shows on the diagonal
            np.matmul(x[i], x[j].T, out=out[i, j])  # numpy calls syrk on the diagonal
        if i != j:
            _mirror_block(out, i.start, i.stop, j.start, j.stop)

    parallel_for(work, [(i, j) for number, i in enumerate(parts) for j in parts[number:]])
    return out


def weigh_cosines(found: NDArray[Any], copies: Callable[[], NDArray[np.int64] | None]) -> AllPairs:
    """Write ``(1 + cos) / 2`` of all pairs in the place of their products; the dead, whose product is 0, have no edge.

    Parameters
    ----------
    found : array of shape (n, n)
        The products; overwritten.
    copies : callable
        Returns for each row a number that its copies share, -1 where it has none; asked only where some are near.
    """
    n = len(found)
    squares = found.diagonal().copy()
    alive = (squares > 0).astype(found.dtype) / 2
    lengths = np.sqrt(2 * squares)
    inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=squares > 0)
    near: list[bool] = []
    parallel_for(
        lambda s: near.append(_weigh_rows(found, alive, inverse, s.start, s.stop)),
        split_range(n, max(1, (1 << 18) // max(n, 1))),
    )
    if any(near) and (number := copies()) is not None:
        _weigh_copies(found, number)
    return AllPairs(found)


@njit(nogil=True, cache=True)
def _mirror_block(out: Any, i: Any, i_stop: Any, j: Any, j_stop: Any) -> Any:
    for first in range(i, i_stop, TILE):
        for c in range(j, j_stop):
            for r in range(first, min(first + TILE, i_stop)):
                out[c, r] = out[r, c]


@njit(nogil=True, cache=True)
def _weigh_rows(found: Any, alive: Any, inverse: Any, lo: Any, hi: Any) -> Any:
    """Weigh the rows lo .. hi, and tell whether rounding cannot tell some from 1."""
    near = np.int32(0)
    for r in range(lo, hi):
        row, base = found[r], 2 * alive[r]
        row[r] = 0
        near |= _weigh_run(row[:r], base, alive[:r], inverse[r], inverse[:r])
        near |= _weigh_run(row[r + 1 :], base, alive[r + 1 :], inverse[r], inverse[r + 1 :])
    return near > 0


@njit(nogil=True, cache=True)
def _weigh_run(found: Any, base: Any, alive: Any, scale: Any, inverse: Any) -> Any:
    """Weigh a run of one row; each array starts at 0, so that many entries are worked at once."""
    zero, one = found.dtype.type(0), found.dtype.type(1)
    below, almost, near = np.nextafter(one, zero), found.dtype.type(0.999), np.int32(0)
    for c in range(len(found)):
        w = base * alive[c] + found[c] * (scale * inverse[c])
        w = w if w > zero else zero
        w = w if w < below else below
        near |= np.int32(w > almost)
        found[c] = w
    return near


@njit(nogil=True, cache=True)
def _weigh_copies(weights: Any, number: Any) -> Any:
    """Give copies the weight 1."""
    for r in range(len(number)):
        for c in range(len(number) if number[r] >= 0 else 0):
            if c != r and number[c] == number[r]:
                weights[r, c] = 1


@njit(nogil=True, cache=True)
def _off_diagonal_entries(weights: Any) -> Any:
    """Return the entries beside the diagonal and their columns, row by row."""
    n, at = len(weights), 0
    data, columns = np.empty(n * max(n - 1, 0), dtype=weights.dtype), np.empty(n * max(n - 1, 0), dtype=np.int32)
    for r in range(n):
        for first, stop in ((0, r), (r + 1, n)):
            for c in range(first, stop):
                data[at + c - first], columns[at + c - first] = weights[r, c], c
            at += stop - first
    return data, columns
