"""Each clustering method against an independent reference, and the parts that the methods share."""

from collections import OrderedDict

import networkx as nx
import numpy as np
import pytest
from clouds import alike, cloud, graph_of, merge, of_edges, planted
from hypothesis import given
from hypothesis import strategies as st
from reference import mean_affinity
from scipy import sparse
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

import netgraph as ng
from netgraph.coarsen.coarseners.graclus import graclus
from netgraph.coarsen.coarseners.kmeans import cluster_points
from netgraph.coarsen.coarseners.local_variation import _SetCosts, local_variation_edges
from netgraph.coarsen.coarseners.pairwise import _pair_by_coupling
from netgraph.coarsen.coarseners.spectral import spectral
from netgraph.coarsen.coarseners.ward import ward
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import contract_by_sum
from netgraph.coarsen.partition.balance import adjust_cluster_count, equalize_sizes
from netgraph.coarsen.partition.laplacian import find_slow_signals, laplacian_matrix, normalized_adjacency
from netgraph.coarsen.partition.multilevel import keep_strongest_edges
from netgraph.errors import NetgraphError


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(1, 20), st.integers(0, 100))
def test_any_clustering_is_only_joined_or_only_split_to_any_number(labels, n_clusters, seed):
    labels = np.array(labels)
    n_clusters = min(n_clusters, len(labels))
    clusters = adjust_cluster_count(labels, cloud(len(labels), seed), n_clusters)
    assert np.unique(clusters).tolist() == list(range(n_clusters))
    pairs = len(set(zip(labels.tolist(), clusters.tolist(), strict=True)))
    assert pairs == max(n_clusters, len(set(labels.tolist())))


@given(st.integers(0, 1000), st.sampled_from([(12, 4), (12, 6), (10, 5), (9, 3)]), st.booleans())
def test_equal_clusters_move_no_more_units_than_they_must(seed, shape, by_distance):
    n, k = shape
    labels = np.r_[np.arange(k), np.random.default_rng(seed).integers(0, k, n - k)]
    graph = cloud(n, seed)
    clusters = equalize_sizes(labels, graph, graph.features if by_distance else None)
    assert np.bincount(clusters).tolist() == [n // k] * k
    stayed = nx.Graph()  # the numbers may have changed: match old and new ones so that most units stay
    for old, new in zip(labels.tolist(), clusters.tolist(), strict=True):
        weight = stayed.get_edge_data(("old", old), ("new", new), {"weight": 0})["weight"]
        stayed.add_edge(("old", old), ("new", new), weight=weight + 1)
    kept = sum(stayed.edges[e]["weight"] for e in nx.max_weight_matching(stayed, maxcardinality=False))
    assert kept >= np.minimum(np.bincount(labels), n // k).sum()


def test_surplus_units_go_to_the_cluster_with_the_most_affinity():
    weights = np.zeros((6, 6))
    weights[0, 1] = weights[0, 2] = weights[1, 2] = 1
    weights[0, 4] = weights[3, 5] = 0.5  # 0 .. 3 are one cluster; 3 is the one that it holds least
    clusters = equalize_sizes(np.array([0, 0, 0, 0, 1, 1]), of_edges(weights))
    assert clusters.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_invalid_affinities_are_refused_with_their_units(wrong):
    weights = np.ones((4, 4))
    weights[1, 3] = wrong
    with pytest.raises(NetgraphError, match=r"axis 'a' was given an affinity of .* between units 1 and 3"):
        of_edges(weights)


# each method against an independent reference


def test_k_means_finds_the_planted_clusters_and_uses_weights():
    points = np.array([[0.0], [1.0], [10.0], [14.0], [26.0]])
    assert alike(cluster_points(points, 3, weight=np.ones(5), seed=0), np.array([0, 0, 1, 1, 2]))
    heavy = cluster_points(points, 3, weight=np.array([100, 100, 0.01, 0.01, 0.01]), seed=0)
    assert alike(heavy, np.array([0, 1, 2, 2, 2]))


def test_k_means_of_more_features_than_units_depends_on_their_distances_only():
    points = np.random.default_rng(0).normal(size=(12, 500))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(500, 500)))[0]
    ones = np.ones(12)
    first = cluster_points(points, 4, weight=ones, seed=0)
    spread = [sum(np.square(x - x.mean(0)).sum() for c in range(4) if len(x := points[f == c])) for f in (first, cluster_points(points @ turn, 4, weight=ones, seed=0))]  # fmt: skip
    assert spread[0] == pytest.approx(spread[1], rel=0.02)


