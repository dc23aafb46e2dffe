"""NetworKit: matchings and communities of large graphs (extra ``networkit``).

Staudt, Sazonovs and Meyerhenke, "NetworKit: a tool suite for large-scale complex network analysis", Network Science
4(4), 2016. NetworKit runs on one thread here, because its communities depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.coarseners.louvain import NEIGHBORS
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import (
    keep_strongest_edges,
    merge_heaviest_pairs,
    merge_in_rounds,
    reweight_edges,
)
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError

DOUBLINGS = 24  # of the resolution: enough to make every unit of a graph with millions of edges a community
Ints = NDArray[np.int64]


def suitor(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge units in pairs by the suitor algorithm [1]_.

    Each unit proposes to its heaviest neighbour that has no better proposal, and a unit that is outbid proposes again.
    The pairs are those of `heavy_edge_matching` if all edge weights differ. The graph of pairs is matched again by mean
    affinities if ``n_coarse`` is below half the units.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Not used, because the matching draws no random numbers.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    PluginError
        NetworKit is not installed.
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    In practice O(m) time per matching for m edges.

    References
    ----------
    .. [1] Manne and Halappanavar, "New effective multithreaded matching algorithms", IPDPS 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, suitor
    >>> weights = np.array([3.0, 1, 3, 1, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> suitor(AxisGraph("path", path, np.ones(6)), 3)  # doctest: +SKIP
    array([0, 0, 1, 1, 2, 2])
    """
    library = _load_networkit("networkit-suitor")
    match = partial(library.matching.SuitorMatcher, sortSuitor=False)
    return aggregate_with_constraints(
        lambda part, k: _merge_by_matching(library, match, part, k, seed), graph, n_coarse
    )


def path_growing(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge units in pairs along growing paths [1]_.

    A path grows from a vertex by its heaviest edge to a vertex that no path has visited. Its edges go in turn to two
    matchings, and the heavier one is taken, which weighs at least half of the heaviest matching.

    Parameters
    ----------
    graph : AxisGraph
        Its affinities are the edge weights.
    n_coarse : int
        Number of aggregates. Below half the units the graph of pairs is matched again by mean affinities.
    seed : int, default 0
        Not used, because the matching draws no random numbers.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    PluginError
        NetworKit is not installed.
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(m) time per matching for m edges.

    References
    ----------
    .. [1] Drake and Hougardy, "A simple approximation algorithm for the weighted matching problem", Information
       Processing Letters 85(4), 2003.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, path_growing
    >>> weights = np.array([3.0, 1, 3, 1, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> path_growing(AxisGraph("path", path, np.ones(6)), 3)  # doctest: +SKIP
    array([0, 0, 1, 1, 2, 2])
    """
    library = _load_networkit("networkit-path-growing")
    match = library.matching.PathGrowingMatcher
    return aggregate_with_constraints(
        lambda part, k: _merge_by_matching(library, match, part, k, seed), graph, n_coarse
    )


def plm(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge the communities of Louvain's method with a second phase of moves on every level [1]_.

    Units move to the neighbouring community that raises the modularity most, communities are contracted, and units move
    again on the way back. The resolution is doubled until there are at least ``n_coarse`` communities, which are then
    joined to that number.

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
    PluginError
        NetworKit is not installed.
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(m) time per pass for m edges, and at most 24 resolutions.

    References
    ----------
    .. [1] Staudt and Meyerhenke, "Engineering parallel algorithms for community detection in massive networks", IEEE
       Trans. Parallel Distrib. Syst. 27(1), 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, plm
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> plm(AxisGraph("path", path, np.ones(6)), 2)  # doctest: +SKIP
    array([0, 0, 0, 1, 1, 1])
    """
    library = _load_networkit("networkit-plm")
    detect = partial(library.community.PLM, refine=True, par="none randomized")
    return aggregate_with_constraints(
        lambda part, k: _find_communities(library, detect, part, k, seed), graph, n_coarse
    )


def leiden(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge the communities of the Leiden algorithm, each of which is connected [1]_.

    Leiden refines each community into connected parts before it contracts them, and otherwise moves units as Louvain's
    method does. The resolution is doubled until there are at least ``n_coarse`` communities, which are then joined to
    that number.

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
    PluginError
        NetworKit is not installed.
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(m) time per pass for m edges, and at most 24 resolutions.

    References
    ----------
    .. [1] Traag, Waltman and van Eck, "From Louvain to Leiden: guaranteeing well-connected communities", Sci. Rep. 9,
       2019.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, leiden
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> leiden(AxisGraph("path", path, np.ones(6)), 2)  # doctest: +SKIP
    array([0, 0, 0, 1, 1, 1])
    """
    library = _load_networkit("networkit-leiden")
    detect = library.community.ParallelLeiden
    return aggregate_with_constraints(
        lambda part, k: _find_communities(library, detect, part, k, seed), graph, n_coarse
    )


def _load_networkit(name: str) -> Any:
    """Import NetworKit, or raise a `PluginError` that names the coarsener and the extra."""
    return import_package("networkit", f"coarsener {name!r}", PluginError)


def _merge_by_matching(library: Any, match: Callable[..., Any], graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    """Match and contract by mean affinities. ``match`` makes a matcher of NetworKit from a network."""

    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        sizes = np.bincount(labels)
        mean = reweight_edges(between, lambda i, j, w: w / (sizes[i] * sizes[j]))
        network = _build_network(library, mean)
        pairs = _run_on_one_thread(library, match(network), seed).getMatching().toPartition(network).getVector()
        return merge_heaviest_pairs(mean, _find_mates(np.array(pairs)), n_clusters)

    return merge_in_rounds(graph.adjacency, n_clusters, step)


def _find_mates(pairs: Ints) -> Ints:
    """Return the partner of each vertex, or the vertex itself. ``pairs`` (n,) holds one number for each pair."""
    order = np.argsort(pairs, kind="stable")
    first = np.flatnonzero(np.diff(pairs[order]) == 0)
    mate = np.arange(len(pairs))
    mate[order[first]], mate[order[first + 1]] = order[first + 1], order[first]
    return mate


def _find_communities(library: Any, detect: Callable[..., Any], graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    """Return the communities at the first resolution 1, 2, 4, ... that gives at least ``n_clusters``."""
    network = _build_network(library, keep_strongest_edges(graph.adjacency, NEIGHBORS))
    labels = np.zeros(graph.n_units, dtype=np.int64)
    for doubling in range(DOUBLINGS):
        partition = _run_on_one_thread(library, detect(network, gamma=2.0**doubling), seed).getPartition()
        labels = np.array(partition.getVector(), dtype=np.int64)
        if partition.numberOfSubsets() >= n_clusters:
            break
    return labels


def _build_network(library: Any, adjacency: sparse.csr_array) -> Any:
    """Return the graph as a weighted network of NetworKit."""
    upper = sparse.triu(adjacency, 1, format="coo")
    edges = upper.data.astype(np.float64), (upper.row, upper.col)
    return library.GraphFromCoo(edges, n=adjacency.shape[0], weighted=True)


def _run_on_one_thread(library: Any, algorithm: Any, seed: int) -> Any:
    """Run an algorithm on one thread with this seed, and restore the number of threads."""
    before = library.getMaxNumberOfThreads()
    library.setNumberOfThreads(1)
    library.setSeed(seed % 2**31, False)
    try:
        return algorithm.run()
    finally:
        library.setNumberOfThreads(before)
