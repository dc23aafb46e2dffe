"""Turn any clustering into as many clusters as asked for, and those into aggregates of one size.

What a method has found is kept where it can be: clusters are split and joined by average linkage (`hem`), and for
equal sizes only the units that a cluster holds too many of move, each to where the sum of affinities is largest: a
transportation problem, as in Malinen and Fränti, "Balanced k-means for clustering", S+SSPR 2014.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.heavy_edge import heavy_edge_matching
from netgraph.coarsen.matching.labels import contract_by_mean, renumber_labels

BATCH = 2048  # units that move together; the assignment of one batch costs its number squared times the free places
Ints = NDArray[np.int64]
Likeness = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def adjust_cluster_count(labels: Ints, graph: AxisGraph, n_clusters: int) -> Ints:
    """Return a clustering of exactly ``n_clusters`` clusters, at most the number of units.

    Parameters
    ----------
    labels : int array of shape (n,)
        Any numbers; units of one cluster share one.
    graph : AxisGraph
        Whose affinities say what is split off and what is joined.
    n_clusters : int

    Returns
    -------
    int array of shape (n,)
        Numbered 0 .. n_clusters - 1.
    """
    labels = renumber_labels(labels)
    found = int(labels.max(initial=-1)) + 1
    if found < n_clusters:
        return _split_clusters(labels, graph, n_clusters)
    return _join_clusters(labels, graph, n_clusters) if found > n_clusters else labels


def _split_clusters(labels: Ints, graph: AxisGraph, n_clusters: int) -> Ints:
    """Split the clusters that hold the most units a part."""
    labels = labels.copy()
    sizes = np.bincount(labels)
    parts = _allot_parts(sizes, n_clusters)
    following = len(sizes)
    for cluster in np.flatnonzero(parts > 1).tolist():
        members = np.flatnonzero(labels == cluster)
        inside = AxisGraph(graph.name, induced_subgraph(graph.adjacency, members), graph.weight[members])
        found = _join_clusters(heavy_edge_matching(inside, int(parts[cluster])), inside, int(parts[cluster]))
        labels[members[found > 0]] = following - 1 + found[found > 0]
        following += int(parts[cluster]) - 1
    return renumber_labels(labels)


def _allot_parts(sizes: Ints, n_clusters: int) -> Ints:
    """Return how many parts each cluster is cut to: one more for the largest parts, again and again."""
    parts = np.ones(len(sizes), dtype=np.int64)
    heap = [(-float(size), cluster) for cluster, size in enumerate(sizes.tolist())]
    heapq.heapify(heap)
    for _ in range(n_clusters - len(sizes)):
        cluster = heap[0][1]
        parts[cluster] += 1
        full = parts[cluster] == sizes[cluster]
        heapq.heapreplace(heap, (0.0 if full else -float(sizes[cluster] / parts[cluster]), cluster))
    return parts


def induced_subgraph(adjacency: sparse.csr_array, units: Ints) -> sparse.csr_array:
    """Return the graph of some units and the edges between them."""
    return adjacency if len(units) == adjacency.shape[0] else sparse.csr_array(adjacency[units][:, units])


def _join_clusters(labels: Ints, graph: AxisGraph, n_clusters: int) -> Ints:
    """Join the clusters that are most alike; those without edges between them, the smallest first."""
    ones = np.ones(len(labels), dtype=np.int64)
    while (found := int(labels.max()) + 1) > n_clusters:
        between = AxisGraph(graph.name, contract_by_mean(graph.adjacency, labels, ones), np.bincount(labels))
        step = heavy_edge_matching(between, n_clusters)
        if step.max() + 1 == found:
            return _pack_clusters(labels, n_clusters)
        labels = step[labels]
    return renumber_labels(labels)


def _pack_clusters(labels: Ints, n_clusters: int) -> Ints:
    sizes = np.bincount(labels)
    step = np.arange(len(sizes))
    heap = [(size, cluster) for cluster, size in enumerate(sizes.tolist())]
    heapq.heapify(heap)
    for _ in range(len(sizes) - n_clusters):
        first, a = heapq.heappop(heap)
        second, b = heapq.heappop(heap)
        step[step == b] = a
        heapq.heappush(heap, (first + second, a))
    return renumber_labels(step[labels])


def equalize_sizes(labels: Ints, graph: AxisGraph, points: NDArray[Any] | None = None) -> Ints:
    """Return aggregates of one size that differ from the clusters as little as that allows.

    Each cluster keeps the units most alike to it, up to the size; the others go where there is room, so that the sum of
    their likenesses is the largest there is (for up to `BATCH` of them at a time).

    Parameters
    ----------
    labels : int array of shape (n,)
        Numbered 0 .. k - 1, where k divides n.
    graph : AxisGraph
        Likeness is the mean affinity to a cluster's members.
    points : array of shape (n, d), optional
        Likeness is the nearness to a cluster's mean instead.

    Returns
    -------
    int array of shape (n,)
    """
    k = int(labels.max()) + 1
    size = len(labels) // k
    own, likeness = _measure_affinity(labels, graph.adjacency) if points is None else _measure_nearness(labels, points)
    order = np.lexsort((np.arange(len(labels)), -own, labels))
    starts = np.cumsum(np.bincount(labels, minlength=k)) - np.bincount(labels, minlength=k)
    surplus = order[np.arange(len(labels)) - starts[labels[order]] >= size]
    out = labels.copy()
    out[surplus] = -1
    for start in range(0, len(surplus), BATCH):
        units = surplus[start : start + BATCH]
        out[units] = _assign_surplus(units, size - np.bincount(out[out >= 0], minlength=k), likeness)
    return renumber_labels(out)


def _assign_surplus(units: Ints, room: Ints, likeness: Likeness) -> Ints:
    """Return the cluster with room that each unit goes to."""
    from scipy.optimize import linear_sum_assignment

    clusters = np.flatnonzero(room)
    places = np.repeat(np.arange(len(clusters)), room[clusters])
    _, chosen = linear_sum_assignment(likeness(units, clusters)[:, places], maximize=True)
    return np.asarray(clusters[places[chosen]])


def _measure_affinity(labels: Ints, adjacency: sparse.csr_array) -> tuple[NDArray[Any], Likeness]:
    """Return the affinity of each unit to the rest of its cluster, and the mean affinity to any cluster."""
    n, sizes = len(labels), np.bincount(labels)
    member = sparse.csr_array((1 / sizes[labels], (np.arange(n), labels)), shape=(n, len(sizes)))
    edges = adjacency.tocoo()
    inside = labels[edges.row] == labels[edges.col]
    own = np.bincount(edges.row[inside], edges.data[inside], n)

    def likeness(units: NDArray[Any], clusters: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((adjacency[units] @ member)[:, clusters].toarray())

    return own, likeness


def _measure_nearness(labels: Ints, points: NDArray[Any]) -> tuple[NDArray[Any], Likeness]:
    """Return each unit's nearness to its cluster's mean, and the nearness to any cluster's mean."""
    from scipy.spatial.distance import cdist

    n, sizes = len(labels), np.bincount(labels)
    mean = sparse.csr_array((1 / sizes[labels], (labels, np.arange(n))), shape=(len(sizes), n)) @ points  # (k, d)

    def likeness(units: NDArray[Any], clusters: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(-cdist(points[units], mean[clusters], "sqeuclidean"))

    return -np.square(points - mean[labels]).sum(axis=1), likeness
