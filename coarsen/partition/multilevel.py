"""Repeated merging on contracted graphs, the multilevel scheme that matching methods share.

A round merges some vertices and adds up their edges. The next round works on the smaller graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.dominant import mate_weights
from netgraph.coarsen.matching.heavy_edge import heavy_edge_matching
from netgraph.coarsen.matching.labels import contract_by_sum, mirror_upper_triangle, renumber_labels

Ints = NDArray[np.int64]
Step = Callable[[sparse.csr_array, Ints], Ints]


def merge_in_rounds(adjacency: sparse.csr_array, n_clusters: int, step: Step) -> Ints:
    """Merge vertices round by round until few clusters are left.

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
    n_clusters : int
        The rounds end when no more clusters are left. They end earlier if a step merges nothing.
    step : callable ``(between, labels) -> merged``
        One round. ``between`` is the graph of the m clusters so far, and ``labels`` (n,) holds the cluster of each
        unit. The result is an int array of shape (m,), numbered from 0: the new cluster of each old one.

    Returns
    -------
    labels : int array of shape (n,)
        Cluster of each vertex.
    """
    labels, between = np.arange(adjacency.shape[0]), adjacency
    while (n := between.shape[0]) > n_clusters:
        merged = step(between, labels)
        if merged.max() + 1 == n:
            break
        labels = merged[labels]
        between = contract_by_sum(adjacency, labels)
    return labels


def match_heavy_edges(weights: sparse.csr_array, n_clusters: int, seed: int) -> Ints:
    """Return one heavy-edge matching as clusters of one or two vertices.

    Only the heaviest pairs merge if all of them would leave fewer than ``n_clusters``.
    """
    n = weights.shape[0]
    return heavy_edge_matching(AxisGraph("", weights, np.ones(n)), max(n_clusters, -(-n // 2)), seed=seed)


def merge_heaviest_pairs(between: sparse.csr_array, mate: Ints, n_clusters: int) -> Ints:
    """Return the pairs of a matching as clusters.

    Parameters
    ----------
    between : csr_array of shape (n, n)
    mate : int array of shape (n,)
        Partner of each vertex. An unmatched vertex has a negative number, or its own.
    n_clusters : int
        Only the heaviest pairs merge if all of them would leave fewer clusters.

    Returns
    -------
    int array of shape (n,)
    """
    i = np.flatnonzero(mate > np.arange(len(mate)))
    i = i[np.argsort(-mate_weights(between, mate)[i], kind="stable")][: len(mate) - n_clusters]
    merged = np.arange(len(mate))
    merged[mate[i]] = i
    return renumber_labels(merged)


def reweight_edges(adjacency: sparse.csr_array, weigh: Callable[[Ints, Ints, NDArray[Any]], Any]) -> sparse.csr_array:
    """Return the graph with edge weights ``weigh(i, j, w)``, called once with arrays in which i < j."""
    edges = sparse.coo_array(adjacency)
    above = edges.row < edges.col
    i, j, w = edges.row[above], edges.col[above], edges.data[above]
    return mirror_upper_triangle(sparse.coo_array((weigh(i, j, w), (i, j)), shape=adjacency.shape))


def keep_strongest_edges(adjacency: sparse.csr_array, k: int) -> sparse.csr_array:
    """Return the graph of the edges that are among the k heaviest of at least one of their ends.

    Of equally heavy edges the one with the lower column comes first.
    """
    rows = np.repeat(np.arange(adjacency.shape[0]), np.diff(adjacency.indptr))
    order = np.lexsort((adjacency.indices, -adjacency.data, rows))
    kept = order[np.arange(len(rows)) - adjacency.indptr[rows] < k]
    half = sparse.csr_array((adjacency.data[kept], (rows[kept], adjacency.indices[kept])), shape=adjacency.shape)
    return sparse.csr_array(half.maximum(half.T))
