"""Pairwise aggregation of algebraic multigrid.

Notay, "An aggregation-based algebraic multigrid method", Electron. Trans. Numer. Anal. 37, 2010, algorithm 2.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import merge_heaviest_pairs, merge_in_rounds
from netgraph.environment.kernel_cache import compile_kernel
from netgraph.utils.seeds import make_random

STRONG = 0.25  # an edge is strong above this share of the weight of the unit's heaviest edge
Ints = NDArray[np.int64]


def pairwise(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge strongly coupled units in pairs, as aggregation-based algebraic multigrid does [1]_.

    The unit to which the fewest free units are strongly coupled chooses first, and takes its heaviest free neighbour if
    that edge has more than a quarter of the weight of its heaviest edge. The next pass works on the Galerkin product of
    the graph Laplacian.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Draws the order of units with equally many couplings.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    A pass costs O(n + m) time for m edges. Algorithm 2.2 of [1]_ makes two passes. Here passes repeat until ``n_coarse``
    is reached.

    References
    ----------
    .. [1] Notay, "An aggregation-based algebraic multigrid method", Electron. Trans. Numer. Anal. 37, 2010,
       algorithm 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, pairwise
    >>> weights = np.array([2.0, 3, 2])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> pairwise(AxisGraph("path", path, np.ones(4)), 2)
    array([0, 0, 1, 1])
    """
    return aggregate_with_constraints(lambda part, k: _merge_in_passes(part.adjacency, k, seed), graph, n_coarse)


def _merge_in_passes(adjacency: sparse.csr_array, n_clusters: int, seed: int) -> Ints:
    """Pair and contract in passes. Each pass draws a new order of the vertices."""
    random = make_random(seed)

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        order = random.permutation(between.shape[0])
        return merge_heaviest_pairs(
            between, _pair_by_coupling(between.indptr, between.indices, between.data, order, STRONG), n_clusters
        )

    return merge_in_rounds(adjacency, n_clusters, step)


@compile_kernel()
def _pair_by_coupling(indptr: Any, indices: Any, data: Any, order: Any, strong: Any) -> Any:
    """Return the partner of each vertex, or -1. ``order`` decides between vertices with equally many couplings."""
    # Free vertices stand in doubly linked lists, one for each number of couplings c: first[c] is the head, after[i] and
    # before[i] are the neighbours of i in its list. A vertex changes its list in O(1), so a pass costs O(n + m). The
    # search for the next vertex goes up from `count`. When a pair leaves, the count of any other vertex falls by at most
    # two, one for each of the pair, so the search need not start again from zero.
    n = len(order)
    least, coupled = _count_couplings(indptr, indices, data, strong)
    first = np.full(coupled.max() + 2, -1, dtype=np.int64)
    after, before = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    for i in order[::-1]:
        _insert_vertex(first, after, before, coupled[i], i)
    free = np.ones(n, dtype=np.bool_)
    mate = np.full(n, -1, dtype=np.int64)
    count = 0
    while count < len(first):
        i = first[count]
        if i < 0:
            count += 1
            continue
        j = _find_heaviest_edge(indptr, indices, data, free, i)
        if j >= 0 and data[j] > least[i]:
            mate[i], mate[indices[j]] = indices[j], i
        for k in (i, mate[i]):
            if k >= 0:
                free[k] = False
                _remove_vertex(first, after, before, coupled[k], k)
        for k in (i, mate[i]):
            if k >= 0:
                _release_neighbors(indptr, indices, data, least, free, coupled, first, after, before, k)
        count = 0 if count < 2 else count - 2
    return mate


@compile_kernel()
def _count_couplings(indptr: Any, indices: Any, data: Any, strong: Any) -> Any:
    """Return the weight above which the edges of each vertex are strong, and the number of vertices coupled to each."""
    n = len(indptr) - 1
    least, coupled = np.zeros(n), np.zeros(n, dtype=np.int64)
    for i in range(n):
        for e in range(indptr[i], indptr[i + 1]):
            least[i] = max(least[i], strong * data[e])
        for e in range(indptr[i], indptr[i + 1]):
            if data[e] > least[i]:
                coupled[indices[e]] += 1
    return least, coupled


@compile_kernel()
def _find_heaviest_edge(indptr: Any, indices: Any, data: Any, free: Any, i: Any) -> Any:
    """Return the position of the heaviest edge from i to a free vertex, or -1."""
    best = -1
    for e in range(indptr[i], indptr[i + 1]):
        if indices[e] != i and free[indices[e]] and (best < 0 or data[e] > data[best]):
            best = e
    return best


@compile_kernel()
def _release_neighbors(
    indptr: Any,
    indices: Any,
    data: Any,
    least: Any,
    free: Any,
    coupled: Any,
    first: Any,
    after: Any,
    before: Any,
    k: Any,
) -> Any:
    """Count one coupling less for the free vertices to which k, which was just matched, is strongly coupled."""
    for e in range(indptr[k], indptr[k + 1]):
        j = indices[e]
        if free[j] and data[e] > least[k]:
            _remove_vertex(first, after, before, coupled[j], j)
            coupled[j] -= 1
            _insert_vertex(first, after, before, coupled[j], j)


@compile_kernel()
def _insert_vertex(first: Any, after: Any, before: Any, count: Any, i: Any) -> Any:
    """Put i at the head of the list of ``count``."""
    after[i], before[i] = first[count], -1
    if first[count] >= 0:
        before[first[count]] = i
    first[count] = i


@compile_kernel()
def _remove_vertex(first: Any, after: Any, before: Any, count: Any, i: Any) -> Any:
    """Take i out of the list of ``count``."""
    if before[i] >= 0:
        after[before[i]] = after[i]
    else:
        first[count] = after[i]
    if after[i] >= 0:
        before[after[i]] = before[i]
