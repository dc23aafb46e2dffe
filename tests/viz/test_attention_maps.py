"""Pictures of attention, judged by torch's own attention weights."""

import numpy as np
import pytest
import torch
from attention_networks import SIZES, TOKENS, judged
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from torch import nn

import netgraph as ng
from netgraph.affinity.head_attention import collect_attention
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError
from netgraph.models.transformer import Decoder, Encoder
from netgraph.viz.figures.attention import plot_heads, plot_words
from netgraph.viz.figures.attention_maps import _match_heads, collect_layer_attention
from netgraph.viz.figures.color_scale import UniformCenteredScale


@pytest.mark.parametrize("make", [Encoder, Decoder])
def test_patterns_are_the_weights_that_torch_finds(make):
    torch.manual_seed(0)
    model = make(40, **SIZES).eval()
    first, _ = collect_attention(coarse_network(model, ng.trace(model, TOKENS), {}).eval(), TOKENS)
    x = model.blocks[0].norm1(model.embedding(TOKENS) + model.positions(torch.arange(12)))
    mask = TOKENS > 0 if make is Encoder else None
    torch.testing.assert_close(first, judged(model.blocks[0].attention, x, mask, causal=make is Decoder))


def test_heads_of_a_group_stand_together_before_their_merged_head():
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **SIZES), TOKENS, affinity="circuits")
    figure = plot_heads(hierarchy, TOKENS)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert len(titles) == 2 * (4 + 2)
    for layer in range(2):
        groups = hierarchy.levels[1].transfers[f"blocks.{layer}.attention.query"].aggregates
        wanted = []
        for k in range(2):
            wanted += [f"head {i}" for i in range(4) if groups[i] == k] + [f"→ {k}"]
        assert titles[6 * layer : 6 * layer + 6] == wanted


def test_one_head_is_drawn_over_the_words_of_a_text(tmp_path):
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **SIZES), TOKENS, affinity="circuits")
    figure = plot_words(hierarchy, TOKENS, ["[CLS]", "a", "fine", "$film$"], layer=1, head=1)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["[CLS]", "a", "fine", r"\$film\$"]
    assert figure.axes[2].get_title(loc="left") == "merged head 1"
    assert figure.axes[-1].get_yticklabels()[1].get_text() == "12%, even"  # of 8 tokens
    figure.savefig(tmp_path / "words.png")
    with pytest.raises(NetgraphError, match="no head 2 of layer 0"):
        plot_words(hierarchy, TOKENS, ["a"], head=2)
    with pytest.raises(NetgraphError, match="level 2 is not coarse"):
        plot_heads(hierarchy, TOKENS, level=2)
    with pytest.raises(NetgraphError, match="the tokenizer that it was trained with"):
        plot_heads(hierarchy, TOKENS + 40)


@pytest.mark.parametrize("n", [1, 4, 12])
def test_long_words_and_the_title_fit_on_the_sheet(n):
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **SIZES), TOKENS, ratio=0.25)  # five maps, in two rows
    figure = plot_words(hierarchy, TOKENS, ["WWWWWWWWWWWWWWWW"] * n)
    FigureCanvasAgg(figure).draw()
    sheet = figure.bbox
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        assert not text.get_text() or (box.x0 >= 0 and box.y0 >= 0 and box.x1 <= sheet.x1 and box.y1 <= sheet.y1), text


def test_uniform_attention_is_the_middle_of_a_symmetric_log_scale():
    weights = np.array([[0.1, 0.2, 0.05, 0.4, 0.025, 0.0]])
    scale = UniformCenteredScale.from_maps([weights], 10)
    np.testing.assert_allclose(scale.to_positions(weights), [[0.5, 0.75, 0.25, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose([scale.to_share(x) for x in (0.5, 0.75, 1)], [0.1, 0.2, 0.4])
    nearly = UniformCenteredScale.from_maps([np.full((2, 10), 0.1 + 1e-6)], 10)
    assert abs(nearly.to_positions(np.array(0.1 + 1e-6)) - 0.5) < 1e-3  # rounding errors are no pattern


def test_maps_are_means_over_texts_without_rows_of_padding():
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **SIZES), TOKENS)
    first = hierarchy.levels[0]
    single = [
        collect_attention(coarse_network(first.model, first.spec, {}).eval(), TOKENS[i : i + 1])[0][0] for i in (0, 1)
    ]
    found = collect_layer_attention(hierarchy, TOKENS, [1])[0].maps[0]
    for i in range(12):  # the first text has 8 words
        wanted = (single[0][:, i] + single[1][:, i]) / 2 if i < 8 else single[1][:, i]
        torch.testing.assert_close(torch.from_numpy(found[:, i]), wanted)


def test_a_layer_without_a_coarse_version_stands_alone_and_training_mode_is_kept():
    torch.manual_seed(0)
    model = Encoder(40, 3, **{**SIZES, "depth": 4}).train()
    hierarchy = ng.build_hierarchy(model, TOKENS, directions="depth")
    found = collect_layer_attention(hierarchy, TOKENS, [1])
    assert [sorted(layer.maps) for layer in found] == [[0, 1], [0], [0, 1], [0]]
    titles = [axes.get_title(loc="left") for axes in plot_heads(hierarchy, TOKENS).axes]
    assert titles[8:12] == [f"head {i}" for i in range(4)]
    assert plot_heads(hierarchy, TOKENS).axes[8].get_ylabel().endswith("block merged into blocks.0")
    with pytest.raises(NetgraphError, match=r"its block merged into blocks\.2\. Look at layer 2"):
        plot_words(hierarchy, TOKENS, ["a"], layer=3)
    assert hierarchy.levels[0].model.training


def test_query_heads_join_the_heads_of_their_groups(monkeypatch):
    units = np.array([1, -1, 0])
    monkeypatch.setattr("netgraph.viz.figures.attention_maps.compose_aggregates", lambda hierarchy, axis: [units])
    assert _match_heads(None, "heads", 1, 6).tolist() == [2, 3, -1, -1, 0, 1]


def test_networks_without_heads_are_refused():
    hierarchy = ng.build_hierarchy(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 5))
    with pytest.raises(NetgraphError, match="heads are found in 0"):
        plot_heads(hierarchy, torch.randn(2, 5))
