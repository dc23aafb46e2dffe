"""Transformers on levels: clones merge exactly, prolongation keeps the function, masks and dropout are right on every level."""

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.parameter_maps import prolong
from netgraph.errors import NothingToMergeError
from netgraph.models.transformer import Attention, Decoder, Encoder

TOKENS = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(0))
PADDED = TOKENS.clone()
PADDED[0, 7:] = 0
SIZES = {"width": 32, "n_heads": 4, "n_hidden": 24, "length": 12, "depth": 2}


class Gated(Decoder):
    """A decoder like Llama: root mean square norms, rotary positions, and gated feed-forward layers."""

    def __init__(self):
        super().__init__(40, positions="rotary", **SIZES)
        self.norm = nn.RMSNorm(SIZES["width"])
        for block in self.blocks:
            block.norm1, block.norm2 = nn.RMSNorm(SIZES["width"]), nn.RMSNorm(SIZES["width"])
            block.gate = nn.Linear(SIZES["width"], SIZES["n_hidden"])
            block._feed_forward = lambda x, m=block: m.down(nn.functional.silu(m.gate(x)) * m.up(x))


MODELS = {
    "pre-norm, mean": lambda: Encoder(40, 3, **SIZES),
    "post-norm, first token": lambda: Encoder(40, 3, norm="post", pooling="cls", **SIZES),
    "rotary encoder": lambda: Encoder(40, 3, positions="rotary", **SIZES),
    "decoder": lambda: Decoder(40, **SIZES),
    "post-norm rotary decoder": lambda: Decoder(40, norm="post", positions="rotary", **SIZES),
    "gated rms decoder": Gated,
}
every_model = pytest.mark.parametrize("name", MODELS)


def made(name):
    torch.manual_seed(1)
    model = MODELS[name]()
    return model, ng.trace(model, TOKENS)


@every_model
def test_clones_of_all_axes_at_once_merge_exactly_and_dead_units_go(name):
    model, spec = made(name)
    kinds = {axis.kind for axis in spec.free}
    assert kinds == {"head", "neuron"}
    example = TOKENS if name.endswith("decoder") else PADDED
    assert check_duplicate_units(model, spec, example, spec.free).error < 1e-12
    assert check_dead_units(model, spec, example, spec.free).error < 1e-12


@every_model
def test_prolongation_keeps_the_function_of_the_coarse_network(name):
    model, spec = made(name)
    level = ng.build_hierarchy(model, TOKENS, spec=spec).levels[1]
    fine = prolong(spec, level.transfers, dict(level.model.state_dict()))
    model.load_state_dict({n: t for n, t in fine.items() if n in model.state_dict()})
    with torch.no_grad():
        assert max_relative_error(level.model.eval()(TOKENS), model.eval()(TOKENS)) < 1e-5


@pytest.mark.parametrize("options", [{}, {"norm": "post", "pooling": "cls", "positions": "rotary"}])
def test_masked_tokens_change_no_output_on_any_level(options):
    torch.manual_seed(1)
    mask = PADDED > 0
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **{**SIZES, **options}), (PADDED, mask))
    for level in hierarchy.levels:
        network = level.model.eval()
        torch.testing.assert_close(network(PADDED, mask), network(torch.where(mask, PADDED, 5), mask))
        assert not torch.allclose(network(PADDED, mask), network(PADDED, torch.ones_like(mask)))
    torch.testing.assert_close(hierarchy.levels[0].model(PADDED)[0], hierarchy.levels[0].model(PADDED[:1, :7])[0])


def test_a_decoder_sees_no_later_token_on_any_level():
    torch.manual_seed(1)
    hierarchy = ng.build_hierarchy(Decoder(40, **SIZES), TOKENS)
    later = TOKENS.clone()
    later[:, 8:] = 3
    for level in hierarchy.levels:
        a, b = level.model.eval()(TOKENS), level.model.eval()(later)
        torch.testing.assert_close(a[:, :8], b[:, :8])
        assert not torch.allclose(a[:, 8:], b[:, 8:])


def test_dropout_drops_the_same_share_on_every_level_and_nothing_in_evaluation():
    torch.manual_seed(1)
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **{**SIZES, "dropout": 0.25}), TOKENS)
    for level in hierarchy.levels:
        level.model.eval()
        torch.testing.assert_close(level.model(TOKENS), level.model(TOKENS))
        level.model.train()
        assert not torch.allclose(level.model(TOKENS), level.model(TOKENS))
    train = hierarchy.levels[1].model.document()["graphs"]["train"]
    shares = [args[1:] for _, what, args, _ in train if what == "aten.dropout.default"]
    assert len(shares) == 1 + 3 * SIZES["depth"]
    assert all(share == [0.25, True] for share in shares)


def test_the_scale_of_attention_stays_that_of_the_fine_head():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.attention = nn.Linear(16, 16), Attention(16, 4)

        def forward(self, x):
            return self.attention(self.stem(x)).mean(1)

    torch.manual_seed(0)
    model, x = Two(), torch.randn(2, 6, 16)
    level = ng.build_hierarchy(model, x).levels[1]
    spec = ng.trace(model, x)
    wide = prolong(spec, level.transfers, dict(level.model.state_dict()))
    torch.testing.assert_close(coarse_network(model, spec, {}, state=wide).eval()(x), level.model.eval()(x))
    assert level.model.state_dict()["attention.query.weight"].shape == (8, 8)  # two heads of four numbers, as before


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("post")])
def test_half_of_the_blocks_compute_the_same_if_the_others_add_nothing(name):
    model, spec = made(name)
    last = ("attention.out", "down")
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if any(f"{end}." in n for end in last)):
            parameter.zero_()
    hierarchy = ng.build_hierarchy(model, TOKENS, spec=spec, directions="depth")
    coarse = hierarchy.levels[1].model.eval()
    assert {n.split(".")[1] for n, _ in coarse.named_parameters() if n.startswith("blocks")} == {"0"}
    torch.testing.assert_close(coarse(TOKENS), model.eval()(TOKENS))
    fine = build_level_maps(hierarchy.levels[1]).prolong(
        {n: t for n, t in coarse.state_dict().items() if "constants" not in n}
    )
    model.load_state_dict({n: fine[n] for n in model.state_dict()})  # which lacks the speeds of rotary positions
    torch.testing.assert_close(coarse(TOKENS), model(TOKENS))


def test_a_level_of_fewer_blocks_hides_padding_and_later_tokens_too():
    torch.manual_seed(1)
    mask, later = PADDED > 0, torch.cat([TOKENS[:, :8], TOKENS[:, :4]], 1)
    encoder = ng.build_hierarchy(Encoder(40, 3, **SIZES), (PADDED, mask), directions="depth").levels[1].model.eval()
    torch.testing.assert_close(encoder(PADDED, mask), encoder(torch.where(mask, PADDED, 5), mask))
    decoder = ng.build_hierarchy(Decoder(40, **SIZES), TOKENS, directions="depth").levels[1].model.eval()
    torch.testing.assert_close(decoder(TOKENS)[:, :8], decoder(later)[:, :8])


def test_post_norm_blocks_form_no_chain_and_the_message_says_so():
    model, spec = made("post-norm, first token")
    with pytest.raises(NothingToMergeError, match="does not end in a sum with its input"):
        ng.build_hierarchy(model, TOKENS, spec=spec, directions="depth")