@given(st.integers(0, 1000), st.integers(2, 9))
def test_ward_joins_what_adds_the_least_variance(seed, n_coarse):
    points = np.random.default_rng(seed).normal(size=(10, 3))
    groups = [[i] for i in range(10)]
    while len(groups) > n_coarse:
        joins = {
            (i, j): len(a) * len(b) / (len(a) + len(b)) * np.square(points[a].mean(0) - points[b].mean(0)).sum()
            for j, b in enumerate(groups)
            for i, a in enumerate(groups[:j])
        }
        i, j = min(joins, key=joins.get)
        groups[i] += groups.pop(j)
    clusters = ward(graph_of(points), n_coarse)
    assert {frozenset(np.flatnonzero(clusters == c)) for c in range(n_coarse)} == {frozenset(g) for g in groups}


def test_one_tree_serves_every_number_of_clusters_as_scikit_learn_finds_them(monkeypatch):
    trees = OrderedDict()
    monkeypatch.setattr("netgraph.coarsen.coarseners.ward._TREES", trees)
    for shape in [(30, 4), (40, 3)]:  # as many numbers, in other shapes
        points = np.random.default_rng(6).normal(size=shape)
        for n_clusters in (2, 7, shape[0] - 1):
            wanted = AgglomerativeClustering(n_clusters, linkage="ward").fit_predict(points)
            clusters = ward(graph_of(points), n_clusters)
            assert adjusted_rand_score(wanted, clusters) == 1
    assert [len(tree) for tree in trees.values()] == [29, 39]


def test_only_the_last_trees_are_kept(monkeypatch):
    trees = OrderedDict()
    monkeypatch.setattr("netgraph.coarsen.coarseners.ward._TREES", trees)
    monkeypatch.setattr("netgraph.coarsen.coarseners.ward.KEPT", 2)
    for n in (5, 6, 7):
        ward(graph_of(np.random.default_rng(n).normal(size=(n, 2))), 2)
    assert [len(tree) for tree in trees.values()] == [5, 6]


def test_ward_along_the_edges_of_a_complete_graph_is_ward_of_all_pairs(monkeypatch):
    graph = graph_of(np.random.default_rng(3).normal(size=(40, 5)))
    complete = of_edges(np.ones((40, 40)), make_features=lambda: graph.features)
    wanted = merge("ward", complete, 11)
    monkeypatch.setattr("netgraph.coarsen.coarseners.ward.PAIRS", 10)
    assert merge("ward", complete, 11).tolist() == wanted.tolist()


def test_ward_along_edges_joins_neighbours_alone(monkeypatch):
    monkeypatch.setattr("netgraph.coarsen.coarseners.ward.PAIRS", 10)
    points = np.random.default_rng(4).normal(size=(24, 3))
    clusters = merge(
        "ward", of_edges(np.diag(np.ones(23), 1) + np.diag(np.ones(23), -1), make_features=lambda: points), 9
    )
    assert set(np.diff(clusters)) == {0, 1}  # runs of the path, in order
    assert len(set(clusters.tolist())) == 9


