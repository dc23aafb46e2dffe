"""Coarseners by other libraries, METIS, KaHIP, Mt-KaHyPar and NetworKit, each against an independent reference."""

import ctypes
import os
import sys
import tempfile

import networkx as nx
import numpy as np
import pytest
from clouds import GROUP, alike, cloud, merge, of_edges
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import netgraph as ng
from netgraph import plugins
from netgraph.coarsen.coarseners.metis import scale_to_integers
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.contract import check_coarsener
from netgraph.errors import PluginError

NETWORKIT = [f"networkit-{way}" for way in ("suitor", "path-growing", "plm", "leiden")]


@pytest.mark.parametrize("name", ["metis", "kahip", "mtkahypar"])
@pytest.mark.parametrize("k", [4, 8, 20])
def test_the_cut_of_a_mesh_is_that_of_metis_itself(name, k):
    import pymetis

    mesh = nx.convert_node_labels_to_integers(nx.grid_2d_graph(24, 20))
    graph = AxisGraph("a", sparse.csr_array(nx.to_scipy_sparse_array(mesh, dtype=float)), np.ones(480))
    cut, _ = pymetis.part_graph(k, [list(mesh[i]) for i in range(480)])
    aggregates = merge(name, graph, k)
    assert ng.quality(graph, aggregates).cut <= 1.05 * cut
    assert np.bincount(aggregates).max() <= np.ceil(480 / k) * 1.031


@pytest.mark.parametrize("name", ["metis", "kahip", "mtkahypar"])
def test_parts_balance_the_weights_of_units(name):
    weight = np.where(np.arange(40) < 10, 4.0, 1.0)
    graph = AxisGraph("a", cloud(40).adjacency, weight)
    assert np.bincount(merge(name, graph, 2), weight).max() <= 1.1 * weight.sum() / 2


@pytest.mark.parametrize("name", ["kahip", "mtkahypar", *NETWORKIT])
def test_a_library_that_is_not_installed_is_named_with_its_extra(name, monkeypatch):
    library = name if name in ("kahip", "mtkahypar") else "networkit"
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"coarsener '{name}' needs {library}.*pip install {library} \(the extra {library}\)"
    with pytest.raises(PluginError, match=message):
        plugins.load_plugin(GROUP, name)(cloud(4), 2)
    with pytest.raises(PluginError, match=message):
        check_coarsener(plugins.load_plugin(GROUP, name))


def test_mt_kahypar_leaves_room_for_a_unit_that_is_heavier_than_a_part():
    weight = np.where(np.arange(40) == 7, 20.0, 1.0)
    aggregates = merge("mtkahypar", AxisGraph("a", cloud(40).adjacency, weight), 8)
    assert np.bincount(aggregates, weight).max() == 20


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_pairs_of_networkits_suitor_are_those_of_heavy_edge_matching(seed, n_coarse):
    graph = cloud(12, seed)
    assert alike(merge("networkit-suitor", graph, n_coarse), merge("hem", graph, n_coarse))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.2, 1))
def test_pairs_of_growing_paths_weigh_half_of_the_heaviest_matching(seed, density):
    random = np.random.default_rng(seed)
    graph = of_edges(random.random((14, 14)) * (random.random((14, 14)) < density))
    best = nx.max_weight_matching(nx.from_scipy_sparse_array(graph.adjacency))
    aggregates = merge("networkit-path-growing", graph, 7)
    inside = aggregates[:, None] == aggregates
    assert (graph.adjacency.toarray() * inside).sum() / 2 >= sum(graph.adjacency[p] for p in best) / 2


def test_leidens_communities_are_connected_and_cut_less_than_random_ones():
    mesh = nx.convert_node_labels_to_integers(nx.grid_2d_graph(16, 16))
    graph = AxisGraph("a", sparse.csr_array(nx.to_scipy_sparse_array(mesh, dtype=float)), np.ones(256))
    for name in ("networkit-leiden", "networkit-plm"):
        aggregates = merge(name, graph, 12)
        assert all(nx.is_connected(mesh.subgraph(np.flatnonzero(aggregates == c))) for c in range(12))
        assert ng.quality(graph, aggregates).modularity > 0.6


def test_networkit_keeps_its_number_of_threads():
    networkit = pytest.importorskip("networkit")
    before = networkit.getMaxNumberOfThreads()
    try:
        networkit.setNumberOfThreads(2)
        merge("networkit-plm", cloud(12), 4)
        assert networkit.getMaxNumberOfThreads() == 2
    finally:
        networkit.setNumberOfThreads(before)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=50))
def test_weights_for_partitioners_are_positive_and_their_sum_fits(weights):
    integers = scale_to_integers(np.array(weights), 32)
    assert integers.min() >= 1
    assert integers.sum() < 2**31
    largest = max(weights)
    np.testing.assert_allclose(integers / integers.max(), np.array(weights) / largest, atol=1e-4)


def test_metis_with_integers_of_64_bits_tells_weights_of_a_large_axis_apart():
    pymetis = pytest.importorskip("pymetis")
    weights = np.random.default_rng(0).uniform(size=2048 * 2047)
    narrow, wide = scale_to_integers(weights, 32), scale_to_integers(weights, 64)
    assert narrow.max() < 2**10 < 2**19 < wide.max()
    np.testing.assert_allclose(wide / wide.max(), weights / weights.max(), atol=1e-6)
    if pymetis.zero_copy_dtype() == np.int64:
        np.testing.assert_array_equal(scale_to_integers(weights), wide)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.floats(0, 1), st.integers(0, 1000), st.sampled_from([0.0, 1.0, 3.0]))
def test_metis_is_silent_and_gives_heavy_units_their_own_part(n, share, seed, spread):
    pytest.importorskip("pymetis")
    random = np.random.default_rng(seed)
    graph = of_edges(random.random((n, n)) * (random.random((n, n)) < 0.6))
    weight = np.exp(spread * random.standard_normal(n))
    graph, n_coarse = AxisGraph("a", graph.adjacency, weight), max(1, round(share * n))
    aggregates, written = capture_output(lambda: merge("metis", graph, n_coarse))
    assert written == b""
    assert len(np.unique(aggregates)) == n_coarse


def test_metis_leaves_the_one_heavy_unit_alone():
    pytest.importorskip("pymetis")
    graph = cloud(12)
    aggregates = merge("metis", AxisGraph("a", graph.adjacency, np.array([1e6] + [1.0] * 11)), 6)
    assert (aggregates == aggregates[0]).sum() == 1
    assert len(np.unique(aggregates)) == 6


def capture_output(run):
    """Return a result, and what a library in C wrote to the standard output meanwhile."""
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as file:
        libc.fflush(None)
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            result = run()
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return result, file.read()
