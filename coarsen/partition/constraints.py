"""What every graph asks of every coarsener, honoured in one place: the number, units that stay alone, equal sizes.

A method then only has to cluster units that are free and have edges (or features), and may give any number of clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import check_equal_sizes, renumber_labels
from netgraph.coarsen.partition.balance import adjust_cluster_count, equalize_sizes, induced_subgraph

Ints = NDArray[np.int64]
Cluster = Callable[[AxisGraph, int], Any]


def aggregate_with_constraints(cluster: Cluster, graph: AxisGraph, n_coarse: int, *, by_features: bool = False) -> Ints:
    """Return a method's clusters as aggregates that honour what the graph asks for.

    Parameters
    ----------
    cluster : callable ``(part, n_clusters) -> labels``
        ``part`` is an `AxisGraph` of units that may all merge, none of them isolated; ``1 < n_clusters < part.n_units``.
        More or fewer clusters are joined or split.
    graph : AxisGraph
    n_coarse : int
        Number of aggregates. There are more only where units that must stay alone leave the others none.
    by_features : bool
        Whether the method compares features: a unit is isolated that has none but zeros, not one without an edge.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Isolated units stay alone, unless sizes must be equal or that left the others less than half of their share;
        then they merge with one another.

    Raises
    ------
    AggregatesError
        Aggregates must be equal, and ``n_coarse`` does not divide the number of units or some must stay alone.
    """
    if graph.equal:
        check_equal_sizes(graph, n_coarse)
    labels = np.arange(graph.n_units)
    free = labels if graph.fixed is None else np.flatnonzero(~graph.fixed)
    n_free = min(max(n_coarse - (graph.n_units - len(free)), 1), len(free))
    isolated = _find_isolated(graph, free, by_features) & (n_free > 1)
    alone, rest = free[isolated], free[~isolated]
    n_alone = _count_isolated_clusters(len(alone), len(free), n_free, graph.equal)
    labels = labels.copy()
    labels[alone] = _label_by_first_unit(alone, np.arange(len(alone)) * n_alone // max(len(alone), 1))
    labels[rest] = _label_by_first_unit(rest, _cluster_part(cluster, graph, rest, n_free - n_alone))
    labels = renumber_labels(labels)
    return equalize_sizes(labels, graph, graph.features if by_features else None) if graph.equal else labels


def _find_isolated(graph: AxisGraph, free: Ints, by_features: bool) -> NDArray[np.bool_]:
    if by_features:
        return np.asarray(~graph.features[free].any(axis=1))
    return np.asarray((graph.adjacency @ np.isin(np.arange(graph.n_units), free))[free] == 0)


def _count_isolated_clusters(n_isolated: int, n: int, n_clusters: int, equal: bool) -> int:
    """Return how many clusters the isolated units are."""
    n_rest = n - n_isolated
    if not n_isolated or not n_rest:
        return n_clusters if n_isolated else 0
    if not equal and n_clusters - n_isolated >= max(1, n_rest * n_clusters / n / 2):
        return n_isolated
    least, most = max(1, n_clusters - n_rest), min(n_isolated, n_clusters - 1)
    return min(max(round(n_clusters * n_isolated / n), least), most)


def _label_by_first_unit(units: Ints, labels: Ints) -> Ints:
    """Return for each unit the first unit of its cluster."""
    _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
    return units[first[cluster]]


def _cluster_part(cluster: Cluster, graph: AxisGraph, units: Ints, n_clusters: int) -> Ints:
    n = len(units)
    if n_clusters in (0, 1, n):
        return np.arange(n) if n_clusters == n else np.zeros(n, dtype=np.int64)
    part = AxisGraph(
        graph.name, induced_subgraph(graph.adjacency, units), graph.weight[units], lambda: graph.features[units]
    )
    return adjust_cluster_count(np.asarray(cluster(part, n_clusters), dtype=np.int64), part, n_clusters)
