"""Matchings and coarseners against networkx and a slow greedy twin."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import greedy_matching
from scipy import sparse

from netgraph.affinity import cosine, radial
from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.checks import check_coarsener, checked_aggregates
from netgraph.coarsen.hem import heavy_edge_matching, random_order_matching
from netgraph.coarsen.random_pairs import random_pairs
from netgraph.errors import AggregatesError, NetgraphError, PluginError


def graph_of(dense, **options):
    dense = np.triu(dense, 1)
    return AxisGraph("a", sparse.csr_array(dense + dense.T), np.ones(len(dense)), **options)


def pairs_of(aggregates):
    groups = {}
    for unit, a in enumerate(aggregates.tolist()):
        groups.setdefault(a, []).append(unit)
    return {tuple(g) for g in groups.values() if len(g) == 2}


random_graphs = st.tuples(st.integers(2, 20), st.integers(0, 10**6), st.floats(0.1, 1)).map(
    lambda p: np.triu(
        np.random.default_rng(p[1]).random((p[0], p[0]))
        * (np.random.default_rng(p[1] + 1).random((p[0], p[0])) < p[2]),
        1,
    )
)


@given(random_graphs)
def test_hem_takes_the_greedy_matching(weights):
    n = len(weights)
    found = pairs_of(heavy_edge_matching(graph_of(weights), -(-n // 2)))
    wanted = sorted(greedy_matching(weights), key=lambda p: -weights[p])[: n // 2]
    assert found == set(wanted)


@given(random_graphs)
def test_both_matchings_are_maximal_matchings(weights):
    graph = nx.from_numpy_array(weights + weights.T)
    for coarsener in (heavy_edge_matching, random_order_matching):
        found = pairs_of(coarsener(graph_of(weights), -(-len(weights) // 2)))
        assert nx.is_matching(graph, found)
        assert nx.is_maximal_matching(graph, found)


@pytest.mark.parametrize("coarsener", [heavy_edge_matching, random_order_matching, random_pairs])
def test_every_coarsener_keeps_the_contract(coarsener):
    check_coarsener(coarsener)


def test_only_the_heaviest_pairs_merge_where_few_must():
    weights = np.zeros((6, 6))
    weights[0, 1], weights[2, 3], weights[4, 5] = 1, 3, 2
    assert pairs_of(heavy_edge_matching(graph_of(weights), 5)) == {(2, 3)}


def test_the_matching_does_not_depend_on_the_names_of_units():
    rng = np.random.default_rng(5)
    weights = rng.random((15, 15))
    weights = np.triu(weights, 1)
    order = rng.permutation(15)
    full = weights + weights.T
    first = pairs_of(heavy_edge_matching(graph_of(full), 8))
    second = pairs_of(heavy_edge_matching(graph_of(full[np.ix_(order, order)]), 8))
    assert {tuple(sorted((order[i], order[j]))) for i, j in second} == first


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(12, 6), (12, 4), (12, 3), (18, 3), (10, 2), (7, 1)]))
def test_equal_aggregates_have_one_size(seed, sizes):
    n, k = sizes
    weights = np.random.default_rng(seed).random((n, n))
    aggregates = heavy_edge_matching(graph_of(weights, equal=True), k)
    assert np.bincount(aggregates).tolist() == [n // k] * k


def test_equal_aggregates_of_a_number_that_does_not_divide_are_refused():
    with pytest.raises(AggregatesError, match="does not divide"):
        heavy_edge_matching(graph_of(np.ones((5, 5)), equal=True), 2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g, k, seed: np.zeros(3),
        lambda g, k, seed: np.arange(g.n_units) * 2,
        lambda g, k, seed: np.random.permutation(g.n_units) // 2,
    ],
)
def test_a_wrong_coarsener_is_told_what_is_wrong(wrong):
    with pytest.raises(AggregatesError, match=r"numbered from 0|two answers|asked for"):
        check_coarsener(wrong, name="mine")


def test_a_coarsener_that_changes_the_graph_is_caught():
    def vandal(graph, n_coarse, *, seed=0):
        graph.weight[:] = 7
        return np.arange(graph.n_units)

    with pytest.raises(AggregatesError, match="changed the graph"):
        check_coarsener(vandal)


def test_unequal_aggregates_are_refused_where_sizes_must_agree():
    with pytest.raises(AggregatesError, match="one size"):
        checked_aggregates(np.array([0, 0, 0, 1]), graph_of(np.ones((4, 4)), equal=True), "mine")


@pytest.mark.parametrize("affinity", [cosine, radial])
def test_affinities_are_symmetric_nonnegative_and_greatest_for_twins(affinity):
    x = np.random.default_rng(0).normal(size=(20, 6))
    x[7] = x[3]
    a = affinity(x).toarray()
    assert (a >= 0).all()
    assert np.allclose(a, a.T)
    assert not a.diagonal().any()
    assert a[3].argmax() == 7


def test_the_nearest_neighbour_graph_agrees_with_all_pairs():
    x = np.random.default_rng(0).normal(size=(2500, 12)).astype(np.float32)
    found = cosine(x, k=4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    full = (1 + unit @ unit.T) / 2
    np.fill_diagonal(full, -1)
    for i in (0, 1200, 2499):
        best = np.sort(full[i])[-4:]
        row = np.sort(found[[i]].toarray().ravel())
        assert all(np.abs(row - b).min() < 1e-5 for b in best)


def test_a_dead_unit_has_no_edge_and_a_broken_one_is_named():
    x = np.ones((4, 3))
    x[2] = 0
    assert cosine(x)[[2]].nnz == 0
    x[1, 0] = np.nan
    with pytest.raises(NetgraphError, match="unit 1"):
        cosine(x)


def test_plugins_are_listed_loaded_and_refused_by_name(monkeypatch):
    from netgraph import plugins

    assert plugins.load("netgraph.coarseners", "hem") is heavy_edge_matching
    with pytest.raises(PluginError, match=r"no coarsener named 'metis'. Installed: .*hem"):
        plugins.load("netgraph.coarseners", "metis")
    from importlib.metadata import EntryPoint

    class Dist:
        name = "strangers-package"

    point = EntryPoint("broken", "no_such_module:thing", "netgraph.coarseners")._for(Dist())
    monkeypatch.setattr(plugins, "_points", lambda group: {"broken": point})
    with pytest.raises(PluginError, match="strangers-package"):
        plugins.load.__wrapped__("netgraph.coarseners", "broken")
