"""Measures of a partition against networkx and dense matrices."""

import json

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import netgraph as ng
from netgraph.coarsen.hierarchy.report import build_report, describe_level
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import renumber_labels
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import AggregatesError, NetgraphError
from netgraph.models.perceptron import mlp

N = 10


def random_graph(seed, density=0.6):
    random = np.random.default_rng(seed)
    dense = np.triu(random.random((N, N)) * (random.random((N, N)) < density), 1)
    return AxisGraph("a", sparse.csr_array(dense + dense.T), random.integers(1, 5, N).astype(float))


partitions = st.lists(st.integers(0, 5), min_size=N, max_size=N).map(lambda x: renumber_labels(np.array(x)))


@given(st.integers(0, 10**6), partitions)
def test_cut_and_modularity_are_those_of_networkx(seed, aggregates):
    graph = random_graph(seed)
    network = nx.from_scipy_sparse_array(graph.adjacency)
    groups = [set(np.flatnonzero(aggregates == a).tolist()) for a in range(aggregates.max() + 1)]
    measured = ng.quality(graph, aggregates)
    assert measured.modularity == pytest.approx(nx.community.modularity(network, groups))
    cut = sum(nx.cut_size(network, group, weight="weight") for group in groups) / 2
    assert measured.cut == pytest.approx(cut)
    assert measured.matched_weight == pytest.approx(network.size(weight="weight") - cut)


@given(st.integers(0, 10**6), partitions)
def test_balance_is_one_only_if_all_aggregates_weigh_the_same(seed, aggregates):
    graph = random_graph(seed)
    weights = [graph.weight[aggregates == a].sum() for a in range(aggregates.max() + 1)]
    assert ng.quality(graph, aggregates).balance == pytest.approx(max(weights) * len(weights) / sum(weights))


@given(st.integers(0, 10**6), partitions, st.integers(1, 9))
def test_spectral_errors_are_those_of_dense_matrices(seed, aggregates, number):
    graph = random_graph(seed, density=1)
    dense = graph.adjacency.toarray()
    L = np.diag(dense.sum(1)) - dense
    values, U = np.linalg.eigh(L)
    Q = np.linalg.qr(np.eye(aggregates.max() + 1)[aggregates])[0]
    root = U * np.sqrt(np.maximum(values, 0)) @ U.T
    V = U[:, 1 : number + 1] / np.sqrt(values[1 : number + 1])
    wanted = np.linalg.norm(root @ (np.eye(N) - Q @ Q.T) @ V, 2)
    measured = ng.quality(graph, aggregates, n_eigenvalues=number)
    assert measured.subspace_error == pytest.approx(wanted, abs=1e-6)
    coarse = np.linalg.eigvalsh(Q.T @ L @ Q)[1 : number + 1]
    fine = values[1 : number + 1][: len(coarse)]
    if len(coarse):
        assert measured.eigenvalue_error == pytest.approx((np.abs(coarse - fine) / fine).max(), abs=1e-6)
        assert (coarse >= fine - 1e-9).all()
    else:
        assert np.isnan(measured.eigenvalue_error)


def test_nothing_is_lost_where_nothing_merges():
    measured = ng.quality(random_graph(3), np.arange(N), n_eigenvalues=4)
    assert measured.eigenvalue_error == pytest.approx(0, abs=1e-9)
    assert measured.subspace_error == pytest.approx(0, abs=1e-6)
    assert measured.matched_weight == 0


def test_a_graph_without_edges_has_no_cut_and_no_modularity():
    measured = ng.quality(AxisGraph("a", sparse.csr_array((4, 4)), np.ones(4)), np.array([0, 0, 1, 1]), n_eigenvalues=2)
    assert (measured.cut, measured.modularity, measured.balance, measured.subspace_error) == (0, 0, 1, 0)


@given(st.integers(0, 10**6), partitions)
def test_a_unit_that_is_left_out_is_cut_off(seed, aggregates):
    graph = random_graph(seed)
    left_out = aggregates == aggregates.max()
    if left_out.all():
        return
    alone = aggregates.copy()
    alone[left_out] = aggregates.max() + np.arange(left_out.sum())
    some = ng.quality(graph, np.where(left_out, -1, aggregates))
    assert some.cut == pytest.approx(ng.quality(graph, alone).cut)
    assert some.n_aggregates == aggregates.max()


def test_the_text_lists_the_measures():
    weights = np.array([[0, 3.0, 1.0], [3.0, 0, 0], [1.0, 0, 0]])
    graph = AxisGraph("a", sparse.csr_array(weights), np.ones(3))
    plain, spectral = (ng.quality(graph, np.array([0, 0, 1]), n_eigenvalues=n) for n in (0, 1))
    assert repr(plain) == "Quality(3 -> 2: cut 1 (25.0%), matched 3, balance 1.33, modularity -0.0312)"
    assert "subspace error" in repr(spectral)


def test_an_array_that_is_no_partition_has_no_quality():
    with pytest.raises(AggregatesError, match="quality"):
        ng.quality(random_graph(0), np.zeros(3, dtype=int))


def test_a_hierarchy_reports_the_quality_of_each_axis():
    torch.manual_seed(0)
    model, x = mlp((6, 12, 8, 3)), torch.randn(40, 6)
    hierarchy = ng.build_hierarchy(model, x[:2], quality=3, data=x, seed=1)
    measured = build_report(hierarchy)["levels"][1]["quality"]
    assert json.loads(json.dumps(measured)).keys() == {"0", "2"}
    aggregates = hierarchy.levels[1].transfers["0"].aggregates
    rows = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach().double()
    dense = ((1 + torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)) / 2).numpy().copy()
    np.fill_diagonal(dense, 0)
    assert measured["0"]["cut"] == pytest.approx(dense[aggregates[:, None] != aggregates].sum() / 2, rel=1e-5)
    wanted = ng.quality(AxisGraph("0", sparse.csr_array(dense), np.ones(12)), aggregates, n_eigenvalues=3)
    for name in ("matched_weight", "balance", "modularity", "eigenvalue_error", "subspace_error"):
        assert measured["0"][name] == pytest.approx(getattr(wanted, name), rel=1e-4)
    alone = coarse_network(model, hierarchy.levels[0].spec, {"2": hierarchy.levels[1].transfers["2"]})
    error = float(((alone(x) - model(x)).norm() / model(x).norm()).detach())
    assert measured["2"]["function_error"] == pytest.approx(error, rel=1e-4)
    (line,) = [line for line in describe_level(hierarchy.levels[1]) if "medians over 2 axes" in line]
    assert "function error" in line
    assert "subspace error" in line


def test_without_data_the_error_is_that_of_the_weights_and_by_default_nothing_is_measured():
    model, x = mlp((6, 12, 3)), torch.randn(2, 6)
    (measured,) = ng.build_hierarchy(model, x, quality=0).levels[1].reasons["quality"].values()
    assert "weight_error" in measured
    assert not {"function_error", "eigenvalue_error"} & measured.keys()
    assert "quality" not in ng.build_hierarchy(model, x).levels[1].reasons
    with pytest.raises(NetgraphError, match=r"number of eigenvalues to compare, is -1\. Give 0 or more"):
        ng.build_hierarchy(model, x, quality=-1)
