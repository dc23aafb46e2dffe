"""All pairs of a small axis: the products of its rows, and the graph of their cosines, which no row needs to be scaled for.

The lengths of rows stand on the diagonal of the products, so that features are read once and never copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.shares import share, spans

BLOCK = 768
SMALL = 256
TILE = 32  # a square of this many numbers a side is turned over within the cache
NEAR, NONE = 1, 2  # what a row of weights may hold: one that rounding cannot tell from 1, and zeros


def products(x: NDArray[Any]) -> NDArray[Any]:
    """Return ``x x'`` (n, n), symmetric to the last digit: blocks on and above the diagonal, turned over."""
    n = len(x)
    out = np.empty((n, n), dtype=x.dtype)
    parts = spans(n, min(BLOCK, max(SMALL, -(-n // 4))))  # small axes are cut up too, so that all threads have some

    def work(pair: tuple[slice, slice]) -> None:
        i, j = pair
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large shows on the diagonal
            np.matmul(x[i], x[j].T, out=out[i, j])  # numpy calls syrk on the diagonal
        if i != j:
            _turn(out, i.start, i.stop, j.start, j.stop)

    share(work, [(i, j) for number, i in enumerate(parts) for j in parts[number:]])
    return out


def cosine_graph(found: NDArray[Any], copies: Callable[[], NDArray[np.int64] | None]) -> sparse.csr_array:
    """Return ``(1 + cos) / 2`` of all pairs, of which ``found`` are the products; the dead, whose product is 0, have no edge.

    Parameters
    ----------
    found : array of shape (n, n)
    copies : callable
        Returns for each row a number that its copies share, -1 where it has none; asked only where some are near.
    """
    n = len(found)
    squares = found.diagonal()
    alive = (squares > 0).astype(found.dtype) / 2
    lengths = np.sqrt(2 * squares)
    inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=squares > 0)
    weights, columns = np.empty(n * max(n - 1, 0), dtype=found.dtype), np.empty(n * max(n - 1, 0), dtype=np.int32)
    seen: list[int] = []
    share(
        lambda s: seen.append(_weigh(found, alive, inverse, weights, columns, s.start, s.stop)),
        spans(n, max(1, (1 << 18) // max(n, 1))),
    )
    starts = np.arange(n + 1, dtype=np.int32) * np.int32(max(n - 1, 0))
    if any(s & NEAR for s in seen) and (number := copies()) is not None:
        _alike(weights, number)
    graph = sparse.csr_array((weights, columns, starts), shape=(n, n))
    if any(s & NONE for s in seen):
        graph.eliminate_zeros()
    return graph


@njit(nogil=True, cache=True)
def _turn(out, i, i_stop, j, j_stop):  # type: ignore[no-untyped-def]
    for first in range(i, i_stop, TILE):
        for c in range(j, j_stop):
            for r in range(first, min(first + TILE, i_stop)):
                out[c, r] = out[r, c]


@njit(nogil=True, cache=True)
def _weigh(found, alive, inverse, weights, columns, lo, hi):  # type: ignore[no-untyped-def]
    """Write the rows lo .. hi of the graph, and return what they hold."""
    n, seen = len(inverse), np.int32(0)
    for r in range(lo, hi):
        before, after = slice(r * (n - 1), r * n), slice(r * n, (r + 1) * (n - 1))
        seen |= _row(
            found[r, :r], 2 * alive[r], alive[:r], inverse[r], inverse[:r], weights[before], columns[before], 0
        )
        seen |= _row(
            found[r, r + 1 :],
            2 * alive[r],
            alive[r + 1 :],
            inverse[r],
            inverse[r + 1 :],
            weights[after],
            columns[after],
            r + 1,
        )
    return seen


@njit(nogil=True, cache=True)
def _row(found, base, alive, scale, inverse, weights, columns, start):  # type: ignore[no-untyped-def]
    """Write a run of one row; each array starts at 0, so that many entries are worked at once."""
    zero, one = found.dtype.type(0), found.dtype.type(1)
    below, near, seen = np.nextafter(one, zero), found.dtype.type(0.999), np.int32(0)
    for c in range(len(found)):
        w = base * alive[c] + found[c] * (scale * inverse[c])
        w = w if w > zero else zero
        w = w if w < below else below
        seen |= np.int32(w > near) | (np.int32(w == zero) << np.int32(1))
        weights[c] = w
    for c in range(len(columns)):
        columns[c] = np.int32(start + c)
    return seen


@njit(nogil=True, cache=True)
def _alike(weights, number):  # type: ignore[no-untyped-def]
    """Give copies the weight 1."""
    n = len(number)
    for r in range(n):
        for c in range(n if number[r] >= 0 else 0):
            if c != r and number[c] == number[r]:
                weights[r * (n - 1) + c - (c > r)] = 1
