"""Heavy edge matching: pair each unit with its strongest unmatched neighbour.

Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs", SIAM J. Sci.
Comput. 20(1), 1998, section 3.1, with the matchings of `netgraph.coarsen.matching.dominant`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity
from netgraph.coarsen.matching.augmentation import augment_matching
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.dominant import dominant_matching, hash_edges, mate_weights
from netgraph.coarsen.matching.labels import Ints, check_equal_sizes, contract_by_mean, renumber_labels


def heavy_edge_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0, augment: bool = False) -> Ints:
    """Return aggregates that merge the units joined by heavy edges, two by two.

    Parameters
    ----------
    graph : AxisGraph
        Units that may all merge with one another; edges weigh their affinity.
    n_coarse : int
        Number of aggregates to aim for. Below half the units the contracted graph is matched again.
    seed : int
        Seeds the hash that orders edges of equal weight.
    augment : bool
        Whether short exchanges make each matching heavier.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered 0 .. k - 1, k >= n_coarse. A unit with no edge stays alone, unless aggregates must be equal.

    Raises
    ------
    AggregatesError
        Aggregates must be equal, and ``n_coarse`` does not divide the number of units or some must stay alone.
    """
    return _merge_by_matching(
        graph, n_coarse, lambda affinity, wanted: _match_by_weight(affinity, wanted, seed, augment)
    )


augmented_matching = partial(heavy_edge_matching, augment=True)


def random_order_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Heavy edge matching as METIS visits it: units in random order, each takes its heaviest free neighbour."""
    return _merge_by_matching(
        graph, n_coarse, lambda affinity, wanted: _match_in_random_order(affinity.tocsr(), wanted, seed)
    )


def _merge_by_matching(graph: AxisGraph, n_coarse: int, match: Any) -> Ints:
    if graph.equal:
        check_equal_sizes(graph, n_coarse)
        return _make_equal_groups(graph, n_coarse, match)
    aggregates, affinity = np.arange(graph.n_units), _drop_fixed_edges(graph)
    once = 2 * n_coarse >= graph.n_units  # one matching is enough; who found no partner stays alone
    while (n := affinity.shape[0]) > n_coarse:
        pairs = match(affinity, n - n_coarse)
        if not len(pairs):
            break
        step = renumber_labels(_merge_pairs(n, pairs))
        sizes, aggregates = np.bincount(aggregates), step[aggregates]
        if once or n - len(pairs) == n_coarse:
            break
        affinity = contract_by_mean(affinity.tocsr(), step, sizes)
    return renumber_labels(aggregates)


def _drop_fixed_edges(graph: AxisGraph) -> Affinity:
    """Return the affinity without the edges of units that must stay alone."""
    if graph.fixed is None or not graph.fixed.any():
        return graph.affinity
    free = sparse.diags_array((~graph.fixed).astype(graph.adjacency.dtype))
    return sparse.csr_array(free @ graph.adjacency @ free)


def _make_equal_groups(graph: AxisGraph, n_coarse: int, match: Any) -> Ints:
    """Merge groups of one size: perfect matchings while the size is even, then rows of neighbours."""
    n, size = graph.n_units, graph.n_units // n_coarse
    aggregates, affinity = np.arange(n), graph.affinity
    while size % 2 == 0:
        pairs = _complete_matching(affinity.shape[0], match(affinity, n))
        step = renumber_labels(_merge_pairs(affinity.shape[0], pairs))
        sizes, aggregates, size = np.bincount(aggregates), step[aggregates], size // 2
        if size > 1:
            affinity = contract_by_mean(affinity.tocsr(), step, sizes)
    if size > 1:
        step = _grow_groups(affinity.tocsr(), size)
        aggregates = step[aggregates]
    return renumber_labels(aggregates)


def _complete_matching(n: int, pairs: Ints) -> Ints:
    """Pair what the matching left over, in order; ``n`` is even."""
    free = np.setdiff1d(np.arange(n), pairs.ravel())
    return np.concatenate([pairs, free.reshape(-1, 2)])


def _grow_groups(adjacency: sparse.csr_array, size: int) -> Ints:
    """Grow groups of ``size``: start at the first free unit and add the free unit most alike to the group."""
    n = adjacency.shape[0]
    dense = adjacency.toarray() if n <= 4096 else None
    group = np.full(n, -1, dtype=np.int64)
    for number in range(n // size):
        members = [int(np.argmax(group < 0))]
        group[members] = number
        while len(members) < size:
            rows = dense[members] if dense is not None else adjacency[members].toarray()
            likeness = np.where(group < 0, rows.sum(axis=0), -1.0)
            members.append(int(likeness.argmax()))
            group[members[-1]] = number
    return group


def _match_by_weight(affinity: Affinity, wanted: int, seed: int, augment: bool) -> Ints:
    """Return the locally dominant matching, at most ``wanted`` pairs of it: the heaviest."""
    mate = dominant_matching(affinity, seed)
    if augment:
        mate = augment_matching(affinity.tocsr(), mate, seed)
    i = np.flatnonzero(mate > np.arange(len(mate)))
    j = mate[i].astype(np.int64)
    if len(i) > wanted:
        ranks = hash_edges(i, j, np.uint64(seed % 2**64))
        first = np.lexsort((ranks, -mate_weights(affinity.tocsr(), mate)[i]))[:wanted]
        i, j = i[first], j[first]
    return np.stack([i, j], axis=1)


def _match_in_random_order(adjacency: sparse.csr_array, wanted: int, seed: int) -> Ints:
    """Return the first ``wanted`` pairs of the matching of units that choose in random order."""
    order = np.random.default_rng(seed).permutation(adjacency.shape[0])
    return np.asarray(_visit_units(adjacency.indptr, adjacency.indices, adjacency.data, order))[:wanted]


@njit(cache=True)
def _visit_units(indptr: Any, indices: Any, data: Any, order: Any) -> Any:
    free = np.ones(len(order), dtype=np.bool_)
    pairs = np.empty((len(order) // 2, 2), dtype=np.int64)
    found = 0
    for u in order:
        if not free[u]:
            continue
        best, heaviest = -1, 0.0
        for e in range(indptr[u], indptr[u + 1]):
            if free[indices[e]] and indices[e] != u and data[e] > heaviest:
                best, heaviest = indices[e], data[e]
        if best >= 0:
            pairs[found, 0], pairs[found, 1] = u, best
            free[u] = free[best] = False
            found += 1
    return pairs[:found]


def _merge_pairs(n: int, pairs: Ints) -> Ints:
    out = np.arange(n)
    out[pairs.max(axis=1)] = pairs.min(axis=1)
    return out
