"""K-means of the units' features: the clusters of model folding.

Wang, Simic, Mihalache, Thiele et al., "Forget the data and fine-tuning! Just fold the network to compress", ICLR 2025;
starts by k-means++: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.contract import declare_traits

STARTS = 10
WORK = 2_000_000_000  # products a start times starts; past it there are fewer starts, down to one
ROUNDS = 100
Ints = NDArray[np.int64]


@declare_traits(ignores_edges=True)
def kmeans(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of units whose features lie close together.

    Parameters
    ----------
    graph : AxisGraph
        Its features are clustered, each unit with its weight; edges are not used.
    n_coarse : int
    seed : int
        Draws the starts: ten, the best of which counts, and fewer where units x aggregates x features exceed 2e8.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(
        lambda part, k: cluster_points(part.features, k, weight=part.weight, seed=seed),
        graph,
        n_coarse,
        by_features=True,
    )


def cluster_points(points: NDArray[Any], n_clusters: int, *, weight: NDArray[Any], seed: int) -> Ints:
    """Return the clusters of Lloyd's k-means, at most ``n_clusters`` of them.

    Parameters
    ----------
    points : array of shape (n, d)
    n_clusters : int
    weight : array of shape (n,)
    seed : int

    Returns
    -------
    int array of shape (n,)
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():  # threads add up in any order, and clusters would follow
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        x = _reduce_dimension(np.asarray(points, dtype=np.float64))
        starts = int(np.clip(WORK // max(x.size * n_clusters, 1), 1, STARTS))
        found = KMeans(n_clusters, n_init=starts, max_iter=ROUNDS, random_state=seed % 2**32)
        return np.asarray(found.fit(x, sample_weight=weight).labels_, dtype=np.int64)


def _reduce_dimension(points: NDArray[Any]) -> NDArray[Any]:
    """Return points at the same distances from one another in no more dimensions than there are points."""
    n, d = points.shape
    return points if d <= n else np.asarray(np.linalg.qr(points.T, mode="r")).T
