"""Pairwise aggregation of algebraic multigrid.

Notay, "An aggregation-based algebraic multigrid method", Electron. Trans. Numer. Anal. 37, 2010, algorithm 2.1, for
the graph's Laplacian; passes are repeated on the Galerkin matrix (his algorithm 2.2 makes two).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import merge_heaviest_pairs, merge_in_rounds

STRONG = 0.25  # share of a unit's heaviest edge from which an edge is strong
Ints = NDArray[np.int64]


def pairwise(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of units that are strongly coupled, in passes of pairs.

    Units to which few others are strongly coupled choose first, so that few are left without a partner.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
    seed : int
        Orders units with equally many couplings.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(lambda part, k: _merge_in_passes(part.adjacency, k, seed), graph, n_coarse)


def _merge_in_passes(adjacency: sparse.csr_array, n_clusters: int, seed: int) -> Ints:
    random = np.random.default_rng(seed)

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        order = random.permutation(between.shape[0])
        return merge_heaviest_pairs(
            between, _pair_by_coupling(between.indptr, between.indices, between.data, order, STRONG), n_clusters
        )

    return merge_in_rounds(adjacency, n_clusters, step)


@njit(cache=True)
def _pair_by_coupling(indptr: Any, indices: Any, data: Any, order: Any, strong: Any) -> Any:
    """Return the partner of each vertex, -1 where it has none; ``order`` says who of equals is first.

    Free vertices stand in lists, one for each number of couplings: ``first[c]``, ``after`` and ``before``.
    """
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
        count = 0 if count < 2 else count - 2  # two vertices left, and each count fell by two at most
    return mate


@njit(cache=True)
def _count_couplings(indptr: Any, indices: Any, data: Any, strong: Any) -> Any:
    """Return the weight from which each vertex' edges are strong, and how many find each vertex strong."""
    n = len(indptr) - 1
    least, coupled = np.zeros(n), np.zeros(n, dtype=np.int64)
    for i in range(n):
        for e in range(indptr[i], indptr[i + 1]):
            least[i] = max(least[i], strong * data[e])
        for e in range(indptr[i], indptr[i + 1]):
            if data[e] > least[i]:
                coupled[indices[e]] += 1
    return least, coupled


@njit(cache=True)
def _find_heaviest_edge(indptr: Any, indices: Any, data: Any, free: Any, i: Any) -> Any:
    best = -1
    for e in range(indptr[i], indptr[i + 1]):
        if indices[e] != i and free[indices[e]] and (best < 0 or data[e] > data[best]):
            best = e
    return best


@njit(cache=True)
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
    """Count one coupling less for the free strong neighbours of a vertex that left."""
    for e in range(indptr[k], indptr[k + 1]):
        j = indices[e]
        if free[j] and data[e] > least[k]:
            _remove_vertex(first, after, before, coupled[j], j)
            coupled[j] -= 1
            _insert_vertex(first, after, before, coupled[j], j)


@njit(cache=True)
def _insert_vertex(first: Any, after: Any, before: Any, count: Any, i: Any) -> Any:
    after[i], before[i] = first[count], -1
    if first[count] >= 0:
        before[first[count]] = i
    first[count] = i


@njit(cache=True)
def _remove_vertex(first: Any, after: Any, before: Any, count: Any, i: Any) -> Any:
    if before[i] >= 0:
        after[before[i]] = after[i]
    else:
        first[count] = after[i]
    if after[i] >= 0:
        before[after[i]] = before[i]
