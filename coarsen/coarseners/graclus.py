"""Graclus: heavy-edge matching in which an edge weighs its share of the normalised cut.

Dhillon, Guan and Kulis, "Weighted graph cuts without eigenvectors: a multilevel approach", IEEE Trans. Pattern Anal.
Mach. Intell. 29(11), 2007, section 4.1. Pairs are the locally dominant ones, as in `hem`, not those of a random order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import match_heavy_edges, merge_in_rounds, reweight_edges

Ints = NDArray[np.int64]


def graclus(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates that merge, two by two, units whose edge is heavy for their degrees.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
        Below half the units the graph of pairs is matched again, with edges and degrees added up.
    seed : int
        Orders edges of equal weight.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(
        lambda part, k: _merge_by_normalized_cut(part.adjacency, k, seed), graph, n_coarse
    )


def _merge_by_normalized_cut(adjacency: sparse.csr_array, n_clusters: int, seed: int) -> Ints:
    degree = np.asarray(adjacency.sum(axis=1), dtype=np.float64)

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        share = 1 / np.bincount(labels, degree)
        return match_heavy_edges(reweight_edges(between, lambda i, j, w: w * (share[i] + share[j])), n_clusters, seed)

    return merge_in_rounds(adjacency, n_clusters, step)
