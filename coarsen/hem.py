"""Heavy edge matching: pair each unit with its strongest unmatched neighbour.

Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs", SIAM J. Sci.
Comput. 20(1), 1998, section 3.1. Edges are taken in one total order, heaviest first and ties by a hash of their ends,
so the matching is the locally dominant one (Preis, STACS 1999) whatever the order in which units are visited.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.errors import AggregatesError

Ints = NDArray[np.int64]


def heavy_edge_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates that merge the units joined by heavy edges, two by two.

    Parameters
    ----------
    graph : AxisGraph
        Units that may all merge with one another; edges weigh their affinity.
    n_coarse : int
        Number of aggregates to aim for. Below half the units the contracted graph is matched again.
    seed : int
        Seeds the hash that orders edges of equal weight.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered 0 .. k - 1, k >= n_coarse. A unit with no edge stays alone, unless aggregates must be equal.

    Raises
    ------
    AggregatesError
        Aggregates must be equal and ``n_coarse`` does not divide the number of units.
    """
    return _aggregate(graph, n_coarse, lambda adjacency: _by_weight(adjacency, seed))


def random_order_matching(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Heavy edge matching as METIS visits it: units in random order, each takes its heaviest free neighbour."""
    return _aggregate(graph, n_coarse, lambda adjacency: _by_visit(adjacency, seed))


def _aggregate(graph: AxisGraph, n_coarse: int, order: Any) -> Ints:
    n = graph.n_units
    if graph.equal:
        if n_coarse < 1 or n % n_coarse:
            raise AggregatesError(
                f"axis {graph.name!r} of {n} units needs aggregates of one size, and {n_coarse} does not divide {n}; "
                "ask for a divisor"
            )
        return _equal_groups(graph, n_coarse, order)
    aggregates, adjacency = np.arange(n), graph.adjacency
    while adjacency.shape[0] > n_coarse:
        last = 2 * n_coarse >= adjacency.shape[0]  # one matching is enough; who found no partner stays alone
        pairs = _matched(adjacency, order(adjacency))[: adjacency.shape[0] - n_coarse]
        if not len(pairs):
            break
        step = numbered(_merge_pairs(adjacency.shape[0], pairs))
        aggregates, adjacency = step[aggregates], contracted(adjacency, step)
        if last:
            break
    return numbered(aggregates)


def _equal_groups(graph: AxisGraph, n_coarse: int, order: Any) -> Ints:
    """Merge groups of one size: perfect matchings while the size is even, then rows of neighbours."""
    n, size = graph.n_units, graph.n_units // n_coarse
    aggregates, adjacency = np.arange(n), graph.adjacency
    while size % 2 == 0:
        pairs = _perfect(adjacency.shape[0], _matched(adjacency, order(adjacency)))
        step = numbered(_merge_pairs(adjacency.shape[0], pairs))
        aggregates, adjacency, size = step[aggregates], contracted(adjacency, step), size // 2
    if size > 1:
        step = _grown(adjacency, size)
        aggregates = step[aggregates]
    return numbered(aggregates)


def _perfect(n: int, pairs: Ints) -> Ints:
    """Pair what the matching left over, in order; ``n`` is even."""
    free = np.setdiff1d(np.arange(n), pairs.ravel())
    return np.concatenate([pairs, free.reshape(-1, 2)])


def _grown(adjacency: sparse.csr_array, size: int) -> Ints:
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


def _by_weight(adjacency: sparse.csr_array, seed: int) -> tuple[Ints, Ints]:
    """Return edges, heaviest first; ties by a hash of the ends."""
    upper = sparse.triu(adjacency, 1, format="coo")
    i, j = upper.row.astype(np.int64), upper.col.astype(np.int64)
    order = np.lexsort((_hash(i, j, seed), -upper.data))
    return i[order], j[order]


def _hash(i: Ints, j: Ints, seed: int) -> NDArray[np.uint64]:
    """Mix the ends of an edge (splitmix64, Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = i.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + j.astype(np.uint64) + np.uint64(seed % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _by_visit(adjacency: sparse.csr_array, seed: int) -> tuple[Ints, Ints]:
    """Return edges grouped by their visitor in random order, each visitor's heaviest first."""
    n = adjacency.shape[0]
    rank = np.random.default_rng(seed).permutation(n)
    coo = adjacency.tocoo()
    order = np.lexsort((coo.col, -coo.data, rank[coo.row]))
    return coo.row[order].astype(np.int64), coo.col[order].astype(np.int64)


def _matched(adjacency: sparse.csr_array, edges: tuple[Ints, Ints]) -> Ints:
    """Return the matching that takes edges in order, (pairs, 2)."""
    taken = _greedy(edges[0], edges[1], adjacency.shape[0])
    return np.stack([edges[0][taken], edges[1][taken]], axis=1)


@njit(cache=True)
def _greedy(i, j, n):  # type: ignore[no-untyped-def]
    free = np.ones(n, dtype=np.bool_)
    taken = np.zeros(len(i), dtype=np.bool_)
    for e in range(len(i)):
        if i[e] != j[e] and free[i[e]] and free[j[e]]:
            taken[e] = True
            free[i[e]] = False
            free[j[e]] = False
    return taken


def _merge_pairs(n: int, pairs: Ints) -> Ints:
    out = np.arange(n)
    out[pairs.max(axis=1)] = pairs.min(axis=1)
    return out


def numbered(aggregates: Ints) -> Ints:
    """Number aggregates 0 .. k - 1 in the order of their first units."""
    _, first, inverse = np.unique(aggregates, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def contracted(adjacency: sparse.csr_array, aggregates: Ints) -> sparse.csr_array:
    """Return the graph of aggregates: the mean affinity of their members, zero diagonal."""
    n, k = len(aggregates), int(aggregates.max()) + 1
    P = sparse.csr_array((np.ones(n), (np.arange(n), aggregates)), shape=(n, k))
    R = sparse.csr_array(sparse.diags_array(1.0 / np.bincount(aggregates)) @ P.T)
    coarse = sparse.csr_array(R @ adjacency @ R.T).tolil()  # (k, n) @ (n, n) @ (n, k)
    coarse.setdiag(0)
    out = sparse.csr_array(coarse)
    out.eliminate_zeros()
    return out
