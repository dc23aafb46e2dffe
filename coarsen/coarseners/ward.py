"""Ward's method: join the two clusters whose joining adds the least variance, again and again.

Ward, "Hierarchical grouping to optimize an objective function", J. Amer. Statist. Assoc. 58, 1963. Joining any two clusters takes
the distances of all pairs, n² / 2 numbers, so that many units join along edges of the affinity graph alone.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.contract import declare_traits

Ints = NDArray[np.int64]
PAIRS = 8192  # units up to which all pairs are compared: 256 MiB of distances


@declare_traits(ignores_edges=True)
def ward(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of units whose features vary little.

    Parameters
    ----------
    graph : AxisGraph
        Its features are clustered, each unit alike; weights are not used, and edges beyond `PAIRS` units alone.
    n_coarse : int
    seed : int
        Unused: nothing here is random.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(_cluster_by_variance, graph, n_coarse, by_features=True)


def _cluster_by_variance(graph: AxisGraph, n_clusters: int) -> Ints:
    from sklearn.cluster import AgglomerativeClustering

    points = np.asarray(graph.features, dtype=np.float64)
    edges = graph.adjacency if graph.n_units > PAIRS else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the number of connected components")  # it joins them by itself
        found = AgglomerativeClustering(n_clusters, linkage="ward", connectivity=edges).fit(points)
    return np.asarray(found.labels_, dtype=np.int64)
