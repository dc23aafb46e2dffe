"""Attention heads: their rows in the weights, the similarity of their circuits, and merging under any basis inside heads."""

import copy
from dataclasses import replace

import nets
import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

import netgraph as ng
import netgraph.coarsen.network.head_alignment as gauge
from netgraph.affinity.head_circuits import circuits, multiply_circuits
from netgraph.analysis.attention_heads import find_heads
from netgraph.coarsen.hierarchy.align_heads import align
from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.network.head_alignment import HeadRotation, find_rotatable_axes, procrustes
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.axis_units import AxisUnits
from netgraph.models.transformer import Decoder, Encoder

TOKENS = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(0))
SIZES = {"width": 32, "n_heads": 4, "n_hidden": 24, "length": 12, "depth": 1}
KINDS = ["multihead", "attention by hand", "fused attention", "grouped queries", "encoder layer"]


class RMSDecoder(Decoder):
    """A decoder with root mean square norms."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for block in self.blocks:
            block.norm1, block.norm2 = (torch.nn.RMSNorm(block.norm1.normalized_shape[0]) for _ in range(2))
        self.norm = torch.nn.RMSNorm(self.norm.normalized_shape[0])


MODELS = {
    "encoder": lambda: Encoder(40, 3, **SIZES),
    "post-norm encoder": lambda: Encoder(40, 3, norm="post", pooling="cls", **SIZES),
    "decoder": lambda: Decoder(40, **SIZES),
    "rotary decoder": lambda: Decoder(40, positions="rotary", **SIZES),
    "rms decoder": lambda: RMSDecoder(40, positions="rotary", **SIZES),
}
every_model = pytest.mark.parametrize("name", [*MODELS, "grouped queries", "fused attention"])


def build_case(name):
    """Return a network in double precision on probe weights, its example and spec, and the axis of its heads."""
    torch.manual_seed(1)
    if name in MODELS:
        model, example = MODELS[name](), TOKENS
    else:
        model, example = next((m, x) for n, m, x in nets.nets() if n == name)
    model, example = copy.deepcopy(model).double(), example if name in MODELS else example.double()
    model.load_state_dict(probe_state(model.eval(), example, 0), strict=False)
    spec = ng.trace(model.eval(), example)
    return model, example, spec, next(axis.name for axis in spec.free if axis.kind == "head")


def random_turn(size, mates, seed):
    """Return a random rotation that rotary positions allow."""
    if mates is None:
        return torch.from_numpy(ortho_group.rvs(size, random_state=seed))
    angles, turn = np.random.default_rng(seed).uniform(0, 2 * np.pi, size), torch.zeros(size, size, dtype=torch.float64)
    for i, j in enumerate(mates):
        angle = angles[min(i, j)] if i != j else 0
        turn[i, j], turn[i, i] = np.sin(angle) * (1 if i < j else -1), np.cos(angle)
    return turn


def rotate_heads(spec, axis, state, seed=0):
    """Return the state with another random basis in every head."""
    for place, heads in enumerate(find_heads(spec, axis)):
        n, _, size = heads.query.index.shape
        attending = torch.stack([random_turn(size, heads.mates, seed + i) for i in range(n)])
        size = heads.value.index.shape[2]
        moving = torch.stack([random_turn(size, None, seed + 100 + i) for i in range(n)])
        state = HeadRotation(axis, place, heads, attending, moving).rotate(state)
    return state


def answers(model, spec, example, state):
    return coarse_network(model, spec, {}, state=state).eval()(example)


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_heads_equal_a_slow_search_of_the_layout(name):
    _, _, spec, axis = build_case(name)
    (heads,) = find_heads(spec, axis)
    n = spec.axes[axis].size
    rows = np.arange(heads.out.index.size).reshape(n, -1)
    assert np.array_equal(heads.out.index.reshape(n, -1), rows)
    fused = {"multihead": 16, "fused attention": 16, "encoder layer": 16}.get(name, 0)  # rows between q, k and v
    for times, part in enumerate((heads.query, heads.key, heads.value)):
        assert np.array_equal(part.index.reshape(n, -1), np.arange(part.index.size).reshape(n, -1) + times * fused)


@every_model
def test_another_basis_inside_every_head_changes_no_output_and_no_affinity(name):
    model, example, spec, axis = build_case(name)
    state = traced_state(model)
    other = rotate_heads(spec, axis, state)
    assert not torch.allclose(
        other[find_heads(spec, axis)[0].query.weight], state[find_heads(spec, axis)[0].query.weight]
    )
    assert max_relative_error(answers(model, spec, example, state), answers(model, spec, example, other)) < 1e-12
    a, b = (circuits(AxisUnits(spec, s, axis)).toarray() for s in (state, other))
    np.testing.assert_allclose(a, b, atol=1e-12)
    plain = ng.unit_graph(model, spec, affinity="cosine").affinities[axis].toarray()
    assert np.abs(a - plain).max() > 1e-3


@pytest.mark.parametrize("name", ["encoder", "grouped queries"])
def test_similarity_of_circuits_equals_that_of_explicit_matrices(name):
    model, _, spec, axis = build_case(name)
    state = traced_state(model)
    (h,) = find_heads(spec, axis)
    h = replace(h, mates=None)  # rotary positions have a test of their own
    found = multiply_circuits(h, state)

    def rows(part, unit, copy_, bias):
        index = part.index[unit, min(copy_, part.index.shape[1] - 1)]
        w = state[part.weight].movedim(part.dim, 0)[index]
        return torch.cat([w, state[part.bias][index, None]], 1) if bias and part.bias else w

    n, copies, _ = h.query.index.shape
    attending = [[rows(h.query, u, c, True).T @ rows(h.key, u, c, False) for c in range(copies)] for u in range(n)]
    moving = [[rows(h.out, u, c, False).T @ rows(h.value, u, c, True) for c in range(copies)] for u in range(n)]
    for kernel, whole in zip(found, (attending, moving), strict=True):
        slow = [[sum(float((x * y).sum()) for x, y in zip(a, b, strict=True)) for b in whole] for a in whole]
        np.testing.assert_allclose(kernel, slow, rtol=1e-10, atol=1e-10)


def test_rotary_circuits_are_compared_over_all_turns_of_their_pairs():
    model, _, spec, axis = build_case("rotary decoder")
    (heads,), state = find_heads(spec, axis), traced_state(model)
    size = len(heads.mates)
    q = torch.cat([state[heads.query.weight], state[heads.query.bias][:, None]], 1)[heads.query.index[:, 0]]
    k = torch.cat([state[heads.key.weight], state[heads.key.bias][:, None]], 1)[heads.key.index[:, 0]]
    total = np.zeros((len(q), len(q)))
    for pair in [(i, int(heads.mates[i])) for i in range(size) if i < heads.mates[i]]:
        for angle in (
            np.arange(8) * np.pi / 4
        ):  # the mean over a circle of products of two cosines is that over eight places
            c, s = np.cos(angle), np.sin(angle)
            turn = torch.tensor([[c, -s], [s, c]])
            circuit = torch.einsum("hid,ij,hje->hde", q[:, list(pair)], turn, k[:, list(pair)]).flatten(1)
            total += (circuit @ circuit.T).numpy() / 8
    np.testing.assert_allclose(multiply_circuits(heads, state)[0], total, rtol=1e-10)


@pytest.mark.parametrize("name", ["decoder", "rotary decoder"])
def test_heads_that_differ_in_a_bias_of_keys_are_unlike_where_positions_turn_it(name):
    model, example, spec, axis = build_case(name)
    (heads,), state = find_heads(spec, axis), traced_state(model)
    other = dict(state, **{heads.key.bias: state[heads.key.bias] + 3.0})
    before, after = (multiply_circuits(heads, s)[0] for s in (state, other))
    same = max_relative_error(answers(model, spec, example, state), answers(model, spec, example, other)) < 1e-9
    assert np.allclose(before, after) == same == (name == "decoder")


@every_model
def test_clones_in_other_bases_merge_exactly(name):
    model, example, spec, axis = build_case(name)
    n = spec.axes[axis].size
    transfer = {axis: Transfer(np.arange(n) % (n // 2))}
    clones = prolong(spec, transfer, inject(spec, transfer, traced_state(model)))
    other = rotate_heads(spec, axis, clones)
    model.load_state_dict(other, strict=False)
    wanted = answers(model, spec, example, clones)
    level = ng.build_hierarchy(
        model, example, affinity="circuits", ratio={"*": 1.0, axis: 0.5}, coarsener=lambda g, k, seed: np.arange(n) % k
    ).levels[1]
    assert max_relative_error(wanted, level.model.eval()(example)) < 1e-10
    blind = coarse_network(model, spec, transfer).eval()(example)
    assert max_relative_error(wanted, blind) > 1e-2  # what averaging in unlike bases makes of them
    alike = ng.unit_graph(model, spec, affinity="circuits").affinities[axis].toarray()
    np.testing.assert_allclose(alike.max(axis=0), 1)


def test_heads_are_aligned_level_by_level_and_in_place_without_changing_the_network():
    torch.manual_seed(0)
    model = Encoder(40, 3, **{**SIZES, "n_heads": 8}).double().eval()
    spec = ng.trace(model, TOKENS)
    axis = "blocks.0.attention.query"
    four = {axis: Transfer(np.arange(8) % 2)}
    state = rotate_heads(spec, axis, prolong(spec, four, inject(spec, four, traced_state(model))))
    model.load_state_dict(state)
    wanted = model(TOKENS)
    ratios = {"*": 1.0, axis: 0.5}
    hierarchy = ng.build_hierarchy(model, TOKENS, affinity="circuits", n_levels=3, ratio=ratios)
    assert [level.spec.axes[axis].size for level in hierarchy.levels] == [8, 4, 2]
    for level in hierarchy.levels:
        assert max_relative_error(wanted, level.model.eval()(TOKENS)) < 1e-10
    assert align(hierarchy, TOKENS) == 1
    assert max_relative_error(wanted, model(TOKENS)) < 1e-12
    whole = {axis: hierarchy.levels[1].transfers[axis].compose(hierarchy.levels[2].transfers[axis])}
    assert max_relative_error(wanted, coarse_network(model, spec, whole).eval()(TOKENS)) < 1e-10
    assert align(hierarchy, TOKENS) == 0


def test_copies_of_heads_stay_bitwise_unchanged():
    model, example, spec, axis = build_case("encoder")
    transfer = {axis: Transfer(np.array([0, 1, 0, 1]))}
    model.load_state_dict(prolong(spec, transfer, inject(spec, transfer, traced_state(model))))
    level = ng.build_hierarchy(model, example, affinity="circuits", ratio={"*": 1.0, axis: 0.5}).levels[1]
    injected = inject(spec, level.transfers, traced_state(model))
    for name, tensor in level.model.state_dict().items():
        assert torch.equal(tensor, injected[name])


@pytest.mark.parametrize("mates", [None, np.array([2, 3, 0, 1]), np.array([1, 0, 2, 3])])
def test_no_small_rotation_comes_nearer_than_procrustes(mates):
    torch.manual_seed(0)
    wanted, rows = torch.randn(2, 4, 7, dtype=torch.float64)
    best = procrustes(wanted, rows, mates)
    torch.testing.assert_close(best @ best.T, torch.eye(4, dtype=torch.float64))
    off = float((wanted - best @ rows).square().sum())
    for seed in range(40):
        other = random_turn(4, mates, seed) if seed % 2 else best @ nearly_still(4, mates, seed)
        assert float((wanted - other @ rows).square().sum()) >= off - 1e-9


def nearly_still(size, mates, seed):
    generator = np.random.default_rng(seed).normal(size=(size, size)) * 0.01
    if mates is not None:
        allowed = np.eye(size)[mates] + np.outer(mates == np.arange(size), mates == np.arange(size))
        generator = np.sign(np.arange(size)[:, None] - np.arange(size)) * 0.01 * (allowed > 0) * (seed + 1) / 40
    return torch.linalg.matrix_exp(torch.from_numpy(generator - generator.T))


class Handmade(torch.nn.Module):
    """Attention with an operator that tells the numbers of a head apart, or that reads them elsewhere."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.q, self.k, self.v, self.out, self.aside = (torch.nn.Linear(16, 16, bias=False) for _ in range(5))
        self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        q, k, v = (nets.heads(f(x), 4) for f in (self.q, self.q if self.what == "one weight" else self.k, self.v))
        if self.what == "scaled numbers":
            k = k * self.scale
        elif self.what == "squares":
            q = q * q
        elif self.what == "flipped":
            q = q.flip(-1)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v * 2.0).transpose(1, 2).flatten(2)
        if self.what == "values go round":
            y = y + v.transpose(1, 2).flatten(2)
        elif self.what == "a second reader":
            return self.out(y) + self.aside(y)
        elif self.what == "a weight read twice":
            return self.out(y) + torch.nn.functional.linear(x, self.v.weight.mT.sin())
        return self.out(y)


