"""Spectral clustering: k-means on the first eigenvectors of the normalized Laplacian.

Ng, Jordan and Weiss, "On spectral clustering: analysis and an algorithm", NIPS 2001.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.affinity.similarity import normalize_rows
from netgraph.coarsen.coarseners.kmeans import cluster_points
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.laplacian import largest_eigenpairs, normalized_adjacency

VECTORS = 128  # most eigenvectors: more cost k-means much time and separate clusters little better
Ints = NDArray[np.int64]


def spectral(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Cluster the units by the first eigenvectors of the normalized Laplacian [1]_.

    Each unit becomes a point: its entries in the eigenvectors, scaled to length one. K-means of these points finds
    clusters with a small normalized cut.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights, and its weights count in k-means.
    n_coarse : int
        Number of aggregates, and of eigenvectors up to 128.
    seed : int, default 0
        Seeds k-means and the first vector of the eigensolver.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(n³) time for the eigenvectors of up to 2,048 units, beyond that O(m) per Lanczos step for m edges. K-means takes
    O(n k v) a round for k aggregates and v eigenvectors.

    References
    ----------
    .. [1] Ng, Jordan and Weiss, "On spectral clustering: analysis and an algorithm", NIPS 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, spectral
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> spectral(AxisGraph("path", path, np.ones(6)), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    return aggregate_with_constraints(lambda part, k: _cluster_eigenvectors(part, k, seed), graph, n_coarse)


def _cluster_eigenvectors(graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    """Return the k-means clusters of the rows of the eigenvectors, each row scaled to length one."""
    _, vectors = largest_eigenpairs(normalized_adjacency(graph.adjacency), min(n_clusters, VECTORS), seed=seed)
    return cluster_points(normalize_rows(vectors), n_clusters, weight=graph.weight, seed=seed)
