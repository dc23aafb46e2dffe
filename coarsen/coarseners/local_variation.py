"""Local variation: merge the sets of units on which slow signals of the graph vary least.

Loukas, "Graph reduction with spectral and cut guarantees", J. Mach. Learn. Res. 20, 2019, section 4.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import renumber_labels
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.laplacian import find_slow_signals, laplacian_matrix
from netgraph.coarsen.partition.multilevel import (
    keep_strongest_edges,
    match_heavy_edges,
    merge_in_rounds,
    reweight_edges,
)

SIGNALS = 10  # eigenvectors of the Laplacian
NEIGHBORS = 8  # heaviest edges of each unit that are kept: in a complete graph a neighbourhood would be all units
STRONG = 0.5  # edges of at least this share of the unit's heaviest edge lead into its neighbourhood
Ints = NDArray[np.int64]
Floats = NDArray[Any]
Choose = Callable[[sparse.csr_array, Floats, int, int], Ints]  # (adjacency, signals, n_clusters, seed) -> labels


def local_variation(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge neighbourhoods on which the slow signals of the graph vary least [1]_.

    The slow signals are the first ten eigenvectors of the Laplacian. A neighbourhood is a unit and the units that its
    heaviest edges lead to, and its cost bounds the share of the signals that is lost when it becomes one vertex. The
    cheapest neighbourhoods merge first.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Seeds the first vector of the eigensolver.

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
    A round costs O(n log n + m) time for m edges besides the eigenvectors, which take O(n³) up to 2,048 units and O(m)
    per Lanczos step beyond. A neighbourhood takes in edges of at least half the weight of the unit's heaviest edge. They
    must be among the eight heaviest edges of one of their ends.

    References
    ----------
    .. [1] Loukas, "Graph reduction with spectral and cut guarantees", J. Mach. Learn. Res. 20, 2019, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, local_variation
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> local_variation(AxisGraph("path", path, np.ones(6)), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    return aggregate_with_constraints(
        lambda part, k: _merge_by_variation(part.adjacency, k, _merge_neighborhoods, seed), graph, n_coarse
    )


def local_variation_edges(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge pairs on which the slow signals of the graph vary least [1]_.

    This is `local_variation` with edges in place of neighbourhoods. The matching takes the cheapest edge with two free
    ends until none is left, and the contracted graph is matched again if needed.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Seeds the first vector of the eigensolver, and the order of edges of equal cost.

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
    A round costs O(m log m) time for m edges besides the eigenvectors (see `local_variation`).

    References
    ----------
    .. [1] Loukas, "Graph reduction with spectral and cut guarantees", J. Mach. Learn. Res. 20, 2019, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, local_variation_edges
    >>> weights = np.array([3.0, 1, 3, 1, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> local_variation_edges(AxisGraph("path", path, np.ones(6)), 3)
    array([0, 0, 1, 1, 2, 2])
    """
    return aggregate_with_constraints(
        lambda part, k: _merge_by_variation(part.adjacency, k, _merge_edges, seed), graph, n_coarse
    )


def _merge_by_variation(adjacency: sparse.csr_array, n_clusters: int, choose: Choose, seed: int) -> Ints:
    """Merge in rounds, each with the means of the slow signals over the clusters so far."""
    values, vectors = find_slow_signals(adjacency, SIGNALS, seed=seed)
    signals = vectors / np.sqrt(values)

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        sizes = np.bincount(labels)
        means = sparse.csr_array((1 / sizes[labels], (labels, np.arange(len(labels))))) @ signals  # (m, number)
        return choose(between, _scale_signals(means, between), n_clusters, seed)

    return merge_in_rounds(adjacency, n_clusters, step)


