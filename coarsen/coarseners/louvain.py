"""Louvain communities: clusters with more affinity inside than expected by chance.

Blondel, Guillaume, Lambiotte and Lefebvre, "Fast unfolding of communities in large networks", J. Stat. Mech. P10008, 2008.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import keep_strongest_edges
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError

NEIGHBORS = 16  # heaviest edges of each unit that are kept: a complete graph is one community
Ints = NDArray[np.int64]


def louvain(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge the communities that Louvain's method finds by modularity.

    Units move to the neighbouring community that raises the modularity most, communities are contracted, and both
    steps repeat [1]_. The coarsest level with at least ``n_coarse`` communities is taken, and its communities are joined
    by average linkage to that number. If even the finest level has fewer, its communities are split.

    Parameters
    ----------
    graph : AxisGraph
        The 16 heaviest edges of each unit are kept.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Draws the order of the visits.

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
    O(m) time per pass for m edges, in practice O(m log n). The method runs in Python (networkx). On large axes `plm` is
    faster.

    References
    ----------
    .. [1] Blondel, Guillaume, Lambiotte and Lefebvre, "Fast unfolding of communities in large
       networks", J. Stat. Mech. P10008, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, louvain
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> louvain(AxisGraph("path", path, np.ones(6)), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    return aggregate_with_constraints(lambda part, k: _find_communities(part, k, seed), graph, n_coarse)


def _find_communities(graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    """Return the communities of the coarsest level that has at least ``n_clusters``, or of the finest."""
    nx = import_package("networkx", "coarsener 'louvain'", PluginError)

    network = nx.from_scipy_sparse_array(keep_strongest_edges(graph.adjacency, NEIGHBORS))
    labels = np.arange(graph.n_units)
    for level, communities in enumerate(nx.community.louvain_partitions(network, seed=seed % 2**32)):
        if level and len(communities) < n_clusters:
            break
        for number, members in enumerate(communities):
            labels[list(members)] = number
    return labels
