"""Heavy-edge matching: pair each unit with its strongest unmatched neighbour.

Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs", SIAM J. Sci.
Comput. 20(1), 1998, section 3.1, with the matchings of `netgraph.coarsen.matching.dominant`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity
from netgraph.coarsen.matching.augmentation import augment_matching
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.dominant import dominant_matching, hash_edges, mate_weights
from netgraph.coarsen.matching.labels import Ints, check_equal_sizes, contract_by_mean, renumber_labels
from netgraph.environment.kernel_cache import compile_kernel
from netgraph.utils.seeds import make_random

Match = Callable[[Affinity, int], Ints]  # (affinity, most pairs wanted) -> pairs, (p, 2)


def heavy_edge_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0, augment: bool = False) -> Ints:
    """Merge units in pairs along heavy edges [1]_.

    The matching takes the heaviest edge with two free ends until no such edge is left, so it weighs at least half
    of the heaviest matching [2]_. If ``n_coarse`` is below half the units, the pairs are contracted to a graph of mean
    affinities (average linkage), and that graph is matched again.

    Parameters
    ----------
    graph : AxisGraph
        Units of one axis. Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates to aim for.
    seed : int, default 0
        Seeds the hash that orders edges of equal weight.
    augment : bool, default False
        Make each matching heavier by exchanges along short paths. The plug-in ``hem-augmented`` sets this.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered 0 .. k - 1 with k >= n_coarse. A unit without an edge stays alone, unless ``graph.equal`` is set.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    In practice a matching takes O(m) time for m edges, because three of four edges drop out in each round. A graph that
    hardly shrinks, such as a path of growing weights, is sorted: O(m log m). Equal aggregates whose size has an odd factor
    s > 1 are completed by groups that grow unit by unit, in O(s n²).

    References
    ----------
    .. [1] Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs",
       SIAM J. Sci. Comput. 20(1), 1998, section 3.1.
    .. [2] Preis, "Linear time 1/2-approximation algorithm for maximum weighted matching in general graphs",
       STACS 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, heavy_edge_matching
    >>> weights = np.array([1.0, 3, 1, 2, 1])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> heavy_edge_matching(AxisGraph("path", path, np.ones(6)), 4)
    array([0, 1, 1, 2, 2, 3])
    """

    def match(affinity: Affinity, n_pairs: int) -> Ints:
        return _match_by_weight(affinity, n_pairs, seed, augment)

    return _merge_by_matching(graph, n_coarse, match)


def augmented_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge units in pairs by heavy-edge matching, then raise the weight of the pairs by exchanges along short paths [1]_ [2]_.

    Parameters
    ----------
    graph : AxisGraph
        Units of one axis. Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates to aim for. One matching cannot go below n_units / 2.
    seed : int, default 0
        Orders edges of equal weight.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0. A unit without an edge stays alone.

    References
    ----------
    .. [1] Pettie and Sanders, "A simpler linear time 2/3 - epsilon approximation for maximum weight matching", Inf. Process.
       Lett. 91(6), 2004.
    .. [2] Lin and Kernighan, "An effective heuristic algorithm for the traveling-salesman problem", Oper. Res. 21(2), 1973.

    Examples
    --------
    On a path with the weights 2, 3, 2 the heaviest edge leaves both ends alone. The exchange takes the two outer edges.

    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, augmented_matching, heavy_edge_matching
    >>> upper = sparse.diags_array([[2.0, 3.0, 2.0]], offsets=[1], shape=(4, 4))
    >>> graph = AxisGraph("path", sparse.csr_array(upper + upper.T), np.ones(4))
    >>> heavy_edge_matching(graph, 2)
    array([0, 1, 1, 2])
    >>> augmented_matching(graph, 2)
    array([0, 0, 1, 1])
    """
    return heavy_edge_matching(graph, n_coarse, seed=seed, augment=True)


