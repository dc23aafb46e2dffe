"""Merging inside heads: copies merge back exactly, and prolongation keeps the function."""

import nets
import numpy as np
import pytest
import torch
from command_line import run

import netgraph as ng
from netgraph.analysis.attention_heads import find_heads
from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.network.oracles import verify
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.coarsen.user_class.convert import own_class
from netgraph.errors import NetgraphError
from netgraph.models.perceptron import mlp
from netgraph.models.transformer import Decoder, Encoder

TOKENS = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(0))
SIZES = {"width": 32, "n_heads": 4, "n_hidden": 24, "length": 12, "depth": 2}
HAND = ["multihead", "attention by hand", "fused attention", "encoder layer", "grouped queries"]


def llama(kind="Llama"):
    """Return a Hugging Face network with rotary positions and grouped queries, and its input."""
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 40, "head_dim": 8}
    groups = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "use_cache": False}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes, **groups))
    return model, {"input_ids": TOKENS}


MODELS = {
    "encoder": lambda: (Encoder(40, 3, **SIZES), TOKENS),
    "post-norm encoder": lambda: (Encoder(40, 3, norm="post", pooling="cls", **SIZES), TOKENS),
    "decoder": lambda: (Decoder(40, **SIZES), TOKENS),
    "rotary encoder": lambda: (Encoder(40, 3, positions="rotary", **SIZES), TOKENS),
    "rotary decoder": lambda: (Decoder(40, positions="rotary", **SIZES), TOKENS),
    "rotary groups": llama,
    "normed rotary groups": lambda: llama("Qwen3"),
    **{name: lambda name=name: next((m, x) for n, m, x in nets.nets() if n == name) for name in HAND},
}


def build_case(name):
    torch.manual_seed(0)
    model, example = MODELS[name]()
    return model.eval(), example, ng.trace(model, example, inside_heads=True)


@pytest.mark.parametrize("name", MODELS)
def test_copies_merge_back_and_prolongation_keeps_the_function(name):
    model, example, spec = build_case(name)
    inner = [axis for axis in spec.free if axis.name in spec.inside_heads]
    assert inner
    if name != "grouped queries":  # which counts out the speeds of pairs as it runs
        assert any(axis.equal for axis in inner)
    for verdict in verify(model, spec, example):
        assert verdict.error is None or verdict.error < 1e-5, verdict
    state = probe_state(model, example, 0)
    transfers = {axis.name: Transfer(np.arange(axis.size) // 2) for axis in spec.free if axis.size % 2 == 0}
    assert any(axis.name in transfers for axis in inner)
    coarse = coarse_network(model, spec, transfers, state=inject(spec, transfers, state)).eval()
    clones = coarse_network(model, spec, {}, state=prolong(spec, transfers, inject(spec, transfers, state))).eval()
    run = (lambda m: m(**example)) if isinstance(example, dict) else (lambda m: m(example))
    assert max_relative_error(run(clones), run(coarse)) < 1e-5


def test_pairs_of_a_rotary_encoder_merge_with_their_speeds():
    model, example, spec = build_case("rotary encoder")
    level = ng.build_hierarchy(model, example, inside_heads=True, spec=spec).levels[1]
    pairs = "blocks.1.attention.query#2"
    assert level.transfers[pairs].n_fine == 4
    found = traced_state(level.model)["blocks.1.attention.speeds"]
    torch.testing.assert_close(found, level.transfers[pairs].average(model.blocks[1].attention.speeds, 0))


def test_heads_merge_whole_by_default():
    model, example, _ = build_case("encoder")
    spec = ng.trace(model, example)
    assert not spec.inside_heads
    kept = {name: spec.axes[f"blocks.0.attention.{name}"].kept for name in ("query#2", "value")}
    assert kept["query#2"].startswith("query and key are contracted")
    assert kept["value"] == "inside blocks.0.attention.query, whose units merge whole"


def test_coarse_levels_find_their_heads_and_a_saved_hierarchy_opens_with_all_axes(tmp_path):
    model, example, _ = build_case("decoder")
    hierarchy = ng.build_hierarchy(model, example, n_levels=3, inside_heads=True, affinity="circuits")
    sizes = [
        [level.spec.axes[f"blocks.0.attention.{x}"].size for level in hierarchy.levels] for x in ("query#2", "value")
    ]
    assert sizes == [[8, 4, 2], [8, 4, 2]]
    for level, n in zip(hierarchy.levels, (4, 2, 1), strict=True):
        (heads,) = find_heads(level.spec, "blocks.0.attention.query")
        assert heads.query.index.shape == (n, 1, 8 // (4 // n))
        assert heads.complete == (n == 4)
    own = own_class(hierarchy, example)
    torch.testing.assert_close(own.eval()(example), hierarchy.levels[2].model.eval()(example))
    ng.save(hierarchy, tmp_path / "m.hierarchy")
    again = ng.load(tmp_path / "m.hierarchy")
    assert [level.spec.sizes for level in again.levels] == [level.spec.sizes for level in hierarchy.levels]
    torch.testing.assert_close(again.levels[2].model(example), hierarchy.levels[2].model.eval()(example))


def test_a_network_without_heads_is_refused(tmp_path):
    with pytest.raises(NetgraphError, match="no dimensions inside heads may merge: the network has no attention"):
        ng.build_hierarchy(mlp((6, 8, 4)), torch.randn(2, 6), inside_heads=True)


def test_the_command_merges_and_verifies_inside_heads(tmp_path):
    model, example, _ = build_case("encoder")
    file = tmp_path / "m.safetensors"
    ng.save(coarse_network(model, ng.trace(model, example), {}, state=traced_state(model)), file)
    code, out, err = run("verify", file, "--inside-heads")
    assert code == 0, err
    assert "blocks.0.attention.query#2" in out
    code, out, err = run("coarsen", file, "--inside-heads", "--levels", 2, "--json")
    assert code == 0, err
    assert '"blocks.0.attention.value": 4' in out
