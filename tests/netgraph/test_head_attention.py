"""Affinity of heads by the tokens that they attend to, against loops over attention weights of torch."""

import nets
import numpy as np
import pytest
import torch
from attention_networks import SIZES, TOKENS, judged

import netgraph as ng
from netgraph.affinity.head_attention import collect_attention, measure_overlaps
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.models.transformer import Encoder

HEADS = "blocks.0.attention.query"


def encoder():
    torch.manual_seed(0)
    model = Encoder(40, 3, **{**SIZES, "depth": 1}).eval()
    with torch.no_grad():
        model.blocks[0].attention.query.weight.mul_(6)  # far from uniform
    return model


def test_overlaps_are_coefficients_of_rows_by_a_loop_over_words():
    model = encoder()
    x = model.blocks[0].norm1(model.embedding(TOKENS) + model.positions(torch.arange(12)))
    weights = judged(model.blocks[0].attention, x, TOKENS > 0).detach()
    rows = [(r, i) for r in (0, 1) for i in range(12) if TOKENS[r, i] > 0]
    expected = [
        [np.mean([float((weights[r, a, i] * weights[r, b, i]).sqrt().sum()) for r, i in rows]) for a in range(4)]
        for b in range(4)
    ]
    spec = ng.trace(model, TOKENS)
    overlaps = measure_overlaps(coarse_network(model, spec, {}).eval(), spec, [TOKENS[:1], TOKENS[1:]])[HEADS]
    np.testing.assert_allclose(overlaps, expected, rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(overlaps), 1, rtol=1e-6)


def test_groups_overlap_as_their_query_heads_do_one_by_one():
    model, x = next((m, x) for n, m, x in nets.nets() if n == "grouped queries")
    spec = ng.trace(model.eval(), x)
    network = coarse_network(model, spec, {}).eval()
    ((axis, overlaps),) = measure_overlaps(network, spec, [x]).items()
    (weights,) = collect_attention(network, x)
    n, copies = spec.sizes[axis], weights.shape[1] // spec.sizes[axis]
    assert copies > 1
    grouped = weights.unflatten(1, (n, copies))
    expected = [[(grouped[:, a] * grouped[:, b]).sqrt().sum(-1).mean() for a in range(n)] for b in range(n)]
    np.testing.assert_allclose(overlaps, np.array(expected), rtol=1e-5)


def test_heads_that_attend_alike_merge_whatever_they_move():
    model = encoder()
    attention, turn = model.blocks[0].attention, torch.linalg.qr(torch.randn(8, 8)).Q
    with torch.no_grad():  # head 2 attends as head 0 does, in another basis
        for layer in (attention.query, attention.key):
            layer.weight[16:24], layer.bias[16:24] = turn @ layer.weight[:8], turn @ layer.bias[:8]
    options = {"ratio": {"*": 1.0, HEADS: 0.75}, "data": TOKENS}
    aggregates = (
        ng.build_hierarchy(model, TOKENS, affinity="attention", **options).levels[1].transfers[HEADS].aggregates
    )
    assert aggregates[0] == aggregates[2]


def test_without_data_it_says_so_and_units_that_are_no_heads_are_compared_by_cosine():
    with pytest.raises(ng.NetgraphError, match="needs calibration data and got none"):
        ng.build_hierarchy(encoder(), TOKENS, affinity="attention")
    hidden = {"ratio": {"*": 1.0, "blocks.0.up": 0.5}, "data": TOKENS}
    one, two = (ng.build_hierarchy(encoder(), TOKENS, affinity=name, **hidden) for name in ("attention", "cosine"))
    np.testing.assert_array_equal(*(h.levels[1].transfers["blocks.0.up"].aggregates for h in (one, two)))
