"""Augmentation: exchanges of a few edges that make a matching heavier.

Pettie and Sanders, "A simpler linear time 2/3 - ε approximation for maximum weight matching", Information Processing
Letters 91(6), 2004.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching import matched_weights

ROUNDS = 6  # over all edges; the first two bring nearly all


def augmented_mates(adjacency: sparse.csr_array, mate: NDArray[np.int32], seed: int = 0) -> NDArray[np.int32]:
    """Return a matching at least as heavy, in which no exchange around one edge gains.

    An exchange takes up to two edges in for one or two or three that leave: paths and cycles of at most five vertices
    or so around one matched edge; `ROUNDS` times over all edges, in an order drawn from ``seed``, or until none gains.
    """
    mate, weight = mate.copy(), matched_weights(adjacency, mate).astype(np.float64)
    n = len(mate)
    mark, marked = np.full(n, -1, dtype=np.int32), np.zeros(n)
    rng = np.random.default_rng(seed)
    for _ in range(ROUNDS):
        order = rng.permutation(n).astype(np.int32)
        mark[:] = -1
        if not _augment(adjacency.indptr, adjacency.indices, adjacency.data, mate, weight, order, mark, marked):
            break
    return mate


@njit(nogil=True, cache=True)
def _augment(indptr: Any, indices: Any, data: Any, mate: Any, weight: Any, order: Any, mark: Any, marked: Any) -> Any:
    """Make the best exchange around every edge of the matching and every free vertex; return how many gained."""
    gained = 0
    for v in order:
        m = mate[v]
        if m > v:
            continue  # an edge is the centre once
        a1, g1, w1, a2, g2, w2 = _arms(indptr, indices, data, v, mate, weight, mark, marked)
        if m < 0:
            if g1 > 1e-9 * w1:
                _join(v, a1, w1, mate, weight)
                gained += 1
            continue
        b1, h1, x1, b2, h2, x2 = _arms(indptr, indices, data, m, mate, weight, mark, marked)
        gain, a, wa, b, wb = _best_two(a1, g1, w1, a2, g2, w2, b1, h1, x1, b2, h2, x2, mate)
        for e in range(indptr[m], indptr[m + 1]):  # cycles of four: both arms end at one pair
            c = mate[indices[e]]
            if c >= 0 and c != m and mark[c] == v and marked[c] + data[e] - weight[c] > gain:
                gain, a, wa, b, wb = marked[c] + data[e] - weight[c], c, marked[c], indices[e], float(data[e])
        if gain - weight[v] > 1e-9 * weight[v]:
            mate[v] = mate[m] = -1
            weight[v] = weight[m] = 0
            if a >= 0:
                _join(v, a, wa, mate, weight)
            if b >= 0:
                _join(m, b, wb, mate, weight)
            gained += 1
    return gained


@njit(nogil=True, cache=True)
def _arms(indptr: Any, indices: Any, data: Any, v: Any, mate: Any, weight: Any, mark: Any, marked: Any) -> Any:
    """Return the two edges of v that gain most for what their other ends lose, to two pairs; mark v's neighbours."""
    a1, g1, w1, a2, g2, w2 = np.int32(-1), 0.0, 0.0, np.int32(-1), 0.0, 0.0
    for e in range(indptr[v], indptr[v + 1]):
        a, w = indices[e], float(data[e])
        if a == v or a == mate[v] or w <= 0:
            continue
        mark[a], marked[a] = v, w
        gain = w - weight[a]
        if gain > g1:
            if mate[a] != a1 or a1 < 0:
                a2, g2, w2 = a1, g1, w1
            a1, g1, w1 = a, gain, w
        elif gain > g2 and (a1 < 0 or mate[a] != a1):
            a2, g2, w2 = a, gain, w
    return a1, g1, w1, a2, g2, w2


@njit(nogil=True, cache=True)
def _best_two(
    a1: Any,
    g1: Any,
    w1: Any,
    a2: Any,
    g2: Any,
    w2: Any,
    b1: Any,
    h1: Any,
    x1: Any,
    b2: Any,
    h2: Any,
    x2: Any,
    mate: Any,
) -> Any:
    """Return the gain and ends of the two best arms that do not meet."""
    if a1 < 0 or b1 < 0 or (a1 != b1 and mate[a1] != b1):
        return g1 + h1, a1, w1, b1, x1
    if g1 + h2 >= g2 + h1:
        return g1 + h2, a1, w1, b2, x2
    return g2 + h1, a2, w2, b1, x1


@njit(nogil=True, cache=True)
def _join(v: Any, a: Any, w: Any, mate: Any, weight: Any) -> Any:
    """Match v and a, and free a's mate."""
    if mate[a] >= 0:
        mate[mate[a]], weight[mate[a]] = -1, 0
    mate[v], mate[a] = a, v
    weight[v] = weight[a] = w