def _scale_signals(means: Floats, adjacency: sparse.csr_array) -> Floats:
    """Return ``B (B' L B)^(+1/2)`` for the signals B (n, number): the matrix A of the set costs."""
    gram = means.T @ (laplacian_matrix(adjacency) @ means)
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = values > 1e-12 * max(values.max(initial=0), 1e-300)
    return np.asarray(means @ (vectors[:, kept] / np.sqrt(values[kept])))


def _merge_edges(adjacency: sparse.csr_array, signals: Floats, n_clusters: int, seed: int) -> Ints:
    """Match along the edges of least cost.

    The cost of the set {i, j} is ``(d_i + d_j) |a_i - a_j|² / 2``, with the degrees d and the rows a of ``signals``.
    """
    degree = np.asarray(adjacency.sum(axis=1))

    def cheapness(i: Ints, j: Ints, w: Floats) -> Floats:
        cost = (degree[i] + degree[j]) * np.square(signals[i] - signals[j]).sum(axis=1)
        place = np.unique(cost, return_inverse=True)[1]
        return np.asarray(place.max(initial=0) + 1.0 - place)  # a matching depends on the order of the weights only

    return match_heavy_edges(reweight_edges(adjacency, cheapness), n_clusters, seed)


def _merge_neighborhoods(adjacency: sparse.csr_array, signals: Floats, n_clusters: int, seed: int) -> Ints:
    """Merge the neighbourhoods with the least cost per vertex saved.

    If a part of the cheapest neighbourhood has merged elsewhere, the rest of it goes back to the heap with its new cost.
    """
    n = adjacency.shape[0]
    sets = _SetCosts(adjacency, signals)
    near = keep_strongest_edges(adjacency, NEIGHBORS)
    heap = []
    for i in range(n):
        edges = slice(near.indptr[i], near.indptr[i + 1])
        strong = near.data[edges] >= STRONG * near.data[edges].max(initial=0)
        members = np.union1d(near.indices[edges][strong], [i])
        heap.append((sets.cost(members), i, members.tolist()))
    heapq.heapify(heap)
    merged, spare = np.arange(n), n - n_clusters
    taken = np.zeros(n, dtype=bool)
    while heap and spare:
        _, i, units = heapq.heappop(heap)
        members = np.array(units)
        left = members[~taken[members]]
        if len(left) < 2 or len(left) - 1 > spare:
            continue
        if len(left) < len(members):
            heapq.heappush(heap, (sets.cost(left), i, left.tolist()))
            continue
        merged[members], taken[members] = members[0], True
        spare -= len(members) - 1
    return renumber_labels(merged)


class _SetCosts:
    """Costs of sets of vertices: the variation of the signals within a set, divided by the number of vertices saved."""

    def __init__(self, adjacency: sparse.csr_array, signals: Floats) -> None:
        self.adjacency, self.signals = adjacency, signals
        self.degree = np.asarray(adjacency.sum(axis=1))
        self.column = np.full(adjacency.shape[0], -1)

    def cost(self, members: Ints) -> float:
        """Return ``|Π A|²_L / (|C| - 1)``.

        Π removes the mean over the set C. L is the Laplacian of the set, in which edges that leave it count twice.
        """
        if len(members) < 2:
            return np.inf
        inside = self._dense_subgraph(members)
        L = np.diag(2 * self.degree[members] - inside.sum(axis=1)) - inside
        spread = self.signals[members] - self.signals[members].mean(axis=0)
        return float(np.linalg.norm(spread.T @ L @ spread, 2)) / (len(members) - 1)

    def _dense_subgraph(self, members: Ints) -> Floats:
        """Return the adjacency matrix of a few vertices, dense."""
        self.column[members] = np.arange(len(members))
        out = np.zeros((len(members), len(members)))
        for row, i in enumerate(members.tolist()):
            edges = slice(self.adjacency.indptr[i], self.adjacency.indptr[i + 1])
            columns = self.column[self.adjacency.indices[edges]]
            out[row, columns[columns >= 0]] = self.adjacency.data[edges][columns >= 0]
        self.column[members] = -1
        return out
