"""Matchings of weighted graphs: the locally dominant one, and short augmentations that make it heavier.

Edges have one total order, by weight and then by a hash of their ends, so the locally dominant matching is one and the
same whoever proposes first (Preis, STACS 1999), on any number of threads. Proposals: Manne and Halappanavar, "New
effective multithreaded matching algorithms", IPDPS 2014, algorithm 2. Augmentations: Pettie and Sanders, "A simpler
linear time 2/3 - ε approximation for maximum weight matching", Information Processing Letters 91(6), 2004.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.shares import share, spans

ROWS = 1 << 14  # vertices that a thread takes at once
ROUNDS = 6  # of augmentations; the first two bring nearly all

Mates = tuple[NDArray[np.int32], NDArray[Any]]


def dominant_matching(adjacency: sparse.csr_array, seed: int = 0) -> Mates:
    """Return the matching that takes the heaviest edge whose ends are free, again and again.

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
        Symmetric weights; those that are not above zero, and the diagonal, are no edges.
    seed : int
        Seeds the hash that orders edges of equal weight.

    Returns
    -------
    mate : int32 array of shape (n,)
        -1 where a vertex has none.
    weight : array of shape (n,)
        Of the edge to the mate, zero where there is none.
    """
    n, hashed = adjacency.shape[0], np.uint64(seed % 2**64)
    graph = adjacency.indptr, adjacency.indices, adjacency.data
    ends, tops = np.full((n, 2), -1, dtype=np.int32), np.zeros((n, 2), dtype=adjacency.data.dtype)
    share(lambda s: _heaviest(*graph, hashed, ends, tops, s.start, s.stop), spans(n, ROWS))
    suitor, standing = np.full(n, -1, dtype=np.int32), np.zeros(n, dtype=adjacency.data.dtype)
    _propose(*graph, hashed, ends, tops, suitor, standing)
    return suitor, standing


def augmented_mates(adjacency: sparse.csr_array, mates: Mates, seed: int = 0) -> Mates:
    """Return a matching at least as heavy, in which no exchange around one edge gains.

    An exchange takes up to two edges in for one or two or three that leave: paths and cycles of at most five vertices
    or so around one matched edge; `ROUNDS` times over all edges, in an order drawn from ``seed``, or until none gains.
    """
    mate, weight = mates[0].copy(), mates[1].astype(np.float64)
    n = len(mate)
    mark, marked = np.full(n, -1, dtype=np.int32), np.zeros(n)
    rng = np.random.default_rng(seed)
    for _ in range(ROUNDS):
        order = rng.permutation(n).astype(np.int32)
        mark[:] = -1
        if not _augment(adjacency.indptr, adjacency.indices, adjacency.data, mate, weight, order, mark, marked):
            break
    return mate, weight


@njit(nogil=True, cache=True, inline="always")
def edge_rank(i, j, seed):  # type: ignore[no-untyped-def]
    """Mix the ends of an edge (splitmix64, Steele, Lea and Flood, OOPSLA 2014): its place among equals."""
    x = np.uint64(0x9E3779B97F4A7C15) * np.uint64(min(i, j)) + np.uint64(max(i, j)) + seed
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _heaviest(indptr, indices, data, seed, ends, tops, lo, hi):  # type: ignore[no-untyped-def]
    """Find every vertex' first two edges: a stream of weights, with no look at other vertices."""
    for u in range(lo, hi):
        best, heaviest, second, heavy = np.int32(-1), data.dtype.type(0), np.int32(-1), data.dtype.type(0)
        for e in range(indptr[u], indptr[u + 1]):
            v, w = np.int32(indices[e]), data[e]
            if w < heavy or w <= 0 or v == u:
                continue
            if w > heaviest or (w == heaviest and edge_rank(u, v, seed) < edge_rank(u, best, seed)):
                best, heaviest, second, heavy = v, w, best, heaviest
            elif w > heavy or edge_rank(u, v, seed) < edge_rank(u, second, seed):
                second, heavy = v, w
        ends[u, 0], tops[u, 0], ends[u, 1], tops[u, 1] = best, heaviest, second, heavy


