"""Balance of clusters: split or join them to a given number, and make their sizes equal.

The clusters of a method change as little as possible. They are split and joined by average linkage. For equal sizes
only the surplus units of large clusters move. Their new places maximize the sum of affinities, a transportation problem
as in Malinen and Fränti, "Balanced k-means for clustering", S+SSPR 2014.
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

BATCH = 2048  # units that move at once: assigning b units to p free places takes O(b² p)
Ints = NDArray[np.int64]
Likeness = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def adjust_cluster_count(labels: Ints, graph: AxisGraph, n_clusters: int) -> Ints:
    """Split or join clusters until there are exactly ``n_clusters``.

    Parameters
    ----------
    labels : int array of shape (n,)
        Cluster of each unit, any numbers.
    graph : AxisGraph
        Its affinities decide on the units that are split off and the clusters that are joined.
    n_clusters : int
        At most the number of units.

    Returns
    -------
    int array of shape (n,)
        Numbered 0 .. n_clusters - 1.
    """
    labels = renumber_labels(labels)
    n_labels = int(labels.max(initial=-1)) + 1
    if n_labels < n_clusters:
        return _split_clusters(labels, graph, n_clusters)
    return _join_clusters(labels, graph, n_clusters) if n_labels > n_clusters else labels


def _split_clusters(labels: Ints, graph: AxisGraph, n_clusters: int) -> Ints:
    """Split the clusters that hold the most units per part, each by average linkage of its members."""
    labels = labels.copy()
    sizes = np.bincount(labels)
    parts = _allot_parts(sizes, n_clusters)
    following = len(sizes)
    for cluster in np.flatnonzero(parts > 1).tolist():
        members = np.flatnonzero(labels == cluster)
        inside = AxisGraph(graph.name, induced_subgraph(graph.adjacency, members), graph.weight[members])
        part = _join_clusters(heavy_edge_matching(inside, int(parts[cluster])), inside, int(parts[cluster]))
        labels[members[part > 0]] = following - 1 + part[part > 0]
        following += int(parts[cluster]) - 1
    return renumber_labels(labels)


def _allot_parts(sizes: Ints, n_clusters: int) -> Ints:
    """Return the number of parts of each cluster: repeatedly one more for the cluster with the largest parts."""
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
    """Return the graph of some units and the edges between them. The result may be ``adjacency`` itself."""
    return adjacency if len(units) == adjacency.shape[0] else sparse.csr_array(adjacency[units][:, units])


def _join_clusters(labels: Ints, graph: AxisGraph, n_clusters: int) -> Ints:
    """Join the clusters with the largest mean affinity. If none have an edge between them, the smallest are joined."""
    ones = np.ones(len(labels), dtype=np.int64)
    while (n_labels := int(labels.max()) + 1) > n_clusters:
        between = AxisGraph(graph.name, contract_by_mean(graph.adjacency, labels, ones), np.bincount(labels))
        step = heavy_edge_matching(between, n_clusters)
        if step.max() + 1 == n_labels:
            return _pack_clusters(labels, n_clusters)
        labels = step[labels]
    return renumber_labels(labels)


def _pack_clusters(labels: Ints, n_clusters: int) -> Ints:
    """Repeatedly join the two smallest clusters."""
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
    """Move surplus units so that all clusters have one size.

    Each cluster keeps the n / k units that are most alike to it. The other units go to clusters with room. Their places
    maximize the sum of likenesses, for up to `BATCH` units at a time.

    Parameters
    ----------
    labels : int array of shape (n,)
        Clusters, numbered 0 .. k - 1. k divides n.
    graph : AxisGraph
        The likeness of a unit and a cluster is its mean affinity to the members.
    points : array of shape (n, d), optional
        If given, likeness is minus the squared distance to the mean of the cluster.

    Returns
    -------
    int array of shape (n,)
        Aggregates of n / k units, numbered 0 .. k - 1.
    """
    k = int(labels.max()) + 1
    size = len(labels) // k
    if points is None:
        inner, likeness = _measure_affinity(labels, graph.adjacency)
    else:
        inner, likeness = _measure_nearness(labels, points)
    order = np.lexsort((np.arange(len(labels)), -inner, labels))
    starts = np.cumsum(np.bincount(labels, minlength=k)) - np.bincount(labels, minlength=k)
    surplus = order[np.arange(len(labels)) - starts[labels[order]] >= size]
    out = labels.copy()
    out[surplus] = -1
    for start in range(0, len(surplus), BATCH):
        units = surplus[start : start + BATCH]
        out[units] = _assign_surplus(units, size - np.bincount(out[out >= 0], minlength=k), likeness)
    return renumber_labels(out)


def _assign_surplus(units: Ints, room: Ints, likeness: Likeness) -> Ints:
    """Return a cluster for each unit. ``room`` (k,) holds the number of free places of each cluster."""
    from scipy.optimize import linear_sum_assignment

    clusters = np.flatnonzero(room)
    places = np.repeat(np.arange(len(clusters)), room[clusters])
    _, chosen = linear_sum_assignment(likeness(units, clusters)[:, places], maximize=True)
    return np.asarray(clusters[places[chosen]])


def _measure_affinity(labels: Ints, adjacency: sparse.csr_array) -> tuple[NDArray[Any], Likeness]:
    """Return the affinity of each unit to its own cluster, and a function for the mean affinity to any cluster."""
    n, sizes = len(labels), np.bincount(labels)
    member = sparse.csr_array((1 / sizes[labels], (np.arange(n), labels)), shape=(n, len(sizes)))
    edges = adjacency.tocoo()
    inside = labels[edges.row] == labels[edges.col]
    inner = np.bincount(edges.row[inside], edges.data[inside], n)

    def likeness(units: NDArray[Any], clusters: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((adjacency[units] @ member)[:, clusters].toarray())

    return inner, likeness


def _measure_nearness(labels: Ints, points: NDArray[Any]) -> tuple[NDArray[Any], Likeness]:
    """Return the nearness of each unit to the mean of its cluster, and a function for the nearness to any mean."""
    from scipy.spatial.distance import cdist

    n, sizes = len(labels), np.bincount(labels)
    mean = sparse.csr_array((1 / sizes[labels], (labels, np.arange(n))), shape=(len(sizes), n)) @ points  # (k, d)

    def likeness(units: NDArray[Any], clusters: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(-cdist(points[units], mean[clusters], "sqeuclidean"))

    return -np.square(points - mean[labels]).sum(axis=1), likeness
