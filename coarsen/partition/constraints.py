"""Constraints of a partition: the number of aggregates, units that stay alone, and equal sizes.

`aggregate_with_constraints` fulfils them for every coarsener. A method then only clusters units that are free and have
edges (or features), and may return any number of clusters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import check_equal_sizes, renumber_labels
from netgraph.coarsen.partition.balance import adjust_cluster_count, equalize_sizes, induced_subgraph

Ints = NDArray[np.int64]
Cluster = Callable[[AxisGraph, int], Ints]


def free_and_count(graph: AxisGraph, n_coarse: int) -> tuple[Ints, int]:
    """Return the units that may merge, and the number of aggregates that is left for them.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
        Number of aggregates of the whole axis. Each unit that must stay alone takes one of them.

    Returns
    -------
    free : int array
        Units that may merge.
    n_free : int
        At least 1, unless no unit is free.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.
    """
    if graph.equal:
        check_equal_sizes(graph, n_coarse)
    units = np.arange(graph.n_units)
    free = units if graph.fixed is None else units[~graph.fixed]
    n_fixed = graph.n_units - len(free)
    return free, min(max(n_coarse - n_fixed, 1), len(free))


def aggregate_with_constraints(cluster: Cluster, graph: AxisGraph, n_coarse: int, *, by_features: bool = False) -> Ints:
    """Turn the clusters of a method into aggregates that fulfil the constraints of a graph.

    Parameters
    ----------
    cluster : callable ``(part, n_clusters) -> labels``
        The method. ``part`` is an `AxisGraph` of units that may all merge and of which none is isolated, with
        ``1 < n_clusters < part.n_units``. If the method returns more or fewer clusters, they are joined or split.
    graph : AxisGraph
    n_coarse : int
        Number of aggregates. There are more only if the units that must stay alone leave none for the others.
    by_features : bool, default False
        The method compares features. Then a unit is isolated if its features are all zero. By default a unit without
        an edge is isolated.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0. Isolated units stay alone. They merge with one another only if sizes must be equal, or if
        otherwise the other units would get less than half of their share of the aggregates.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.
    """
    free, n_free = free_and_count(graph, n_coarse)
    isolated = _find_isolated(graph, free, by_features) & (n_free > 1)
    alone, rest = free[isolated], free[~isolated]
    n_alone = _count_isolated_clusters(len(alone), len(free), n_free, graph.equal)
    labels = np.arange(graph.n_units)
    labels[alone] = _label_by_first_unit(alone, np.arange(len(alone)) * n_alone // max(len(alone), 1))
    labels[rest] = _label_by_first_unit(rest, _cluster_part(cluster, graph, rest, n_free - n_alone))
    labels = renumber_labels(labels)
    return equalize_sizes(labels, graph, graph.features if by_features else None) if graph.equal else labels


def _find_isolated(graph: AxisGraph, free: Ints, by_features: bool) -> NDArray[np.bool_]:
    """Return a mask over the free units: those with zero features, or without an edge to another free unit."""
    if by_features:
        return np.asarray(~graph.features[free].any(axis=1))
    return np.asarray((graph.adjacency @ np.isin(np.arange(graph.n_units), free))[free] == 0)


def _count_isolated_clusters(n_isolated: int, n: int, n_clusters: int, equal: bool) -> int:
    """Return the number of clusters that the isolated units form, out of ``n_clusters`` for all ``n`` units."""
    n_rest = n - n_isolated
    if not n_isolated or not n_rest:
        return n_clusters if n_isolated else 0
    if not equal and n_clusters - n_isolated >= max(1, n_rest * n_clusters / n / 2):
        return n_isolated
    least, most = max(1, n_clusters - n_rest), min(n_isolated, n_clusters - 1)
    return min(max(round(n_clusters * n_isolated / n), least), most)


def _label_by_first_unit(units: Ints, labels: Ints) -> Ints:
    """Return the first unit of the cluster of each unit."""
    _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
    return units[first[cluster]]


def _cluster_part(cluster: Cluster, graph: AxisGraph, units: Ints, n_clusters: int) -> Ints:
    """Run the method on a part of the units, unless the answer is clear without it."""
    n = len(units)
    if n_clusters in (0, 1, n):
        return np.arange(n) if n_clusters == n else np.zeros(n, dtype=np.int64)
    part = AxisGraph(
        graph.name, induced_subgraph(graph.adjacency, units), graph.weight[units], lambda: graph.features[units]
    )
    return adjust_cluster_count(np.asarray(cluster(part, n_clusters), dtype=np.int64), part, n_clusters)