@pytest.mark.parametrize(
    "what",
    ["scaled numbers", "squares", "flipped", "one weight", "values go round", "a second reader", "a weight read twice"],
)
def test_the_graph_proves_no_rotation_where_numbers_have_other_readers(what):
    torch.manual_seed(0)
    for name, free in (("nothing", True), (what, False)):
        spec = ng.trace(Handmade(name), nets.WORDS)
        found = [heads for axis in spec.free if axis.kind == "head" for heads in find_heads(spec, axis.name)]
        assert all(heads.can_rotate is free for heads in found)
        assert found or not free


@every_model
def test_rotations_that_the_graph_proves_safe_keep_the_output(name):
    model, example, spec, axis = build_case(name)
    turns = gauge._draw_rotations(spec, axis, 0)
    assert all(turn.heads.can_rotate is (turn.heads.mates is None) for turn in turns)
    assert gauge._preserves_outputs(model, spec, example, traced_state(model), turns)


def test_heads_rotate_only_where_a_run_proves_that_they_may():
    class Sharpened(torch.nn.Module):
        """Queries with different factors for each number, hidden from the search for heads."""

        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.out = (torch.nn.Linear(16, 16) for _ in range(4))

        def forward(self, x):
            q, k, v = (nets.heads(f(x), 4) for f in (self.q, self.k, self.v))
            q = q * torch.tensor([1.0, 2.0, 3.0, 4.0])
            return self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(
                1
            )

    torch.manual_seed(0)
    model = Sharpened()
    spec = ng.trace(model, nets.WORDS)
    axis = next(axis.name for axis in spec.free if axis.kind == "head")
    assert find_heads(spec, axis)
    assert find_rotatable_axes(model, spec, nets.WORDS, [axis]) == set()
    hierarchy = ng.build_hierarchy(model, nets.WORDS)
    injected = inject(spec, hierarchy.levels[1].transfers, traced_state(model))
    coarse = hierarchy.levels[1].model.state_dict()
    assert all(torch.equal(coarse[name], tensor) for name, tensor in injected.items())