@njit(nogil=True, cache=True)
def _propose(indptr, indices, data, seed, ends, tops, suitor, standing):  # type: ignore[no-untyped-def]
    """Propose to the first edge that the other end prefers to its suitor; who is displaced proposes again."""
    for v in range(len(suitor)):  # each other's first edge: final
        if ends[v, 0] >= 0 and ends[ends[v, 0], 0] == v:
            suitor[v], standing[v] = ends[v, 0], tops[v, 0]
    for start in range(len(suitor)):
        u, v, w = np.int32(start), ends[start, 0], tops[start, 0]
        if v >= 0 and ends[v, 0] == u:
            continue
        while v >= 0:
            if _accepts(v, u, w, suitor, standing, seed):
                displaced = suitor[v]
                suitor[v], standing[v] = u, w
                if displaced < 0:
                    break
                u = displaced
            if v == ends[u, 0]:
                v, w = ends[u, 1], tops[u, 1]
            elif v >= 0:
                v, w = _next(indptr, indices, data, u, suitor, standing, seed)
    _part(suitor, standing)


@njit(nogil=True, cache=True)
def _part(suitor, standing):  # type: ignore[no-untyped-def]
    """Leave alone who has a suitor but is no suitor of theirs."""
    alone = np.zeros(len(suitor), dtype=np.bool_)
    for v in range(len(suitor)):
        alone[v] = suitor[v] >= 0 and suitor[suitor[v]] != v
    for v in range(len(suitor)):
        if alone[v]:
            suitor[v], standing[v] = -1, 0


@njit(nogil=True, cache=True, inline="always")
def _accepts(v, u, w, suitor, standing, seed):  # type: ignore[no-untyped-def]
    if w != standing[v]:
        return w > standing[v]
    return suitor[v] < 0 or edge_rank(u, v, seed) < edge_rank(suitor[v], v, seed)


@njit(nogil=True, cache=True, inline="always")
def _next(indptr, indices, data, u, suitor, standing, seed):  # type: ignore[no-untyped-def]
    """Return the first edge of u that its other end would accept."""
    best, heaviest = np.int32(-1), data.dtype.type(0)
    for e in range(indptr[u], indptr[u + 1]):
        v, w = indices[e], data[e]
        if w < heaviest or w <= 0 or v == u or not _accepts(v, u, w, suitor, standing, seed):
            continue
        if w > heaviest or edge_rank(u, v, seed) < edge_rank(u, best, seed):
            best, heaviest = np.int32(v), w
    return best, heaviest


@njit(nogil=True, cache=True)
def _augment(indptr, indices, data, mate, weight, order, mark, marked):  # type: ignore[no-untyped-def]
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
def _arms(indptr, indices, data, v, mate, weight, mark, marked):  # type: ignore[no-untyped-def]
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
def _best_two(a1, g1, w1, a2, g2, w2, b1, h1, x1, b2, h2, x2, mate):  # type: ignore[no-untyped-def]
    """Return the gain and ends of the two best arms that do not meet."""
    if a1 < 0 or b1 < 0 or (a1 != b1 and mate[a1] != b1):
        return g1 + h1, a1, w1, b1, x1
    if g1 + h2 >= g2 + h1:
        return g1 + h2, a1, w1, b2, x2
    return g2 + h1, a2, w2, b1, x1


@njit(nogil=True, cache=True)
def _join(v, a, w, mate, weight):  # type: ignore[no-untyped-def]
    """Match v and a, and free a's mate."""
    if mate[a] >= 0:
        mate[mate[a]], weight[mate[a]] = -1, 0
    mate[v], mate[a] = a, v
    weight[v] = weight[a] = w