def random_order_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge units in pairs as METIS does: units in random order take their heaviest free neighbour [1]_.

    The matching is maximal but has no bound on its weight. Everything else is as in `heavy_edge_matching`.

    Parameters
    ----------
    graph : AxisGraph
        Units of one axis. Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates to aim for.
    seed : int, default 0
        Draws the order of the units.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered 0 .. k - 1 with k >= n_coarse.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    A matching costs O(m) time for m edges, one visit to each.

    References
    ----------
    .. [1] Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs",
       SIAM J. Sci. Comput. 20(1), 1998, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, random_order_matching
    >>> weights = np.array([1.0, 3, 1, 2, 1])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> random_order_matching(AxisGraph("path", path, np.ones(6)), 4)
    array([0, 1, 1, 2, 2, 3])
    """

    def match(affinity: Affinity, n_pairs: int) -> Ints:
        return _match_in_random_order(affinity.tocsr(), n_pairs, seed)

    return _merge_by_matching(graph, n_coarse, match)


def _merge_by_matching(graph: AxisGraph, n_coarse: int, match: Match) -> Ints:
    """Match and contract until ``n_coarse`` aggregates are left, or a matching is empty."""
    if graph.equal:
        check_equal_sizes(graph, n_coarse)
        return _make_equal_groups(graph, n_coarse, match)
    aggregates, affinity = np.arange(graph.n_units), _drop_fixed_edges(graph)
    once = 2 * n_coarse >= graph.n_units  # one matching is enough, and units without a partner stay alone
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


def _make_equal_groups(graph: AxisGraph, n_coarse: int, match: Match) -> Ints:
    """Merge groups of one size: perfect matchings while the size is even, then groups that grow unit by unit."""
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
    """Pair the vertices that the matching left free, in order. ``n`` is even."""
    free = np.setdiff1d(np.arange(n), pairs.ravel())
    return np.concatenate([pairs, free.reshape(-1, 2)])


def _grow_groups(adjacency: sparse.csr_array, size: int) -> Ints:
    """Grow groups of ``size``: start at the first free unit, then add the free unit with the most affinity to the group."""
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


def _match_by_weight(affinity: Affinity, n_pairs: int, seed: int, augment: bool) -> Ints:
    """Return the ``n_pairs`` heaviest pairs of the locally dominant matching, or all if there are fewer."""
    mate = dominant_matching(affinity, seed)
    if augment:
        mate = augment_matching(affinity.tocsr(), mate, seed)
    i = np.flatnonzero(mate > np.arange(len(mate)))
    j = mate[i].astype(np.int64)
    if len(i) > n_pairs:
        ranks = hash_edges(i, j, np.uint64(seed % 2**64))
        first = np.lexsort((ranks, -mate_weights(affinity.tocsr(), mate)[i]))[:n_pairs]
        i, j = i[first], j[first]
    return np.stack([i, j], axis=1)


def _match_in_random_order(adjacency: sparse.csr_array, n_pairs: int, seed: int) -> Ints:
    """Return the first ``n_pairs`` pairs that units choose in random order."""
    order = make_random(seed).permutation(adjacency.shape[0])
    return np.asarray(_visit_units(adjacency.indptr, adjacency.indices, adjacency.data, order))[:n_pairs]


@compile_kernel()
def _visit_units(indptr: Any, indices: Any, data: Any, order: Any) -> Any:
    """Return the pairs of units that choose in this order, (p, 2)."""
    free = np.ones(len(order), dtype=np.bool_)
    pairs = np.empty((len(order) // 2, 2), dtype=np.int64)
    n_pairs = 0
    for u in order:
        if not free[u]:
            continue
        best, heaviest = -1, 0.0
        for e in range(indptr[u], indptr[u + 1]):
            if free[indices[e]] and indices[e] != u and data[e] > heaviest:
                best, heaviest = indices[e], data[e]
        if best >= 0:
            pairs[n_pairs, 0], pairs[n_pairs, 1] = u, best
            free[u] = free[best] = False
            n_pairs += 1
    return pairs[:n_pairs]


def _merge_pairs(n: int, pairs: Ints) -> Ints:
    """Return labels in which each pair has the number of its lower vertex."""
    out = np.arange(n)
    out[pairs.max(axis=1)] = pairs.min(axis=1)
    return out
