"""Laws of every installed coarsener."""

import base64

import numpy as np
import pytest
from clouds import GROUP, MATCHINGS, alike, cloud, graph_of, merge, of_edges, planted
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import netgraph as ng
from netgraph import plugins
from netgraph.coarsen.coarseners.baselines import magnitude
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.contract import check_aggregates, check_coarsener, ignores_edges, leaves_out
from netgraph.errors import AggregatesError

pytestmark = pytest.mark.no_cover
OURS = [n for n in plugins.list_plugins(GROUP) if plugins.find_distribution(GROUP, n) == "netgraph-coarsening"]
NEW = [n for n in OURS if n not in MATCHINGS]
MERGING = [n for n in NEW if not leaves_out(plugins.load_plugin(GROUP, n))]


@pytest.mark.parametrize("name", OURS)
def test_every_coarsener_keeps_the_contract(name):
    merge(name, cloud(4), 2)
    check_coarsener(plugins.load_plugin(GROUP, name), name=name, fixed=True)


@pytest.mark.parametrize("name", OURS)
def test_a_coarsener_ignores_edges_if_and_only_if_it_declares_so(name):
    graph = cloud(24)
    others = [
        of_edges(np.roll(graph.adjacency.toarray(), (i, i), (0, 1)), make_features=lambda: graph.features)
        for i in (5, 9)
    ]
    answers = [merge(name, g, 8).tolist() for g in (graph, *others)]
    assert all(answer == answers[0] for answer in answers) == ignores_edges(plugins.load_plugin(GROUP, name))


def test_a_false_declaration_of_ignored_edges_is_found():
    def liar(graph, n_coarse, *, seed=0):
        return merge("hem", graph, n_coarse)

    check_coarsener(liar)
    liar.ignores_edges = True
    with pytest.raises(AggregatesError, match="says that it ignores edges"):
        check_coarsener(liar)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_the_number_of_aggregates_is_exact(name, n):
    graph = cloud(n)
    for n_coarse in {1, 2, n // 3, n // 2, n - 1, n} & set(range(1, n + 1)):
        assert merge(name, graph, n_coarse).max() + 1 == n_coarse


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("n_coarse", [2, 5, 12])
def test_the_number_of_aggregates_is_exact_on_graphs_in_pieces_and_without_edges(name, n_coarse):
    pieces = np.kron(np.eye(6), np.ones((4, 4)))
    points = np.random.default_rng(0).normal(size=(24, 3))
    for graph in (of_edges(pieces, make_features=lambda: points), of_edges(np.zeros((24, 24)))):
        assert merge(name, graph, n_coarse).max() + 1 == n_coarse


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("n_coarse", [1, 3, 8, 12, 24])
def test_aggregates_have_one_size_if_the_graph_asks_for_it(name, n_coarse):
    sizes = np.bincount(merge(name, cloud(24, equal=True), n_coarse))
    assert sizes.tolist() == [24 // n_coarse] * n_coarse


@pytest.mark.parametrize("name", MERGING)
def test_impossible_equal_aggregates_are_refused(name):
    with pytest.raises(AggregatesError, match="does not divide"):
        merge(name, cloud(5, equal=True), 2)
    with pytest.raises(AggregatesError, match="unit 2 must stay alone"):
        merge(name, cloud(4, equal=True, fixed=np.arange(4) == 2), 2)


@pytest.mark.parametrize("name", NEW)
@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 14))
def test_fixed_units_stay_alone_and_the_others_share_the_rest_of_the_aggregates(name, seed, n_coarse):
    fixed = np.random.default_rng(seed).random(14) < 0.4
    aggregates = merge(name, cloud(14, seed, fixed=fixed), n_coarse)
    assert (np.bincount(aggregates[aggregates >= 0])[aggregates[fixed]] == 1).all()
    least = fixed.sum() if leaves_out(plugins.load_plugin(GROUP, name)) else fixed.sum() + (~fixed).any()
    assert aggregates.max() + 1 == max(n_coarse, least)


@pytest.mark.parametrize("name", MERGING)
def test_isolated_units_stay_alone(name):
    points = np.random.default_rng(0).normal(size=(20, 4))
    points[[3, 11]] = 0
    aggregates = merge(name, graph_of(points), 9)
    assert (np.bincount(aggregates)[aggregates[[3, 11]]] == 1).all()
    assert aggregates.max() + 1 == 9


