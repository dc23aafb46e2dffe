"""Merging in rounds: a step merges some vertices, their edges are added up, and the next step sees the smaller graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.dominant import mate_weights
from netgraph.coarsen.matching.heavy_edge import heavy_edge_matching
from netgraph.coarsen.matching.labels import renumber_labels

Ints = NDArray[np.int64]
Step = Callable[[sparse.csr_array, Ints], Ints]


def merge_in_rounds(adjacency: sparse.csr_array, n_clusters: int, step: Step) -> Ints:
    """Return the clusters of repeated steps.

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
    n_clusters : int
        Where the rounds end; they end before it where a step merges nothing.
    step : callable ``(between, labels) -> merged``
        Of the graph of clusters, (m, m), and each unit's cluster, the cluster's new one: int array of shape (m,),
        numbered from 0.

    Returns
    -------
    int array of shape (n,)
    """
    labels, between = np.arange(adjacency.shape[0]), adjacency
    while (n := between.shape[0]) > n_clusters:
        merged = step(between, labels)
        if merged.max() + 1 == n:
            break
        labels = merged[labels]
        between = contract_by_sum(adjacency, labels)
    return labels


def contract_by_sum(adjacency: sparse.csr_array, labels: Ints) -> sparse.csr_array:
    """Return the graph of clusters: the sum of the edges between their members, zero diagonal."""
    n, k = len(labels), int(labels.max()) + 1
    member = sparse.csr_array((np.ones(n), (np.arange(n), labels)), shape=(n, k))
    return mirror_upper_triangle(sparse.coo_array(member.T @ adjacency @ member))


def mirror_upper_triangle(matrix: sparse.coo_array) -> sparse.csr_array:
    """Return the graph of the entries above the diagonal, exactly symmetric."""
    above = matrix.row < matrix.col
    i, j, w = matrix.row[above], matrix.col[above], matrix.data[above]
    return sparse.csr_array((np.r_[w, w], (np.r_[i, j], np.r_[j, i])), shape=matrix.shape)


def match_heavy_edges(weights: sparse.csr_array, n_clusters: int, seed: int) -> Ints:
    """Return one heavy-edge matching, as clusters of one or two; only the heaviest pairs where few must merge."""
    n = weights.shape[0]
    return heavy_edge_matching(AxisGraph("", weights, np.ones(n)), max(n_clusters, -(-n // 2)), seed=seed)


def merge_heaviest_pairs(between: sparse.csr_array, mate: Ints, n_clusters: int) -> Ints:
    """Return the pairs of a matching as clusters; only the heaviest where few must merge.

    ``mate`` (n,) is below zero, or the vertex itself, where a vertex has none.
    """
    i = np.flatnonzero(mate > np.arange(len(mate)))
    i = i[np.argsort(-mate_weights(between, mate)[i], kind="stable")][: len(mate) - n_clusters]
    merged = np.arange(len(mate))
    merged[mate[i]] = i
    return renumber_labels(merged)


def reweight_edges(adjacency: sparse.csr_array, weigh: Callable[[Ints, Ints, NDArray[Any]], Any]) -> sparse.csr_array:
    """Return the graph whose edges weigh ``weigh(i, j, w)``, arrays with i < j."""
    edges = sparse.coo_array(adjacency)
    above = edges.row < edges.col
    i, j, w = edges.row[above], edges.col[above], edges.data[above]
    return mirror_upper_triangle(sparse.coo_array((weigh(i, j, w), (i, j)), shape=adjacency.shape))


def keep_strongest_edges(adjacency: sparse.csr_array, k: int) -> sparse.csr_array:
    """Return the graph of the edges that are among the k heaviest of either end; of equal ones, the first."""
    rows = np.repeat(np.arange(adjacency.shape[0]), np.diff(adjacency.indptr))
    order = np.lexsort((adjacency.indices, -adjacency.data, rows))
    kept = order[np.arange(len(rows)) - adjacency.indptr[rows] < k]
    half = sparse.csr_array((adjacency.data[kept], (rows[kept], adjacency.indices[kept])), shape=adjacency.shape)
    return sparse.csr_array(half.maximum(half.T))
