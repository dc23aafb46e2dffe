"""Graphs of points, of given edges and of planted clusters, that coarseners are tried on."""

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
}  # their own ways with what must stay alone, in test_hem.py


def merge(name, graph, n_coarse, seed=0):
    """Return checked aggregates; a library that is not installed skips the test."""
    coarsener = plugins.load_plugin(GROUP, name)
    try:
        found = coarsener(graph, n_coarse, seed=seed)
    except PluginError as error:
        pytest.skip(str(error))
    return check_aggregates(found, graph, name, leaves_out=leaves_out(coarsener))


def cloud(n, seed=0, **options):
    points = np.random.default_rng(seed).normal(size=(n, 6))
    return graph_of(points, **options)


def graph_of(points, **options):
    return AxisGraph("a", cosine_graph(points), np.ones(len(points)), lambda: points, **options)


def of_edges(dense, **options):
    dense = np.triu(dense, 1)
    return AxisGraph("a", sparse.csr_array(dense + dense.T), np.ones(len(dense)), **options)


def planted(sizes, seed=0):
    """Return points round as many axes as sizes, shuffled, edges of strong and feeble weight, and who belongs where."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    points = 5 * np.eye(len(sizes))[truth] + 0.1 * random.normal(size=(len(truth), len(sizes)))
    weights = np.where(truth[:, None] == truth, 1, 0.01) * random.uniform(0.9, 1, (len(truth), len(truth)))
    return of_edges(weights, make_features=lambda: points), truth


def alike(a, b):
    """Whether two clusterings are one but for their numbers."""
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))
