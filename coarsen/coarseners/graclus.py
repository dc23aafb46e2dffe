"""Graclus: heavy-edge matching with the weights of the normalized cut.

Dhillon, Guan and Kulis, "Weighted graph cuts without eigenvectors: a multilevel approach", IEEE Trans. Pattern Anal.
Mach. Intell. 29(11), 2007, section 4.1.
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
    """Merge units in pairs along edges that are heavy for the degrees of their ends.

    An edge between i and j counts ``w / d_i + w / d_j``, its share of the normalized cut [1]_. The locally dominant
    matching under these weights is contracted, with edges and degrees added up, and matched again if needed.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Seeds the hash that orders edges of equal weight.

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
    O(m) time per matching for m edges. The original visits vertices in random order. Here the matching is that of
    `heavy_edge_matching`, and the clusters are not refined by kernel k-means.

    References
    ----------
    .. [1] Dhillon, Guan and Kulis, "Weighted graph cuts without eigenvectors: a multilevel approach", IEEE
       Trans. Pattern Anal. Mach. Intell. 29(11), 2007, section 4.1.

    Examples
    --------
    The edge in the middle is the heaviest, but light for the degrees of its ends.

    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, graclus, heavy_edge_matching
    >>> weights = np.array([2.0, 3, 2])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> graph = AxisGraph("path", path, np.ones(4))
    >>> graclus(graph, 2)
    array([0, 0, 1, 1])
    >>> heavy_edge_matching(graph, 3)
    array([0, 1, 1, 2])
    """
    return aggregate_with_constraints(
        lambda part, k: _merge_by_normalized_cut(part.adjacency, k, seed), graph, n_coarse
    )


def _merge_by_normalized_cut(adjacency: sparse.csr_array, n_clusters: int, seed: int) -> Ints:
    """Match and contract. The degree of a cluster is the sum of the degrees of its units."""
    degree = np.asarray(adjacency.sum(axis=1), dtype=np.float64)

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        share = 1 / np.bincount(labels, degree)
        return match_heavy_edges(reweight_edges(between, lambda i, j, w: w * (share[i] + share[j])), n_clusters, seed)

    return merge_in_rounds(adjacency, n_clusters, step)
