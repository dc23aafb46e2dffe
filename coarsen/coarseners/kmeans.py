"""K-means on the features of the units: the clusters of model folding.

Wang, Šikić, Thiele and Saukh, "Forget the data and fine-tuning! Just fold the network to compress", ICLR 2025.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.contract import declare_traits
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError

STARTS = 10
WORK = 2_000_000_000  # most products of one pass, summed over the starts: above it there are fewer starts, down to one
ROUNDS = 100  # of Lloyd's algorithm
Ints = NDArray[np.int64]


@declare_traits(ignores_edges=True)
def kmeans(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Cluster the features of the units by k-means, as model folding does [1]_.

    Lloyd's algorithm starts ten times from k-means++ [2]_, and the clusters with the smallest squared error are kept.
    There are fewer starts, down to one, if units x aggregates x features exceed 2e8.

    Parameters
    ----------
    graph : AxisGraph
        Its features are clustered, and each unit counts with its weight. Edges are not used.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Draws the starts.

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
    A round of one start costs O(n k d) time for n units, k aggregates and d features, with at most 100 rounds. More
    features than units are first reduced to as many, in O(n² d).

    References
    ----------
    .. [1] Wang, Šikić, Thiele and Saukh, "Forget the data and fine-tuning! Just fold the network to compress",
       ICLR 2025.
    .. [2] Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, kmeans
    >>> points = np.array([[1.0], [1.1], [5.0], [5.2], [1.2]])
    >>> kmeans(AxisGraph("fc1", sparse.csr_array((5, 5)), np.ones(5), lambda: points), 2)
    array([0, 0, 1, 1, 0])
    """
    return aggregate_with_constraints(
        lambda part, k: cluster_points(part.features, k, weight=part.weight, seed=seed),
        graph,
        n_coarse,
        by_features=True,
    )


def cluster_points(points: NDArray[Any], n_clusters: int, *, weight: NDArray[Any], seed: int) -> Ints:
    """Return the clusters of weighted k-means.

    Parameters
    ----------
    points : array of shape (n, d)
    n_clusters : int
        The result has fewer clusters if there are fewer distinct points.
    weight : array of shape (n,)
    seed : int

    Returns
    -------
    labels : int array of shape (n,)
    """
    import_package("sklearn", "coarsener 'kmeans'", PluginError)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
    ):  # the order of sums, and so the clusters, would depend on the number of threads
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        x = _reduce_dimension(np.asarray(points, dtype=np.float64))
        starts = int(np.clip(WORK // max(x.size * n_clusters, 1), 1, STARTS))
        method = KMeans(n_clusters, n_init=starts, max_iter=ROUNDS, random_state=seed % 2**32)
        return np.asarray(method.fit(x, sample_weight=weight).labels_, dtype=np.int64)


def _reduce_dimension(points: NDArray[Any]) -> NDArray[Any]:
    """Rotate the points into as many dimensions as there are points, if they have more. Distances stay the same."""
    n, d = points.shape
    return points if d <= n else np.asarray(np.linalg.qr(points.T, mode="r")).T