@pytest.mark.parametrize("name", MERGING)
def test_many_dead_units_merge_with_one_another_and_leave_the_others_half_of_the_aggregates(name):
    points = np.random.default_rng(0).normal(size=(20, 4))
    points[:9] = 0
    aggregates = merge(name, graph_of(points), 10)
    assert not set(aggregates[:9]) & set(aggregates[9:])
    assert len(set(aggregates[9:])) >= 5


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("sizes", [[4] * 6, [8] * 3, [2] * 10])
def test_well_separated_clusters_are_found(name, sizes):
    graph, truth = planted(sizes)
    assert alike(merge(name, graph, len(sizes)), truth)


@pytest.mark.parametrize("name", MERGING)
def test_equal_aggregates_are_the_planted_clusters_if_those_are_equal(name):
    graph, truth = planted([4] * 6)
    equal = AxisGraph("a", graph.adjacency, graph.weight, lambda: graph.features, equal=True)
    assert alike(merge(name, equal, 6), truth)


@pytest.mark.parametrize("name", NEW)
def test_the_answer_does_not_depend_on_the_number_of_threads(name):
    graph = cloud(150)
    with threadpool_limits(1):
        alone = merge(name, graph, 60)
    assert (merge(name, graph, 60) == alone).all()


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_features_and_affinities_come_in_either_precision(name, kind):
    points = np.random.default_rng(0).normal(size=(16, 40)).astype(kind)
    assert merge(name, graph_of(points), 8).max() + 1 == 8


# units that are left out


def test_the_units_of_largest_norm_are_kept_in_their_order():
    graph = graph_of(np.array([[3.0], [-5.0], [0.0], [4.0], [-4.0]]))
    assert magnitude(graph, 3).tolist() == [-1, 0, -1, 1, 2]
    fixed = graph_of(graph.features, fixed=np.array([False, False, True, False, False]))
    assert magnitude(fixed, 2).tolist() == [-1, 0, 1, -1, -1]


def test_only_a_coarsener_that_declares_so_may_leave_units_out():
    def shy(graph, n_coarse, *, seed=0):
        return magnitude(graph, n_coarse)

    with pytest.raises(AggregatesError, match=r"'shy' returned numbers -1 to .* attribute leaves_out is True"):
        check_coarsener(shy)
    shy.leaves_out = True
    check_coarsener(shy, fixed=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [([-1, -1, -1], "every unit"), ([0, -1, -2], "numbers -2"), ([-1, 0, 1], "unit 0 .*must stay")],
)
def test_wrong_ways_to_leave_units_out_are_refused(wrong, message):
    graph = of_edges(np.ones((3, 3)), fixed=np.array([True, False, False]))
    with pytest.raises(AggregatesError, match=message):
        check_aggregates(np.array(wrong), graph, "mine", leaves_out=True)


# a whole network


def test_a_page_joins_units_that_are_left_out_to_no_aggregate():
    import torch

    from netgraph.models.perceptron import mlp
    from netgraph.viz.page.page_data import build_page_data

    hierarchy = ng.build_hierarchy(mlp((5, 6, 3)), torch.randn(2, 5), coarsener="magnitude", n_levels=2)
    data = build_page_data(hierarchy)
    place = [axis["name"] for axis in data["axes"]].index("0")
    width, joins = data["levels"][0]["axes"][place]["joins"]  # 0 joins nothing
    assert width == 1
    assert list(base64.b64decode(joins)) == (hierarchy.levels[1].transfers["0"].aggregates + 1).tolist()


@pytest.mark.parametrize("name", NEW)
def test_every_coarsener_merges_a_network_with_free_and_with_equal_axes(name):
    import torch

    merge(name, cloud(4), 2)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    model, x = torch.nn.Sequential(torch.nn.Linear(5, 16), layer, torch.nn.Linear(16, 3)), torch.randn(2, 6, 5)
    hierarchy = ng.build_hierarchy(model, x, coarsener=name, n_levels=3)
    sizes = [level.n_units for level in hierarchy.levels]
    assert sizes[0] > sizes[1] > sizes[2]
    assert hierarchy.levels[2].model(x).shape == (2, 6, 3)
