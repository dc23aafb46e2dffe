"""Affinities against scipy's distances and a slow search for neighbors, and laws that hold despite rounding."""

import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import nearest
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from netgraph.affinity import nearest_neighbors
from netgraph.affinity.approximate_neighbors import approximate_cosine_graph
from netgraph.affinity.similarity import _number_copies, cosine_affinity, cosine_graph, radial_graph
from netgraph.errors import NetgraphError, PluginError
from netgraph.graph.axis_units import _join_columns, count_columns

both = pytest.mark.parametrize("affinity", [cosine_graph, radial_graph])
points = st.tuples(st.integers(1, 30), st.integers(1, 8), st.integers(0, 10**6)).map(
    lambda p: np.random.default_rng(p[2]).normal(size=p[:2])
)


@given(points)
def test_affinities_are_symmetric_and_lie_between_0_and_1_off_the_diagonal(x):
    for affinity in (cosine_graph, radial_graph):
        for k in (None, 3):
            a = affinity(x, k=k)
            assert isinstance(a, sparse.csr_array)
            assert a.shape == (len(x), len(x))
            assert (a != a.T).nnz == 0
            assert not a.diagonal().any()
            assert ((a.data > 0) & (a.data <= 1)).all()


@given(points)
def test_cosine_is_that_of_scipy_moved_to_0_and_1(x):
    expected = 1 - cdist(x, x, "cosine") / 2
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(cosine_graph(x).toarray(), expected, atol=1e-12)


@given(points, st.integers(0, 3))
def test_all_pairs_are_the_entries_of_the_sparse_graph_that_scipy_makes_of_them(x, dead):
    x[:dead] = 0
    pairs = cosine_affinity(x)
    graph, expected = pairs.tocsr(), sparse.csr_array(pairs.toarray())
    assert (graph.data == expected.data).all()
    assert (graph.indices == expected.indices).all()
    assert (graph.indptr == expected.indptr).all()
    assert (pairs.toarray() == pairs.toarray().T).all()


@given(points)
def test_radial_falls_with_the_squared_distance(x):
    squares = cdist(x, x, "sqeuclidean")[np.triu_indices(len(x), 1)]
    graph = radial_graph(x).toarray()[np.triu_indices(len(x), 1)]
    seen = graph > 1e-6
    scales = -np.log(graph[seen]) / squares[seen]
    np.testing.assert_allclose(scales, np.median(scales) if len(scales) else 0, rtol=1e-6)


def test_half_of_the_pairs_have_a_radial_affinity_above_that_of_the_median_distance():
    graph = radial_graph(np.random.default_rng(0).normal(size=(300, 5)))
    assert 0.45 < (graph.data > np.exp(-0.5)).mean() < 0.55


@both
@given(points.filter(lambda x: x.shape[1] > 1), st.integers(1, 5), st.integers(1, 40))
def test_neighbors_are_those_of_a_slow_search_whatever_the_blocks(affinity, x, k, block):
    # on a line all cosines tie, and any of the tied may be kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_neighbors, "BLOCK", block)
        graph = affinity(x, k=k).toarray()
    np.testing.assert_allclose(graph, nearest(affinity(x).toarray(), k), atol=1e-12)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(100, 300), (301, 77), (2300, 50)])
def test_copies_weigh_exactly_1_and_near_copies_less(affinity, dtype, n, d):
    x = np.random.default_rng(0).normal(size=(n, d)).astype(dtype)
    x[-20:] = x[:20]
    x[40] = x[0]
    x[40, 0] += 10 * np.finfo(dtype).eps
    graph = affinity(x)
    assert (graph[np.arange(20), np.arange(n - 20, n)] == 1).all()
    assert 0.99 < graph[0, 40] < 1
    assert (graph.data == 1).sum() == 40


@both
def test_many_copies_keep_edges_to_one_another_among_nearest_neighbors(affinity):
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 4)), 20, axis=0)
    graph = affinity(x, k=3)
    assert (graph.data == 1).all()
    assert (np.diff(graph.indptr) >= 3).all()


@both
@pytest.mark.parametrize("k", [None, 2])
def test_a_dead_unit_has_no_edge(affinity, k):
    x = np.random.default_rng(0).normal(size=(9, 3))
    x[[2, 5]] = 0
    x[5, 0] = -0.0
    graph = affinity(x, k=k)
    assert graph[[2, 5]].nnz == 0
    assert (np.diff(graph.indptr)[[0, 1, 3, 4, 6, 7, 8]] >= 2).all()


@both
def test_units_without_features_and_single_units_have_no_edge(affinity):
    assert affinity(np.zeros((4, 0))).nnz == 0
    assert affinity(np.ones((1, 3))).shape == (1, 1)
    assert affinity(np.ones((1, 3)), k=2).nnz == 0


