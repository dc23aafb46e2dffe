"""Ward's method: repeatedly join the two clusters that add the least variance.

Ward, "Hierarchical grouping to optimize an objective function", J. Amer. Statist. Assoc. 58, 1963.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.contract import declare_traits
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError

Ints = NDArray[np.int64]
PAIRS = 8192  # units up to which all pairs are compared: 256 MiB of distances
KEPT = 128  # trees, of at most 128 KiB each
_TREES: OrderedDict[tuple[tuple[int, ...], bytes], Ints] = OrderedDict()


@declare_traits(ignores_edges=True)
def ward(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Cluster the features of the units by Ward's method [1]_.

    Each unit is a cluster at first, and the two clusters that add the least variance are joined until
    ``n_coarse`` are left. Beyond 8,192 units only clusters with an edge between them are joined, because the distances
    of all pairs would take too much memory.

    Parameters
    ----------
    graph : AxisGraph
        Its features are clustered, and each unit counts once. Edges are used beyond 8,192 units only.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Not used.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units with features that are
        all zero stay alone where the number allows it.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(n² d) time and O(n²) memory for n units with d features. Along edges, O(m) memory for m edges.

    References
    ----------
    .. [1] Ward, "Hierarchical grouping to optimize an objective function", J. Amer. Statist. Assoc. 58, 1963.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, ward
    >>> points = np.array([[1.0], [1.1], [5.0], [5.2], [1.2]])
    >>> ward(AxisGraph("fc1", sparse.csr_array((5, 5)), np.ones(5), lambda: points), 2)
    array([0, 0, 1, 1, 0])
    """
    return aggregate_with_constraints(_cluster_by_variance, graph, n_coarse, by_features=True)


def _cluster_by_variance(graph: AxisGraph, n_clusters: int) -> Ints:
    """Return the clusters of Ward's linkage."""
    points = np.ascontiguousarray(graph.features, dtype=np.float64)
    if graph.n_units > PAIRS:
        return _cluster_along_edges(graph, points, n_clusters)
    return _cut_tree(_find_tree(points), n_clusters)


def _cluster_along_edges(graph: AxisGraph, points: NDArray[np.float64], n_clusters: int) -> Ints:
    """Return the clusters of scikit-learn's Ward linkage, which joins clusters with an edge between them."""
    import_package("sklearn", "coarsener 'ward'", PluginError)
    from sklearn.cluster import AgglomerativeClustering

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="the number of connected components"
        )  # scikit-learn joins them itself
        method = AgglomerativeClustering(n_clusters, linkage="ward", connectivity=graph.adjacency).fit(points)
    return np.asarray(method.labels_, dtype=np.int64)


def _find_tree(points: NDArray[np.float64]) -> Ints:
    """Return the two clusters that each step joins, (n - 1, 2), numbered as SciPy does: step i makes the cluster n + i.

    One tree serves every number of clusters. Error curves and sweeps ask for the same points at many ratios, so that the last trees
    are kept, by a hash of the points.
    """
    key = points.shape, hashlib.blake2b(points.data).digest()
    tree = _TREES.get(key)
    if tree is None:
        while len(_TREES) >= KEPT:
            _TREES.popitem(last=False)
        tree = _TREES[key] = linkage(points, "ward")[:, :2].astype(np.int64)
    return tree  # not from the store, where another thread may have made room


def _cut_tree(tree: Ints, n_clusters: int) -> Ints:
    """Return the cluster of each point after all but the last ``n_clusters - 1`` steps."""
    n = len(tree) + 1
    steps = n - n_clusters
    made = np.repeat(np.arange(n, n + steps), 2)
    size = n + steps
    joins = sparse.coo_array((np.ones(2 * steps), (made, tree[:steps].ravel())), shape=(size, size))
    return np.asarray(connected_components(joins, directed=False)[1][:n], dtype=np.int64)
