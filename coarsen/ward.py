"""Ward's method: join the two clusters whose joining adds the least variance, again and again.

Ward, "Hierarchical grouping to optimize an objective function", J. Amer. Statist. Assoc. 58, 1963.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.checks import declares
from netgraph.coarsen.honouring import aggregated

Ints = NDArray[np.int64]


@declares(ignores_edges=True)
def ward(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of units whose features vary little.

    Parameters
    ----------
    graph : AxisGraph
        Its features are clustered, each unit alike; neither edges nor weights are used.
    n_coarse : int
    seed : int
        Unused: nothing here is random.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.honouring.aggregated` says.
    """
    return aggregated(_clusters, graph, n_coarse, by_features=True)


def _clusters(graph: AxisGraph, n_clusters: int) -> Ints:
    from sklearn.cluster import AgglomerativeClustering

    points = np.asarray(graph.features, dtype=np.float64)
    return np.asarray(AgglomerativeClustering(n_clusters, linkage="ward").fit(points).labels_, dtype=np.int64)
