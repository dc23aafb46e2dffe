"""Matchings and coarseners against networkx and a slow greedy twin."""

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import agglomerated, greedy_matching, mean_affinity
from scipy import sparse

from netgraph.affinity.all_pairs import AllPairs
from netgraph.coarsen.coarseners.baselines import adjacent, random_pairs
from netgraph.coarsen.matching.augmentation import augment_matching
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.dominant import dominant_matching, mate_weights
from netgraph.coarsen.matching.heavy_edge import augmented_matching, heavy_edge_matching, random_order_matching
from netgraph.coarsen.matching.labels import contract_by_mean, renumber_labels
from netgraph.coarsen.partition.contract import check_aggregates, check_coarsener
from netgraph.errors import AggregatesError


def graph_of(dense, **options):
    dense = np.triu(dense, 1)
    return AxisGraph("a", sparse.csr_array(dense + dense.T), np.ones(len(dense)), **options)


def groups_of(aggregates):
    return {frozenset(np.flatnonzero(aggregates == a).tolist()) for a in range(aggregates.max() + 1)}


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
    pairs = pairs_of(heavy_edge_matching(graph_of(weights), -(-n // 2)))
    wanted = sorted(greedy_matching(weights), key=lambda p: -weights[p])[: n // 2]
    assert pairs == set(wanted)


@given(random_graphs)
def test_both_matchings_are_maximal_matchings(weights):
    graph = nx.from_numpy_array(weights + weights.T)
    for coarsener in (heavy_edge_matching, random_order_matching):
        pairs = pairs_of(coarsener(graph_of(weights), -(-len(weights) // 2)))
        assert nx.is_matching(graph, pairs)
        assert nx.is_maximal_matching(graph, pairs)


@given(random_graphs, st.integers(0, 100))
def test_no_edge_is_heavier_than_the_matched_edges_of_both_its_ends_though_weights_tie(weights, seed):
    weights = np.ceil(3 * weights)
    pairs = pairs_of(heavy_edge_matching(graph_of(weights), -(-len(weights) // 2), seed=seed))
    taken = np.zeros(len(weights))
    for i, j in pairs:
        taken[[i, j]] = weights[i, j]
    i, j = np.nonzero(weights)
    assert (weights[i, j] <= np.maximum(taken[i], taken[j])).all()


@given(random_graphs)
def test_a_matching_weighs_at_least_half_the_heaviest_one(weights):
    pairs = pairs_of(heavy_edge_matching(graph_of(weights), -(-len(weights) // 2)))
    best = nx.max_weight_matching(nx.from_numpy_array(weights + weights.T))
    assert 2 * sum(weights[p] for p in pairs) >= sum(weights[min(p), max(p)] for p in best) - 1e-12


def weight_of(weights, pairs):
    return sum(weights[min(p), max(p)] for p in pairs)


@given(random_graphs, st.booleans())
def test_augmentation_makes_no_matching_lighter_and_keeps_two_thirds_of_the_heaviest(weights, ties):
    weights = np.ceil(3 * weights) if ties else weights
    graph = graph_of(weights)
    before = dominant_matching(graph.adjacency)
    mate = augment_matching(graph.adjacency, before)
    pairs = {(i, int(j)) for i, j in enumerate(mate) if j > i}
    full = nx.from_numpy_array(weights + weights.T)
    assert nx.is_matching(full, pairs)
    weight = mate_weights(graph.adjacency, mate).sum()
    assert weight_of(weights, pairs) == pytest.approx(weight / 2)
    assert weight >= mate_weights(graph.adjacency, before).sum() - 1e-12
    assert 1.5 * weight_of(weights, pairs) >= weight_of(weights, nx.max_weight_matching(full)) - 1e-6


@given(random_graphs)
def test_an_augmented_matching_leaves_no_gain_to_one_edge_for_those_it_meets(weights):
    adjacency = graph_of(weights).adjacency
    weight = mate_weights(adjacency, augment_matching(adjacency, dominant_matching(adjacency)))
    i, j = np.nonzero(weights)
    assert (weights[i, j] <= weight[i] + weight[j] + 1e-8).all()


def test_augmentation_finds_exchanges_of_which_no_part_gains():
    path = sparse.diags_array([[8.0, 10, 8, 10, 8, 10, 8]] * 2, offsets=[1, -1])  # 3 * 10 < 4 * 8
    inner = np.array([-1, 2, 1, 4, 3, 6, 5, -1], dtype=np.int32)
    assert (augment_matching(sparse.csr_array(path), inner) == np.arange(8) ^ 1).all()
    around = np.arange(6)
    half = sparse.coo_array(([10.0, 11] * 3, (around, (around + 1) % 6)), shape=(6, 6))
    lighter = (around ^ 1).astype(np.int32)
    assert mate_weights(sparse.csr_array(half + half.T), augment_matching(half + half.T, lighter)).tolist() == [11] * 6


def test_augmented_matchings_weigh_nearly_what_the_heaviest_do():
    for seed in range(3):
        near = np.random.default_rng(seed).integers(1, 1000, (200, 200)) * (
            np.random.default_rng(9).random((200, 200)) < 0.05
        )
        weights = np.triu(near, 1)
        full = nx.from_numpy_array(weights + weights.T)
        graph = graph_of(weights.astype(float))
        weight = mate_weights(graph.adjacency, augment_matching(graph.adjacency, dominant_matching(graph.adjacency)))
        assert weight.sum() / 2 >= 0.98 * weight_of(weights, nx.max_weight_matching(full))


def test_one_thread_and_two_find_the_same_matching_though_weights_tie():
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, 50_000, (2, 300_000))
    upper = sparse.triu(sparse.coo_array((rng.integers(1, 4, len(i)), (i, j)), shape=(50_000, 50_000)).tocsr(), 1)
    adjacency, results, before = sparse.csr_array(upper + upper.T), [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(dominant_matching(adjacency, 5))
    finally:
        torch.set_num_threads(before)
    assert (results[0] == results[1]).all()
    matched = np.flatnonzero(results[0] >= 0)
    assert (results[0][results[0][matched]] == matched).all()


@given(random_graphs, st.booleans(), st.sampled_from([np.float32, np.float64]), st.integers(0, 5))
def test_all_pairs_are_matched_as_their_sparse_graph_is(weights, ties, kind, seed):
    weights = (np.ceil(3 * weights) if ties else weights).astype(kind)
    pairs = AllPairs(weights + weights.T)
    graph = sparse.csr_array(weights + weights.T)
    assert (dominant_matching(pairs, seed) == dominant_matching(graph, seed)).all()
    for n_coarse in {1, len(weights) // 2 + 1, len(weights)}:
        results = [
            heavy_edge_matching(AxisGraph("a", a, np.ones(len(weights))), n_coarse, seed=seed) for a in (pairs, graph)
        ]
        assert (results[0] == results[1]).all()


def test_a_path_of_growing_weights_is_matched_from_its_heavy_end():
    for kind in (np.float32, np.float64):
        weights = np.arange(1, 4000, dtype=kind)
        adjacency = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[1, -1]))
        assert (dominant_matching(adjacency) == np.arange(4000) ^ 1).all()


def test_the_last_bit_of_a_weight_decides_and_weights_that_are_no_edge_are_skipped():
    tiny, next_to_one = np.nextafter(0, 1), np.nextafter(1, 0)
    edges = {(0, 1): next_to_one, (1, 2): 1.0, (0, 3): tiny, (4, 5): 0.0, (4, 6): -1.0, (5, 5): 2.0, (7, 8): np.nan}
    ends = np.array(list(edges)).T
    half = sparse.coo_array((list(edges.values()), ends), shape=(9, 9))
    assert dominant_matching(sparse.csr_array(half + half.T)).tolist() == [3, 2, 1, 0, -1, -1, -1, -1, -1]


def test_another_seed_orders_ties_otherwise():
    weights = np.ones((12, 12))
    assert len({tuple(heavy_edge_matching(graph_of(weights), 6, seed=s)) for s in range(5)}) > 1


@given(random_graphs, st.integers(1, 6))
def test_hem_below_half_merges_by_average_linkage_round_by_round(weights, n_coarse):
    n_coarse = min(n_coarse, (len(weights) - 1) // 2) or 1
    aggregates = heavy_edge_matching(graph_of(weights), n_coarse)
    assert groups_of(aggregates) == agglomerated(weights + weights.T, n_coarse)


@given(random_graphs, st.integers(0, 10**6))
def test_contracting_twice_is_the_mean_over_all_members(weights, seed):
    rng = np.random.default_rng(seed)
    adjacency = graph_of(weights).adjacency
    first = renumber_labels(rng.integers(0, 7, len(weights)))
    second = renumber_labels(rng.integers(0, 3, first.max() + 1))
    once = contract_by_mean(adjacency, first, np.ones(len(first)))
    twice = contract_by_mean(once, second, np.bincount(first)).toarray()
    groups = [frozenset(np.flatnonzero(second[first] == a)) for a in range(second.max() + 1)]
    wanted = [[mean_affinity(adjacency.toarray(), a, b) for b in groups] for a in groups]
    np.testing.assert_allclose(twice, wanted, atol=1e-12)
    assert (twice == twice.T).all()


def test_a_star_merges_into_its_hub_until_the_aim_is_reached():
    weights = np.zeros((300, 300))
    weights[0, 1:] = np.random.default_rng(0).random(299)
    assert heavy_edge_matching(graph_of(weights), 20).max() + 1 == 20


@pytest.mark.parametrize(
    "coarsener", [heavy_edge_matching, augmented_matching, random_order_matching, random_pairs, adjacent]
)
def test_every_coarsener_keeps_the_contract(coarsener):
    check_coarsener(coarsener, fixed=True)


@pytest.mark.parametrize("coarsener", [heavy_edge_matching, random_order_matching, random_pairs, adjacent])
def test_units_of_equal_aggregates_cannot_stay_alone(coarsener):
    graph = graph_of(np.ones((4, 4)), equal=True, fixed=np.array([False, False, True, False]))
    assert sorted(coarsener(graph, 4)) == [0, 1, 2, 3]
    with pytest.raises(AggregatesError, match="unit 2 must stay alone"):
        coarsener(graph, 2)


def test_adjacent_units_merge_for_any_weights_and_fixed_units_stay_alone():
    assert adjacent(graph_of(np.ones((6, 6))), 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert adjacent(graph_of(np.ones((5, 5))), 2).tolist() == [0, 0, 0, 1, 1]
    alone = np.array([False, True, False, False, False])
    assert adjacent(graph_of(np.ones((5, 5)), fixed=alone), 3).tolist() == [0, 1, 0, 2, 2]


def test_only_the_heaviest_pairs_merge_if_few_are_enough():
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


@pytest.mark.parametrize("coarsener", [heavy_edge_matching, random_order_matching, random_pairs, adjacent])
def test_equal_aggregates_of_a_number_that_does_not_divide_are_refused(coarsener):
    with pytest.raises(AggregatesError, match="does not divide"):
        coarsener(graph_of(np.ones((5, 5)), equal=True), 2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g, k, seed: np.zeros(3),
        lambda g, k, seed: np.arange(g.n_units) * 2,
        lambda g, k, seed: np.random.permutation(g.n_units) // 2,
    ],
)
def test_a_wrong_coarsener_is_refused_by_the_rule_that_it_breaks(wrong):
    with pytest.raises(AggregatesError, match=r"numbered from 0|two answers|asked for"):
        check_coarsener(wrong, name="mine")


def test_a_coarsener_that_changes_the_graph_is_caught():
    def vandal(graph, n_coarse, *, seed=0):
        graph.weight[:] = 7
        return np.arange(graph.n_units)

    with pytest.raises(AggregatesError, match="changed the graph"):
        check_coarsener(vandal)


def test_unequal_aggregates_are_refused_if_sizes_must_be_equal():
    with pytest.raises(AggregatesError, match="one size"):
        check_aggregates(np.array([0, 0, 0, 1]), graph_of(np.ones((4, 4)), equal=True), "mine")


def test_more_aggregates_than_units_are_counted_in_the_message():
    graph = AxisGraph("conv2", sparse.csr_array((128, 128)), np.ones(128))
    message = "coarsener 'mine' returned 130 aggregates for axis 'conv2' of 128 units. Aggregates are an int array"
    with pytest.raises(AggregatesError, match=message):
        check_aggregates(np.arange(128) + 2, graph, "mine")


@pytest.mark.parametrize("wrong", [None, "hem", [[0], [0, 1]], [0.0, 1.0], [True, False], [0, -1], [1, 1], {0: 1}])
def test_an_answer_that_is_no_partition_is_refused(wrong):
    with pytest.raises(AggregatesError, match=r"coarsener 'mine' returned .* for axis 'a' of 2 units"):
        check_aggregates(wrong, graph_of(np.ones((2, 2))), "mine")


def test_a_unit_that_must_stay_alone_is_named_where_it_was_merged():
    graph = graph_of(np.ones((3, 3)), fixed=np.array([False, False, True]))
    with pytest.raises(AggregatesError, match="unit 2 merged"):
        check_aggregates(np.array([0, 1, 1]), graph, "mine")
    with pytest.raises(AggregatesError, match="must stay alone"):
        check_coarsener(lambda g, k, *, seed: np.arange(g.n_units) * k // g.n_units, name="runs", fixed=True)


def test_the_message_names_the_graph_on_which_a_coarsener_fails():
    def greedy(graph, n_coarse, *, seed=0):
        graph.adjacency.data.max()
        return heavy_edge_matching(graph, n_coarse)

    with pytest.raises(AggregatesError, match=r"'greedy' failed on .* 0 edges, asked for 3 aggregates: ValueError"):
        check_coarsener(greedy)


def test_a_coarsener_that_changes_the_features_is_caught():
    def vandal(graph, n_coarse, *, seed=0):
        graph.features[:] += 1
        return np.arange(graph.n_units) * n_coarse // graph.n_units

    with pytest.raises(AggregatesError, match="changed the graph"):
        check_coarsener(vandal)


def test_features_and_names_of_an_axis_are_made_on_demand():
    def never():
        raise AssertionError

    graph = graph_of(np.ones((2, 2)), make_features=never)
    assert heavy_edge_matching(graph, 1).tolist() == [0, 0]
    assert graph.names == ["a[0]", "a[1]"]
