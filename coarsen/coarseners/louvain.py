"""Louvain communities: clusters with more affinity inside than chance would put there.

Blondel, Guillaume, Lambiotte and Lefebvre, "Fast unfolding of communities in large networks", J. Stat. Mech. P10008,
2008. How many communities there are is the method's own finding; they are joined or split to the number asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import keep_strongest_edges

NEIGHBORS = 16  # heaviest edges of each unit that count: where all pairs have an edge there is one community
Ints = NDArray[np.int64]


def louvain(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return the communities of the smallest level of Louvain's that has enough of them, joined to ``n_coarse``.

    Where even the finest level has fewer, its communities are split by heavy-edge matching.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
    seed : int
        Orders the visits.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(lambda part, k: _find_communities(part, k, seed), graph, n_coarse)


def _find_communities(graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    import networkx as nx

    network = nx.from_scipy_sparse_array(keep_strongest_edges(graph.adjacency, NEIGHBORS))
    labels = np.arange(graph.n_units)
    for level, communities in enumerate(nx.community.louvain_partitions(network, seed=seed % 2**32)):
        if level and len(communities) < n_clusters:
            break
        for number, members in enumerate(communities):
            labels[list(members)] = number
    return labels
