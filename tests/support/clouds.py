"""Graphs for tests of coarseners: of random points, of given edges, and of planted clusters."""

import numpy as np
import pytest
from scipy import sparse

from netgraph import plugins
from netgraph.affinity.similarity import cosine_graph
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.contract import check_aggregates, leaves_out
from netgraph.errors import PluginError

GROUP = "netgraph.coarseners"
MATCHINGS = {
    "hem",
    "hem-augmented",
    "hem-random",
    "random",
    "adjacent",
}  # they treat units that must stay alone in their own way: see test_heavy_edge.py


def merge(name, graph, n_coarse, seed=0):
    """Return checked aggregates. The test is skipped if the library of the coarsener is not installed."""
    coarsener = plugins.load_plugin(GROUP, name)
    try:
        aggregates = coarsener(graph, n_coarse, seed=seed)
    except PluginError as error:
        pytest.skip(str(error))
    return check_aggregates(aggregates, graph, name, leaves_out=leaves_out(coarsener))


def cloud(n, seed=0, **options):
    """Return the graph of n random points."""
    points = np.random.default_rng(seed).normal(size=(n, 6))
    return graph_of(points, **options)


def graph_of(points, **options):
    """Return the graph of points, with the cosine affinities of all pairs."""
    return AxisGraph("a", cosine_graph(points), np.ones(len(points)), lambda: points, **options)


def of_edges(dense, **options):
    """Return the graph with the weights in the upper triangle of a dense matrix."""
    dense = np.triu(dense, 1)
    return AxisGraph("a", sparse.csr_array(dense + dense.T), np.ones(len(dense)), **options)


def planted(sizes, seed=0):
    """Return a graph of clusters with these sizes, in random order, and the cluster of each unit.

    Points lie around one coordinate axis for each cluster. Edges are heavy within clusters and light between them.
    """
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    points = 5 * np.eye(len(sizes))[truth] + 0.1 * random.normal(size=(len(truth), len(sizes)))
    weights = np.where(truth[:, None] == truth, 1, 0.01) * random.uniform(0.9, 1, (len(truth), len(truth)))
    return of_edges(weights, make_features=lambda: points), truth


def alike(a, b):
    """Return True if two clusterings differ in their numbers only."""
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))
