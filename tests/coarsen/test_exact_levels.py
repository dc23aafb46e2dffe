"""Exactness of levels: what was copied merges back, alone and in every direction at once, in both modes.

The judge is the network's own forward. A fine network is made by prolonging a coarse one, so that channels and blocks are copies
and branches of chains are zero, where depth is exact; then everything is coarsened anew, and the matching has to find the copies.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

import netgraph as ng
from netgraph.analysis.residual_chains import find_chains
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.models.cnn import resnet20, resnet56, vgg, wide_resnet

pytestmark = pytest.mark.no_cover
PIXELS, LARGE = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 32, 32)
TOKENS = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(0))
ALL = "channels+space+depth"


def language_model(kind, **sizes):
    """Return a network of transformers whose output is its embedding, without dropout, which would differ between the modes."""
    prepare_torchvision()
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=40, bos_token_id=None, eos_token_id=None, use_cache=False, tie_word_embeddings=True, **sizes
    )
    return getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config)


def gpt2():
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return language_model("GPT2", n_positions=16, n_embd=32, n_layer=4, n_head=4, **still)


def llama():
    """Return a network of rotary positions and grouped queries."""
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 4, "max_position_embeddings": 16}
    return language_model("Llama", num_attention_heads=8, num_key_value_heads=4, **sizes)


NETWORKS = {
    "vgg": (lambda: vgg(width=4), LARGE, ["channels"]),
    "vgg up to its third pooling": (
        lambda: nn.Sequential(*vgg(width=4).features[:15], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)),
        PIXELS,
        ["channels+space"],
    ),
    "resnet20": (lambda: resnet20(width=4), PIXELS, ["channels", "space", "depth", "space,depth,channels"]),
    "resnet56": (lambda: resnet56(width=4), PIXELS, [ALL]),
    "wide resnet": (lambda: wide_resnet(22, 2, width=2), PIXELS, ["channels", "depth", ALL]),
    "gpt2": (gpt2, TOKENS, ["channels", "depth", "channels+depth"]),
    "llama": (llama, TOKENS, ["channels", "depth", "channels+depth"]),
}
CASES = [(name, directions) for name, (_, _, every) in NETWORKS.items() for directions in every]


def randomize_norms(model):
    """Randomize the parameters and statistics of norms."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor += 0.2 * torch.rand_like(tensor) if "var" in name else 0.2 * torch.randn_like(tensor)
    return model


def zero_branches(model, example):
    """Zero the branches of all chains. A block then equals two half blocks."""
    for chain in find_chains(ng.trace(model, example))[0]:
        for name in chain.ends:
            for full in chain.names_in_blocks(name):
                model.get_parameter(full).data.zero_()
    return model


def built(model, example, directions):
    return ng.build_hierarchy(model, example, directions=directions, n_levels=2 + directions.count(","))


def answers(model, inputs, *, training):
    """Return outputs and new batch-norm statistics. The network stays the same."""
    own = copy.deepcopy(model).train(training)
    found = own(inputs)
    return getattr(found, "logits", found).detach(), dict(own.named_buffers())


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("name", "directions"), CASES)
def test_what_was_copied_merges_back_and_prolongation_keeps_the_function(name, directions):
    make, example, _ = NETWORKS[name]
    model = randomize_norms(make())
    model = zero_branches(model, example) if "depth" in directions else model
    first = built(model, example, directions)
    coarse = first.levels[-1]
    state = {n: t.clone() for n, t in traced_state(coarse.model).items() if not n.startswith("constants.")}
    for level in reversed(first.levels[1:]):
        state = build_level_maps(level).prolong(state)
    left = model.load_state_dict(state, strict=False)  # speeds of rotary positions are no part of a network's own state
    assert set(left.missing_keys) <= {"lm_head.weight"}  # tied: the embedding's
    inputs = example if coarse.pool == 1 else avg_pool2d(example, coarse.pool)
    again = built(model, example, directions).levels[-1]
    assert again.n_parameters == coarse.n_parameters
    for training in (True, False):
        own, _ = answers(model, inputs, training=training)
        wanted, first_seen = answers(coarse.model, example, training=training)
        found, seen = answers(again.model, example, training=training)
        assert relative(own, wanted) < 1e-5  # prolongation keeps the function
        assert relative(found, own) < 1e-5  # and the matching finds the copies
        assert seen.keys() == first_seen.keys()
        for key, values in seen.items():  # units may be numbered in another order
            torch.testing.assert_close(values.sort().values, first_seen[key].sort().values, rtol=1e-4, atol=1e-5)
