"""Local variation: merge the sets of units on which slow signals of the graph vary least.

Loukas, "Graph reduction with spectral and cut guarantees", J. Mach. Learn. Res. 20, 2019, section 4. The slow signals
are the first eigenvectors of the Laplacian; a set's cost bounds how much of them is lost when it becomes one vertex.
"""

from __future__ import annotations

import heapq
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

SIGNALS = 10
NEIGHBORS = 8  # heaviest edges that make a neighbourhood; where all pairs have an edge it would be everything
STRONG = 0.5  # share of a unit's heaviest edge from which an edge leads into its neighbourhood
Ints = NDArray[np.int64]
Floats = NDArray[Any]


def local_variation(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates made of neighbourhoods: a unit and those that its heaviest edges lead to.

    These are the edges of at least half its heaviest edge's weight, up to eight and those that others count so.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
    seed : int
        Of the eigensolver's first vector.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(
        lambda part, k: _merge_by_variation(part.adjacency, k, _merge_neighborhoods, seed), graph, n_coarse
    )


def local_variation_edges(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates made of edges, in rounds of matchings; otherwise like `local_variation`."""
    return aggregate_with_constraints(
        lambda part, k: _merge_by_variation(part.adjacency, k, _merge_edges, seed), graph, n_coarse
    )


def _merge_by_variation(adjacency: sparse.csr_array, n_clusters: int, choose: Any, seed: int) -> Ints:
    values, vectors = find_slow_signals(adjacency, SIGNALS, seed=seed)
    signals = vectors / np.sqrt(values)

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        sizes = np.bincount(labels)
        means = sparse.csr_array((1 / sizes[labels], (labels, np.arange(len(labels))))) @ signals  # (m, number)
        return np.asarray(choose(between, _scale_signals(means, between), n_clusters, seed))

    return merge_in_rounds(adjacency, n_clusters, step)


def _scale_signals(means: Floats, adjacency: sparse.csr_array) -> Floats:
    """Return ``B (B' L B)^+1/2``, which the set costs are measured with."""
    gram = means.T @ (laplacian_matrix(adjacency) @ means)
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = values > 1e-12 * max(values.max(initial=0), 1e-300)
    return np.asarray(means @ (vectors[:, kept] / np.sqrt(values[kept])))


def _merge_edges(adjacency: sparse.csr_array, signals: Floats, n_clusters: int, seed: int) -> Ints:
    """Match along the edges of least cost: ``(d_i + d_j) |a_i - a_j|² / 2`` in closed form."""
    degree = np.asarray(adjacency.sum(axis=1))

    def cheapness(i: Ints, j: Ints, w: Floats) -> Floats:
        cost = (degree[i] + degree[j]) * np.square(signals[i] - signals[j]).sum(axis=1)
        place = np.unique(cost, return_inverse=True)[1]
        return np.asarray(place.max(initial=0) + 1.0 - place)  # a matching only asks for the order of edges

    return match_heavy_edges(reweight_edges(adjacency, cheapness), n_clusters, seed)


def _merge_neighborhoods(adjacency: sparse.csr_array, signals: Floats, n_clusters: int, seed: int) -> Ints:
    """Merge neighbourhoods of least cost a unit saved; what others took is left out of a set, which waits its turn."""
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
        _, i, found = heapq.heappop(heap)
        members = np.array(found)
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
    """The cost of sets of vertices: the variation of signals within, a vertex saved."""

    def __init__(self, adjacency: sparse.csr_array, signals: Floats) -> None:
        self.adjacency, self.signals = adjacency, signals
        self.degree = np.asarray(adjacency.sum(axis=1))
        self.column = np.full(adjacency.shape[0], -1)

    def cost(self, members: Ints) -> float:
        """Return ``|Π A|²_L / (|C| - 1)`` with the set's Laplacian, in which edges that leave count twice."""
        if len(members) < 2:
            return np.inf
        inside = self._dense_subgraph(members)
        L = np.diag(2 * self.degree[members] - inside.sum(axis=1)) - inside
        spread = self.signals[members] - self.signals[members].mean(axis=0)
        return float(np.linalg.norm(spread.T @ L @ spread, 2)) / (len(members) - 1)

    def _dense_subgraph(self, members: Ints) -> Floats:
        """Return the dense adjacency of a few vertices."""
        self.column[members] = np.arange(len(members))
        out = np.zeros((len(members), len(members)))
        for row, i in enumerate(members.tolist()):
            edges = slice(self.adjacency.indptr[i], self.adjacency.indptr[i + 1])
            columns = self.column[self.adjacency.indices[edges]]
            out[row, columns[columns >= 0]] = self.adjacency.data[edges][columns >= 0]
        self.column[members] = -1
        return out