def test_spectral_clusters_separate_two_rings():
    ring = sparse.csr_array(nx.to_scipy_sparse_array(nx.cycle_graph(20), dtype=float))
    pair = sparse.lil_array(sparse.block_diag([ring, ring]))
    pair[[0, 20], [20, 0]] = 0.01
    assert alike(spectral(AxisGraph("a", sparse.csr_array(pair), np.ones(40)), 2), np.arange(40) // 20)


def test_slow_signals_are_eigenvectors_of_the_dense_laplacian():
    pieces = sparse.csr_array(sparse.block_diag([cloud(9, 1).adjacency, cloud(7, 2).adjacency]))
    values, vectors = find_slow_signals(pieces, 3, seed=0)
    wanted = np.linalg.eigvalsh(laplacian_matrix(pieces).toarray())
    np.testing.assert_allclose(values, wanted[2:5], atol=1e-10)
    np.testing.assert_allclose(laplacian_matrix(pieces) @ vectors, vectors * values, atol=1e-10)
    assert np.abs(np.linalg.eigvalsh(normalized_adjacency(pieces).toarray())).max() == pytest.approx(1)


def test_lanczos_and_the_dense_eigensolver_agree(monkeypatch):
    graph = keep_strongest_edges(cloud(120).adjacency, 8)
    dense = find_slow_signals(graph, 4, seed=0)[0]
    monkeypatch.setattr("netgraph.coarsen.partition.laplacian.DENSE", 10)
    np.testing.assert_allclose(find_slow_signals(graph, 4, seed=0)[0], dense, rtol=1e-8)


@given(st.integers(0, 1000))
def test_graclus_pairs_are_the_greedy_matching_of_the_normalised_weights(seed):
    from reference import greedy_matching

    graph = cloud(12, seed)
    dense = graph.adjacency.toarray()
    degree = dense.sum(axis=1)
    wanted = greedy_matching(dense * (1 / degree[:, None] + 1 / degree))
    clusters = graclus(graph, 6)
    assert all(clusters[i] == clusters[j] for i, j in wanted)


@given(st.integers(0, 1000), st.floats(0.1, 1))
def test_pairs_are_those_of_notays_algorithm_for_some_order_of_equals(seed, density):
    random = np.random.default_rng(seed)
    dense = np.triu(random.random((10, 10)) * (random.random((10, 10)) < density), 1)
    graph = of_edges(dense).adjacency
    mate = _pair_by_coupling(graph.indptr, graph.indices, graph.data, np.arange(10), 0.25)
    assert _reachable(dense + dense.T, mate)


def _reachable(dense, mate):
    """Return True if algorithm 2.1 of Notay 2010, written with sets, makes these pairs in some order of equals."""
    n = len(dense)
    strong = [{j for j in range(n) if dense[i, j] > 0.25 * dense[i].max(initial=0)} for i in range(n)]

    def search(free, count):
        if not free:
            return True
        least = min(count[i] for i in free)
        for i in (k for k in free if count[k] == least):
            others = [j for j in free - {i} if dense[i, j] > 0]
            j = max(others, key=lambda j: dense[i, j]) if others else -1
            j = j if j in strong[i] else -1
            if mate[i] != j:
                continue
            gone = {i, j} - {-1}
            fewer = {s: count[s] - sum(s in strong[k] for k in gone) for s in count}
            if search(free - gone, fewer):
                return True
        return False

    return search(frozenset(range(n)), {i: sum(i in s for s in strong) for i in range(n)})


@given(st.integers(0, 1000), st.integers(2, 5))
def test_the_cost_of_a_set_is_loukas_norm_with_dense_matrices(seed, size):
    random = np.random.default_rng(seed)
    graph, signals = cloud(9, seed), random.normal(size=(9, 4))
    members = np.sort(random.permutation(9)[:size])
    dense = graph.adjacency.toarray()
    inside, degree = dense[np.ix_(members, members)], dense.sum(1)[members]
    L = np.diag(2 * degree - inside.sum(1)) - inside
    project = np.eye(size) - np.ones((size, size)) / size
    root = np.linalg.cholesky(L).T
    wanted = np.linalg.norm(root @ project @ signals[members], 2) ** 2 / (size - 1)
    assert _SetCosts(graph.adjacency, signals).cost(members) == pytest.approx(wanted)
    i, j = members[:2]
    closed = (dense[i].sum() + dense[j].sum()) / 2 * np.square(signals[i] - signals[j]).sum()
    rank_one = _SetCosts(graph.adjacency, signals).cost(np.array([i, j]))
    assert rank_one == pytest.approx(closed)


def test_local_variation_keeps_slow_signals_better_than_pairs_at_random():
    mesh = nx.convert_node_labels_to_integers(nx.grid_2d_graph(12, 12))
    graph = AxisGraph("a", sparse.csr_array(nx.to_scipy_sparse_array(mesh, dtype=float)), np.ones(144))
    random = ng.quality(graph, merge("random", graph, 72), n_eigenvalues=5)
    for name in ("local-variation", "local-variation-edges"):
        kept = ng.quality(graph, merge(name, graph, 72), n_eigenvalues=5)
        assert kept.subspace_error < 0.5 * random.subspace_error
        assert kept.eigenvalue_error < random.eigenvalue_error
    assert local_variation_edges(graph, 144).tolist() == list(range(144))


def test_summed_edges_are_the_galerkin_product():
    graph, labels = cloud(9).adjacency, np.array([0, 1, 2, 0, 1, 2, 0, 1, 3])
    P = np.eye(4)[labels]
    wanted = P.T @ graph.toarray() @ P
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(contract_by_sum(graph, labels).toarray(), wanted)


@given(st.integers(0, 1000), st.integers(1, 11))
def test_the_strongest_edges_are_those_of_the_slow_twin(seed, k):
    from reference import nearest

    graph = cloud(12, seed).adjacency
    np.testing.assert_array_equal(keep_strongest_edges(graph, k).toarray(), nearest(graph.toarray(), k))


def test_splitting_a_cluster_keeps_its_closest_members_together():
    graph, truth = planted([4, 4, 4])
    clusters = adjust_cluster_count(np.zeros(12, dtype=np.int64), graph, 3)
    assert alike(clusters, truth)
    assert mean_affinity(graph.adjacency.toarray(), {0}, {int(np.flatnonzero(truth != truth[0])[0])}) < 0.02
