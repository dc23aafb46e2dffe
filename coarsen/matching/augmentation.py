"""Augmentation: exchanges of a few edges that make a matching heavier.

Exchanges around one edge: Pettie and Sanders, "A simpler linear time 2/3 - ε approximation for maximum weight matching",
Information Processing Letters 91(6), 2004. Longer paths: Lin and Kernighan, "An effective heuristic algorithm for the
traveling-salesman problem", Operations Research 21(2), 1973.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.dominant import mate_weights
from netgraph.environment.kernel_cache import compile_kernel
from netgraph.utils.seeds import make_random

# Terms. An arm is an edge (v, a) outside the matching, and it gains its weight minus the weight of the matched edge of a,
# which it replaces. `weight[v]` is the weight of the matched edge of v, zero if v is free, and `mate[v]` is its partner.
#
# Exchange around an edge (v, m). The edge leaves, the best arm of v and the best arm of m come in, and the matched edges at
# their other ends leave as well. If both arms end at one matched pair, its edge leaves once: a cycle of four. Each side
# therefore keeps its two best arms, to different pairs, and two arms that do not meet are chosen among them. An exchange is
# made only if it gains more than 1e-9 of the weight at stake, so the matching grows strictly heavier and rounding cannot
# make the search go round in circles.
#
# Why only a few rounds are needed. The gain of an exchange around v depends on v, its neighbours, and their matched edges.
# `due[v]` marks the vertices where one of these changed, and later rounds visit only those. After about seven rounds no
# exchange gains.
#
# Longer paths, once between the first and the second round. A path grows from both ends by the arm that gains most, even
# if it loses, and the heaviest state on the way is kept, as tours grow in Lin and Kernighan. One pass over all edges halves
# the gap to the optimum that exchanges leave.
#
# The kernels run on one thread in an order drawn from the seed, because an exchange reads what the one before it wrote.
LENGTH = 8  # most edges that a path takes in: 16 gain less than a thousandth more
ROUNDS = 50  # most rounds of exchanges


def augment_matching(adjacency: sparse.csr_array, mate: NDArray[np.int32], seed: int = 0) -> NDArray[np.int32]:
    """Make a matching heavier by exchanges around single edges and along short paths.

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
        Symmetric weights.
    mate : int32 array of shape (n,)
        Partner of each vertex, -1 for an unmatched one.
    seed : int, default 0
        Draws the orders in which vertices are visited.

    Returns
    -------
    mate : int32 array of shape (n,)
        A matching at least as heavy, in which no exchange around one edge gains.
    """
    graph = adjacency.indptr, adjacency.indices, adjacency.data
    mate, weight = mate.copy(), mate_weights(adjacency, mate).astype(np.float64)
    n = len(mate)
    marked, due = np.zeros(n), np.ones(n, dtype=np.bool_)
    path = np.full(n, -1, dtype=np.int32), np.empty((LENGTH + 1, 2), dtype=np.int32), np.empty(LENGTH + 1)
    rng = make_random(seed)
    for number in range(ROUNDS):
        if number == 1:
            _exchange_along_paths(graph, mate, weight, rng.permutation(n).astype(np.int32), due, path)
        mark = np.full(n, -1, dtype=np.int32)
        gained = _exchange_around_edges(graph, mate, weight, rng.permutation(n).astype(np.int32), mark, marked, due)
        if not gained and number:
            break
    return mate


@compile_kernel(nogil=True)
def _exchange_around_edges(graph: Any, mate: Any, weight: Any, order: Any, mark: Any, marked: Any, due: Any) -> Any:
    """Make the best exchange around every matched edge and every free vertex that is due. Return the number of gains."""
    indptr, indices, data = graph
    gained = 0
    for v in order:
        m = mate[v]
        if m > v or not (due[v] or (m >= 0 and due[m])):
            continue  # the other end of the edge is its centre
        due[v] = False
        a1, g1, w1, a2, g2, w2 = _find_two_arms(indptr, indices, data, v, mate, weight, mark, marked)
        if m < 0:
            if g1 > 1e-9 * w1:
                _match_pair(graph, v, a1, w1, mate, weight, due)
                gained += 1
            continue
        due[m] = False
        b1, h1, x1, b2, h2, x2 = _find_two_arms(indptr, indices, data, m, mate, weight, mark, marked)
        gain, a, wa, b, wb = _choose_disjoint_arms(a1, g1, w1, a2, g2, w2, b1, h1, x1, b2, h2, x2, mate)
        for e in range(indptr[m], indptr[m + 1]):  # cycles of four: both arms end at one pair
            c = mate[indices[e]]
            if c >= 0 and c != m and mark[c] == v and marked[c] + data[e] - weight[c] > gain:
                gain, a, wa, b, wb = marked[c] + data[e] - weight[c], c, marked[c], indices[e], float(data[e])
        if gain - weight[v] > 1e-9 * weight[v]:
            _unmatch_vertex(graph, v, mate, weight, due)
            if a >= 0:
                _match_pair(graph, v, a, wa, mate, weight, due)
            if b >= 0:
                _match_pair(graph, m, b, wb, mate, weight, due)
            gained += 1
    return gained


@compile_kernel(nogil=True)
def _find_two_arms(indptr: Any, indices: Any, data: Any, v: Any, mate: Any, weight: Any, mark: Any, marked: Any) -> Any:
    """Return the two best arms of v, to different matched pairs, and mark the neighbours of v with their weights."""
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


@compile_kernel(nogil=True)
def _choose_disjoint_arms(
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
    """Return the joint gain of the best two arms that do not meet, and their ends and weights."""
    if a1 < 0 or b1 < 0 or (a1 != b1 and mate[a1] != b1):
        return g1 + h1, a1, w1, b1, x1
    if g1 + h2 >= g2 + h1:
        return g1 + h2, a1, w1, b2, x2
    return g2 + h1, a2, w2, b1, x1


@compile_kernel(nogil=True)
def _match_pair(graph: Any, v: Any, a: Any, w: Any, mate: Any, weight: Any, due: Any) -> Any:
    """Match v, which is free, with a, and free the mate of a."""
    _unmatch_vertex(graph, a, mate, weight, due)
    mate[v], mate[a] = a, v
    weight[v] = weight[a] = w
    _mark_due(graph, v, due)
    _mark_due(graph, a, due)


@compile_kernel(nogil=True)
def _unmatch_vertex(graph: Any, v: Any, mate: Any, weight: Any, due: Any) -> Any:
    """Remove the edge of v from the matching, if there is one."""
    m = mate[v]
    if m >= 0:
        mate[v] = mate[m] = -1
        weight[v] = weight[m] = 0
        _mark_due(graph, v, due)
        _mark_due(graph, m, due)


@compile_kernel(nogil=True)
def _mark_due(graph: Any, v: Any, due: Any) -> Any:
    """Mark v and its neighbours as due, because their gains may have changed."""
    indptr, indices, _ = graph
    due[v] = True
    for e in range(indptr[v], indptr[v + 1]):
        due[indices[e]] = True


@compile_kernel(nogil=True)
def _exchange_along_paths(graph: Any, mate: Any, weight: Any, order: Any, due: Any, path: Any) -> Any:
    """Grow a path from every matched edge and every free vertex, and exchange along its heaviest state."""
    _, taken, took = path
    for v in order:
        if mate[v] > v:
            continue
        kept = _grow_path(graph, mate, weight, v, path)
        for i in range(kept):
            for u in taken[i]:
                _unmatch_vertex(graph, u, mate, weight, due)
        for i in range(kept):
            _match_pair(graph, taken[i, 0], taken[i, 1], took[i], mate, weight, due)


@compile_kernel(nogil=True)
def _grow_path(graph: Any, mate: Any, weight: Any, v: Any, path: Any) -> Any:
    """Grow a path from v and its mate, and return the number of edges in ``taken`` that come in."""
    # The end whose arm gains more takes it, and goes on from the mate of the other end of that arm. met[u] == v marks the
    # vertices that the path has visited. The edge that would close the heaviest cycle waits in the last row of `taken`.
    met, taken, took = path
    length, total, most, kept, closed = len(took) - 1, -weight[v], 0.0, 0, False
    ends, arms, gains, weights = np.empty(2, np.int32), np.empty(2, np.int32), np.empty(2), np.empty(2)
    for side, end in enumerate((v, mate[v])):
        ends[side], arms[side], gains[side] = end, end, -np.inf
        if end >= 0:
            met[end] = v  # a visited arm makes the loop below search for a new one
    for n in range(length):
        for side in range(2):
            if arms[side] >= 0 and met[arms[side]] == v:
                arms[side], gains[side], weights[side], _ = _find_arm(graph, ends[side], ends[1 - side], weight, met, v)
        side = int(gains[1] > gains[0])
        a, other = arms[side], ends[1 - side]
        if a < 0:
            break
        taken[n, 0], taken[n, 1], took[n] = ends[side], a, weights[side]
        total += gains[side]
        met[a] = v
        if total > most + 1e-9 * took[n]:
            most, kept, closed = total, n + 1, False
        ends[side], arms[side], gains[side] = mate[a], -1, -np.inf
        if mate[a] >= 0:
            met[mate[a]] = v
            arms[side], gains[side], weights[side], back = _find_arm(graph, mate[a], other, weight, met, v)
            if total + back > most + 1e-9 * back:
                most, kept, closed = total + back, n + 1, True
                taken[length, 0], taken[length, 1], took[length] = mate[a], other, back
    if closed:
        taken[kept, 0], taken[kept, 1], took[kept] = taken[length, 0], taken[length, 1], took[length]
    return kept + closed


@compile_kernel(nogil=True)
def _find_arm(graph: Any, end: Any, other: Any, weight: Any, met: Any, v: Any) -> Any:
    """Return the best arm of ``end`` to an unvisited vertex, and the weight of the edge from ``end`` to ``other``."""
    indptr, indices, data = graph
    best, most, heavy, back = np.int32(-1), -np.inf, 0.0, 0.0
    for e in range(indptr[end], indptr[end + 1]):
        a, w = indices[e], float(data[e])
        if a == other:
            back = max(w, 0.0)
        if w - weight[a] > most and w > 0 and met[a] != v:
            best, most, heavy = np.int32(a), w - weight[a], w
    return best, most, heavy, back
