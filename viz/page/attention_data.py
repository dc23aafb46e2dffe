"""Attention as JSON data for the page: maps of every head over the first words of a few texts, 8 bits a number.

A number is the position of a share of attention on the colour scale (`netgraph.viz.figures.color_scale`). The scale is part of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.viz.figures.attention import WORDS
from netgraph.viz.figures.attention_maps import LayerAttention, collect_layer_attention
from netgraph.viz.figures.color_scale import UniformCenteredScale
from netgraph.viz.page.page_data import pack_integers


def build_attention_data(hierarchy: Hierarchy, texts: Sequence[tuple[Sequence[str], Any]]) -> list[dict[str, Any]]:
    """Return the words of some texts and the maps of all levels for every layer.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    texts : sequence of (words, inputs)
        Inputs hold one row each, as the network takes them. Without words, tokens are numbered.

    Returns
    -------
    list of dict
        One for each text, as `netgraph.viz.write_page` takes them.

    Raises
    ------
    NetgraphError
        The network has no attention with known heads, or it does not run on a text.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import build_attention_data, write_page
    >>> layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    >>> tokens = torch.randn(1, 3, 16)
    >>> hierarchy = ng.build_hierarchy(layer, tokens, n_levels=2)
    >>> texts = build_attention_data(hierarchy, [(["a", "good", "film"], tokens)])
    >>> {level: len(maps) for level, maps in texts[0]["layers"][0]["maps"].items()}  # heads of each level
    {0: 4, 1: 2}
    >>> write_page(hierarchy, "heads.html", attention=texts)
    """
    return [_encode_text(hierarchy, words, inputs) for words, inputs in texts]


def _encode_text(hierarchy: Hierarchy, words: Sequence[str], inputs: Any) -> dict[str, Any]:
    """Return one text with its words and layers."""
    layers = collect_layer_attention(hierarchy, inputs, range(1, len(hierarchy.levels)))
    n = min(WORDS, len(words) or layers[0].n_tokens)
    shown = list(words[:n]) or [str(i) for i in range(n)]
    return {"words": [word[:40] for word in shown], "layers": [_encode_layer(layer, n) for layer in layers]}


def _encode_layer(layer: LayerAttention, n: int) -> dict[str, Any]:
    """Return one layer with its scale, its packed maps and the matching of its heads."""
    cut = {level: maps[:, :n, :n] for level, maps in layer.maps.items()}
    scale = UniformCenteredScale.from_maps(cut.values(), layer.n_tokens)
    return {
        "axis": layer.axis,
        "even": scale.even,
        "octaves": scale.octaves,
        "maps": {level: [_pack_map(one, scale) for one in maps] for level, maps in cut.items()},
        "merged": dict(layer.merged),
        "joined": {level: joined.tolist() for level, joined in layer.joined.items()},
    }


def _pack_map(weights: NDArray[Any], scale: UniformCenteredScale) -> list[Any]:
    """Return a map as positions on the scale, 8 bits each."""
    return pack_integers(np.rint(255 * scale.to_positions(weights)).astype(np.uint8).ravel())
