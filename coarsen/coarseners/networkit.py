"""NetworKit's matchings and communities. Optional extra `networkit`.

Staudt, Sazonovs and Meyerhenke, "NetworKit: a tool suite for large-scale complex network analysis", Network Science
4(4), 2016. It computes on one thread here, so that an answer depends on the seed only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph import plugins
from netgraph.coarsen.coarseners.louvain import NEIGHBORS
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import (
    keep_strongest_edges,
    merge_heaviest_pairs,
    merge_in_rounds,
    reweight_edges,
)

DOUBLINGS = 24  # of the resolution: by then communities of millions of edges are single units
Ints = NDArray[np.int64]


def suitor(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of pairs that propose to one another; where no two edges weigh alike, the pairs of `hem`.

    Manne and Halappanavar, "New effective multithreaded matching algorithms", IPDPS 2014.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
        Below half the units the graph of pairs is matched again, by mean affinities.
    seed : int
        Without effect: the matching draws nothing.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.

    Raises
    ------
    PluginError
        NetworKit is not installed.
    """
    library = _load_networkit("networkit-suitor")
    match = partial(library.matching.SuitorMatcher, sortSuitor=False)
    return aggregate_with_constraints(
        lambda part, k: _merge_by_matching(library, match, part, k, seed), graph, n_coarse
    )


def path_growing(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of pairs along paths that grow by their heaviest edges; otherwise as `suitor`.

    Drake and Hougardy, "A simple approximation algorithm for the weighted matching problem", Information Processing
    Letters 85(4), 2003.
    """
    library = _load_networkit("networkit-path-growing")
    match = library.matching.PathGrowingMatcher
    return aggregate_with_constraints(
        lambda part, k: _merge_by_matching(library, match, part, k, seed), graph, n_coarse
    )


def plm(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return the communities of Louvain's method with a second round of moves, at the resolution that gives enough.

    Staudt and Meyerhenke, "Engineering parallel algorithms for community detection in massive networks", IEEE Trans.
    Parallel Distrib. Syst. 27(1), 2016.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int
        The resolution is doubled until there are as many communities; those too many are joined.
    seed : int
        Orders the visits.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.

    Raises
    ------
    PluginError
        NetworKit is not installed.
    """
    library = _load_networkit("networkit-plm")
    detect = partial(library.community.PLM, refine=True, par="none randomized")
    return aggregate_with_constraints(
        lambda part, k: _find_communities(library, detect, part, k, seed), graph, n_coarse
    )


def leiden(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return the communities of Leiden's method, each of which is connected; otherwise as `plm`.

    Traag, Waltman and van Eck, "From Louvain to Leiden: guaranteeing well-connected communities", Sci. Rep. 9, 2019.
    """
    library = _load_networkit("networkit-leiden")
    detect = library.community.ParallelLeiden
    return aggregate_with_constraints(
        lambda part, k: _find_communities(library, detect, part, k, seed), graph, n_coarse
    )


def _load_networkit(name: str) -> Any:
    return plugins.import_library("networkit", called="NetworKit", plugin=f"coarsener {name!r}")


def _merge_by_matching(library: Any, match: Callable[..., Any], graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    def step(between: sparse.csr_array, labels: Ints) -> Ints:
        sizes = np.bincount(labels)
        mean = reweight_edges(between, lambda i, j, w: w / (sizes[i] * sizes[j]))
        network = _build_network(library, mean)
        pairs = _run_on_one_thread(library, match(network), seed).getMatching().toPartition(network).getVector()
        return merge_heaviest_pairs(mean, _find_mates(np.array(pairs)), n_clusters)

    return merge_in_rounds(graph.adjacency, n_clusters, step)


def _find_mates(pairs: Ints) -> Ints:
    """Return the other vertex of the same number, or the vertex itself."""
    order = np.argsort(pairs, kind="stable")
    first = np.flatnonzero(np.diff(pairs[order]) == 0)
    mate = np.arange(len(pairs))
    mate[order[first]], mate[order[first + 1]] = order[first + 1], order[first]
    return mate


def _find_communities(library: Any, detect: Callable[..., Any], graph: AxisGraph, n_clusters: int, seed: int) -> Ints:
    network = _build_network(library, keep_strongest_edges(graph.adjacency, NEIGHBORS))
    labels = np.zeros(graph.n_units, dtype=np.int64)
    for doubled in range(DOUBLINGS):
        found = _run_on_one_thread(library, detect(network, gamma=2.0**doubled), seed).getPartition()
        labels = np.array(found.getVector(), dtype=np.int64)
        if found.numberOfSubsets() >= n_clusters:
            break
    return labels


def _build_network(library: Any, adjacency: sparse.csr_array) -> Any:
    upper = sparse.triu(adjacency, 1, format="coo")
    edges = upper.data.astype(np.float64), (upper.row, upper.col)
    return library.GraphFromCoo(edges, n=adjacency.shape[0], weighted=True)


def _run_on_one_thread(library: Any, algorithm: Any, seed: int) -> Any:
    """Run on one thread, with random numbers of this seed; the number of threads is as it was afterwards."""
    before = library.getMaxNumberOfThreads()
    library.setNumberOfThreads(1)
    library.setSeed(seed % 2**31, False)
    try:
        return algorithm.run()
    finally:
        library.setNumberOfThreads(before)