@both
def test_large_and_small_numbers_neither_overflow_nor_vanish(affinity):
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for scale in (2.0**100, 2.0**-100):
        np.testing.assert_allclose(affinity(x * np.float32(scale)).toarray(), affinity(x).toarray(), rtol=1e-6)


@both
def test_no_matrix_of_all_pairs_is_made(affinity, monkeypatch):
    monkeypatch.setattr(nearest_neighbors, "BLOCK", 250)
    x = np.random.default_rng(0).normal(size=(3000, 3))
    tracemalloc.start()
    affinity(x, k=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 8 / 8


@both
def test_more_than_2048_units_keep_32_neighbors_each(affinity):
    x = np.random.default_rng(0).normal(size=(2049, 6)).astype(np.float32)
    graph = affinity(x)
    assert np.diff(graph.indptr).min() == 32
    assert graph.nnz < 2 * 32 * 2049
    assert affinity(x[:-1]).nnz == 2048 * 2047


@both
def test_features_that_cannot_be_compared_are_refused_with_the_unit(affinity):
    x = np.ones((4, 3))
    x[1, 0] = np.nan
    with pytest.raises(NetgraphError, match="unit 1 has weights that are not finite"):
        affinity(x)
    with pytest.raises(NetgraphError, match=r"shape \(3,\)"):
        affinity(np.ones(3))
    with pytest.raises(NetgraphError, match="k is 0"):
        affinity(np.ones((3, 3)), k=0)


@both
def test_features_stay_as_they_were(affinity):
    x = np.random.default_rng(0).normal(size=(8, 3))
    before = x.copy()
    affinity(x)
    assert (x == before).all()


@both
@pytest.mark.parametrize("k", [None, 5])
def test_one_thread_and_two_make_the_same_graph_though_weights_tie(affinity, k):
    x = np.random.default_rng(0).integers(-1, 2, (900, 4)).astype(np.float32)
    graphs, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            graphs.append(affinity(x, k=k))
    finally:
        torch.set_num_threads(before)
    one, two = graphs
    assert all(np.array_equal(getattr(one, a), getattr(two, a)) for a in ("indptr", "indices", "data"))


@given(st.integers(0, 10**6))
def test_copies_are_the_rows_that_are_equal(seed):
    x = np.random.default_rng(seed).integers(-1, 2, (12, 2)) * np.float32(0.5)
    x[0] *= -0.0
    alike = (x[:, None] == x[None]).all(axis=2)
    copies = _number_copies(x)
    copies = np.full(len(x), -1) if copies is None else copies
    alone = alike.sum(axis=1) == 1
    np.testing.assert_array_equal(copies == -1, alone)
    np.testing.assert_array_equal((copies[:, None] == copies[None])[~alone][:, ~alone], alike[~alone][:, ~alone])


def test_folded_units_keep_their_cosines_their_copies_and_their_zeros():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 100)) @ random.normal(size=(100, 150_000))  # alike to many degrees
    x[1], x[2] = x[0], 0
    parts = [torch.tensor(x[:, :20_000]), torch.tensor(x[:, 20_000:20_001]), torch.tensor(x[:, 20_001:])]
    folded = _join_columns(parts, 40, seed=3)
    assert folded.shape == (40, count_columns(40))
    assert (folded[1] == folded[0]).all()
    assert not folded[2].any()
    assert np.abs(cosine_graph(folded) - cosine_graph(x)).max() < 4 * folded.shape[1] ** -0.5 / 2
    assert (folded == _join_columns(parts, 40, seed=3)).all()


def test_the_cost_of_all_pairs_is_bounded():
    assert [count_columns(n) for n in (0, 1, 128, 512, 2048, 10**6)] == [8192, 8192, 8192, 2048, 1024, 1024]


class ExactSearch:
    """Replaces PyNNDescent, which compiles for half a minute: scipy's neighbors, with one of them missing."""

    def __init__(self, x, *, n_neighbors, **options):
        distance, near = cKDTree(x).query(x, n_neighbors)
        near[0, -1] = -1
        self.neighbor_graph = near, distance


def test_an_approximate_graph_has_the_weights_of_the_exact_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=ExactSearch))
    rng = np.random.default_rng(3)
    features = (rng.standard_normal((2500, 6)) @ rng.standard_normal((6, 40))).astype(np.float32)
    features[7], features[9] = features[8], 0
    exact, graph = cosine_graph(features, k=10), approximate_cosine_graph(features, k=10)
    both = exact.multiply(graph > 0)
    assert both.nnz >= 0.999 * exact.nnz
    assert abs(both - graph.multiply(exact > 0)).max() < 1e-6
    assert (graph != graph.T).nnz == 0
    assert graph[7, 8] == 1
    assert (graph.data == 1).sum() == 2
    assert graph[[9]].nnz == 0


def test_without_its_library_the_approximate_affinity_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.raises(PluginError, match=r"pip install pynndescent \(the extra pynndescent\)"):
        approximate_cosine_graph(np.ones((3, 2)))
