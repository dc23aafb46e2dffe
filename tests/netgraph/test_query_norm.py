"""Heads with normalized queries and keys: they are found and merged, and only their values rotate."""

import nets
import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.affinity.head_circuits import circuits
from netgraph.analysis.attention_heads import find_heads
from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.network.head_alignment import find_rotatable_axes, find_rotations
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.axis_units import AxisUnits


class HandRMS(nn.Module):
    """A root mean square norm in the form of the Hugging Face networks."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


NORMS = {"by hand": HandRMS, "rms": nn.RMSNorm, "layer": nn.LayerNorm, "none": lambda size: nn.Identity()}


class Normed(nn.Module):
    """Attention of four heads over words, with queries and keys normalized inside heads."""

    def __init__(self, kind):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.q_norm, self.k_norm = (NORMS[kind](4) for _ in range(2))

    def forward(self, x):
        q, k, v = (nets.heads(f(x), 4) for f in (self.query, self.key, self.value))
        y = nn.functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(y.transpose(1, 2).flatten(2))


def build_case(kind):
    """Return a network on probe weights, which include gains, its spec, and the axis of its heads."""
    torch.manual_seed(0)
    model = Normed(kind).eval()
    model.load_state_dict(probe_state(model, nets.WORDS, 0), strict=False)
    spec = ng.trace(model, nets.WORDS)
    return model, spec, next(axis.name for axis in spec.free if axis.kind == "head")


def rotate_copy(model, layers):
    """Make head 2 of a network a copy of head 0 with some layers in another basis."""
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    with torch.no_grad():
        for layer in (model.query, model.key, model.value):
            basis = turn if layer in layers else torch.eye(4)
            layer.weight[8:12], layer.bias[8:12] = basis @ layer.weight[:4], basis @ layer.bias[:4]
        model.out.weight[:, 8:12] = model.out.weight[:, :4] @ (turn.T if model.value in layers else torch.eye(4))


every_norm = pytest.mark.parametrize("kind", ["by hand", "rms", "layer"])


@every_norm
def test_normalized_heads_have_the_same_rows_as_heads_without_a_norm(kind):
    (_, spec, axis), (_, plain, same) = build_case(kind), build_case("none")
    (found,), (wanted,) = find_heads(spec, axis), find_heads(plain, same)
    assert (found.normed, wanted.normed) == (True, False)
    for part in ("query", "key", "value", "out"):
        np.testing.assert_array_equal(getattr(found, part).index, getattr(wanted, part).index)
        assert getattr(found, part).weight == getattr(wanted, part).weight


@every_norm
def test_clones_merge_exactly_and_only_values_rotate(kind):
    model, spec, axis = build_case(kind)
    rotate_copy(model, (model.value,))
    ratio = {"*": 1.0, axis: 0.75}
    level = ng.build_hierarchy(model, nets.WORDS, affinity="circuits", ratio=ratio).levels[1]
    groups = level.transfers[axis].aggregates
    assert groups[0] == groups[2]
    assert max_relative_error(level.model.eval()(nets.WORDS), model(nets.WORDS)) < 1e-5
    (turn,) = find_rotations(spec, level.transfers, traced_state(model))
    assert torch.equal(turn.query_key, torch.eye(4, dtype=torch.float64).repeat(4, 1, 1))
    assert not torch.equal(turn.value_out[2], torch.eye(4, dtype=torch.float64))
    assert find_rotatable_axes(model, spec, nets.WORDS, [axis]) == {axis}


def test_queries_in_another_basis_are_another_head_if_they_are_normalized():
    alike = {}
    for kind in ("by hand", "none"):
        model, spec, axis = build_case(kind)
        rotate_copy(model, (model.query, model.key))
        alike[kind] = circuits(AxisUnits(spec, traced_state(model), axis)).toarray()[0, 2]
    assert alike["none"] > 1 - 1e-5
    assert alike["by hand"] < 0.95


def test_a_qwen3_is_cloned_and_merged_back():
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 50, "head_dim": 8}
    config = transformers.Qwen3Config(
        **sizes, num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=32, use_cache=False
    )
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config).eval()
    example = {"input_ids": torch.randint(0, 50, (2, 10))}
    spec = ng.trace(model, example)
    axis = next(axis.name for axis in spec.free if axis.kind == "head")
    (heads,) = find_heads(spec, axis)
    assert heads.normed
    assert heads.mates.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert heads.query.index.shape == (4, 2, 8)
    transfer = {axis: Transfer(np.array([0, 1, 0, 1]))}
    model.load_state_dict(prolong(spec, transfer, inject(spec, transfer, traced_state(model))), strict=False)
    wanted = model(**example).logits
    ratio = {"*": 1.0, axis: 0.5}
    for affinity, data in (("circuits", None), ("attention", example)):
        level = ng.build_hierarchy(model, example, affinity=affinity, ratio=ratio, data=data, spec=spec).levels[1]
        assert max_relative_error(level.model.eval()(**example).logits, wanted) < 1e-5
