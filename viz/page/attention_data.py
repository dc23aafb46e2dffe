"""What the page knows of attention, as data for JSON: each head's map over the first words of a few texts, 8 bits a number.

A number is where a share of attention stands on a scale around the even share (`netgraph.viz.figures.color_scale`), which goes with them.
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
    """Return what the page shows of texts: their words, and for every layer the maps of all levels.

    Parameters
    ----------
    hierarchy : Hierarchy
    texts : sequence of (words, inputs)
        Inputs are of one row, as the network takes them; without words their places are numbered.

    Raises
    ------
    NetgraphError
        The network has no attention whose heads are found, or does not run on a text.
    """
    return [_encode_text(hierarchy, words, inputs) for words, inputs in texts]


def _encode_text(hierarchy: Hierarchy, words: Sequence[str], inputs: Any) -> dict[str, Any]:
    layers = collect_layer_attention(hierarchy, inputs, range(1, len(hierarchy.levels)))
    n = min(WORDS, len(words) or layers[0].seen)
    shown = list(words[:n]) or [str(i) for i in range(n)]
    return {"words": [word[:40] for word in shown], "layers": [_encode_layer(layer, n) for layer in layers]}


def _encode_layer(layer: LayerAttention, n: int) -> dict[str, Any]:
    cut = {level: maps[:, :n, :n] for level, maps in layer.maps.items()}
    scale = UniformCenteredScale.of(cut.values(), layer.seen)
    return {
        "axis": layer.axis,
        "even": scale.even,
        "octaves": scale.octaves,
        "maps": {level: [_pack_map(one, scale) for one in maps] for level, maps in cut.items()},
        "merged": dict(layer.merged),
        "joined": {level: joined.tolist() for level, joined in layer.joined.items()},
    }


def _pack_map(weights: NDArray[Any], scale: UniformCenteredScale) -> list[Any]:
    return pack_integers(np.rint(255 * scale.places(weights)).astype(np.uint8).ravel())
