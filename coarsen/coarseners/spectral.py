"""Spectral clustering: k-means of the first eigenvectors of the normalised Laplacian, rows scaled to length one.

Ng, Jordan and Weiss, "On spectral clustering: analysis and an algorithm", NIPS 2001.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.coarseners.kmeans import cluster_points
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.laplacian import largest_eigenpairs, normalized_adjacency

VECTORS = 128  # eigenvectors at most: with more, k-means costs much and tells little
Ints = NDArray[np.int64]


def spectral(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates between which the normalised cut is small.

    Parameters
    ----------
    graph : AxisGraph
        Its weights count in the k-means.
    n_coarse : int
        As many eigenvectors are used, up to 128.
    seed : int
        Of k-means and of the eigensolver's first vector.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(lambda part, k: _cluster_eigenvectors(part, k, seed), graph, n_coarse)


def _cluster_eigenvectors(graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    _, vectors = largest_eigenpairs(normalized_adjacency(graph.adjacency), min(n_clusters, VECTORS), seed=seed)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    points = vectors / np.where(lengths > 0, lengths, 1)
    return cluster_points(points, n_clusters, weight=graph.weight, seed=seed)
