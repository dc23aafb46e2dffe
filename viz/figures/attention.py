"""Pictures of attention: every head of every layer, or one group of heads over the words of a text, fine next to coarse.

Row i of a map is the attention of token i. Uniform attention has the middle colour (`netgraph.viz.figures.color_scale`), and the
brightest entry of a layer is yellow. Columns of padding are left out.
Heads that merge stand together in one colour, followed by their merged head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.viz.figures.attention_maps import LayerAttention, collect_layer_attention, split_texts
from netgraph.viz.figures.color_scale import UniformCenteredScale
from netgraph.viz.figures.drawing import OKABE_ITO, format_label
from netgraph.viz.figures.hierarchy import FAINT, INK, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = 40  # tokens that a map of words has at most
ACROSS = 3  # maps of words in a row
SIDE, NEAR, APART = (
    0.95,
    0.07,
    0.16,
)  # inches: a map of the overview, the gap between maps, and the larger gap between groups
ROW, HEAD, MARGIN, LEAST = 1.28, 0.34, 0.4, 5.0
CELL, SMALLEST, BETWEEN, BAR = (
    0.125,
    1.0,
    0.28,
    0.75,
)  # inches: a cell of a map over words, the smallest map, and the gaps around it
TITLE = "Attention of tokens (down) to tokens (across): level 0, and → level {}"


def plot_heads(hierarchy: Hierarchy, inputs: Any, *, level: int = -1) -> Figure:
    """Plot all heads: layers down, heads across, the heads of each group before their merged head.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    inputs : Tensor, tuple or dict
        As the network takes them. Maps are means over the rows.
    level : int, default -1
        The coarse level to compare with level 0.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    NetgraphError
        The network has no attention with known heads, or the level does not exist.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import plot_heads
    >>> layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    >>> tokens = torch.randn(2, 5, 16)
    >>> figure = plot_heads(ng.build_hierarchy(layer, tokens, n_levels=2), tokens)
    >>> len(figure.axes)  # 4 heads of level 0 and 2 of level 1
    6
    """
    import_package("matplotlib", "a figure")
    import matplotlib
    from matplotlib.figure import Figure

    layers = collect_layer_attention(hierarchy, inputs, [level])
    level %= len(hierarchy.levels)
    rows = [list(_group_heads(layer, level)) for layer in layers]
    across = max(right for row in rows for _, _, _, right in row)
    width, height = max(across + MARGIN + 0.15, LEAST), len(rows) * ROW + HEAD
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        figure.text(0.1 / width, 1 - 0.12 / height, TITLE.format(level), va="top", fontsize=9, weight="bold")
        for i, (layer, row) in enumerate(zip(layers, rows, strict=True)):
            scale = UniformCenteredScale.from_maps(layer.maps.values(), layer.n_tokens)
            bottom = height - HEAD - (i + 1) * ROW + 0.1
            for title, weights, colour, right in row:
                box = ((MARGIN + right - SIDE) / width, bottom / height, SIDE / width, SIDE / height)
                place: Any = figure.add_axes(box)
                _draw_map(place, weights[: layer.n_tokens, : layer.n_tokens], title, colour, scale)
            first = figure.axes[-len(row)]
            note = f"even {_format_percent(scale.even)}, brightest {_format_percent(scale.to_share(1))}"
            note = f"block merged into {format_label(layer.merged[level], 12)}" if level in layer.merged else note
            first.set_ylabel(f"{format_label(layer.axis, 26)}\n{note}", fontsize=5.5)
        return figure


def plot_words(
    hierarchy: Hierarchy, inputs: Any, words: Sequence[str], *, layer: int = 0, head: int = 0, level: int = -1
) -> Figure:
    """Plot one coarse head and its fine heads over the words of the first text.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    inputs : Tensor, tuple or dict
        As the network takes them. Only the first row is used.
    words : sequence of str
        Tokens of the first text to show, at most `WORDS`. Numbers take their place if it is empty.
    layer : int, default 0
        The attention layer, in the order of the run.
    head : int, default 0
        The number of a coarse head of that layer.
    level : int, default -1
        The coarse level to compare with level 0.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    NetgraphError
        There is no such layer, head or level.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import plot_words
    >>> layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    >>> tokens = torch.randn(1, 3, 16)
    >>> figure = plot_words(ng.build_hierarchy(layer, tokens, n_levels=2), tokens, ["a", "good", "film"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['a', 'good', 'film']
    """
    import_package("matplotlib", "a figure")
    import matplotlib

    layers = collect_layer_attention(hierarchy, split_texts(inputs, 1)[0], [level])
    level %= len(hierarchy.levels)
    attention, merged = _choose_head(layers, layer, head, level)
    words = [format_label(word, 14) for word in words or map(str, range(attention.n_tokens))][:WORDS]
    n = len(words)
    members = [(f"head {i}", attention.maps[0][i, :n, :n]) for i in np.flatnonzero(attention.joined[level] == head)]
    maps = [*members, (f"merged head {head}", merged[:n, :n])]
    scale = UniformCenteredScale.from_maps((weights for _, weights in maps), attention.n_tokens)
    name = f"{format_label(attention.axis, 60)}: attention of each word (left) to the words below, level 0 and level {level}"
    with matplotlib.rc_context(STYLE):
        figure, places, bar = _lay_out_maps(len(maps), words, name)
        for i, (place, (title, weights)) in enumerate(zip(places, maps, strict=True)):
            image = _draw_map(place, weights, title, _choose_color(head), scale)
            place.set_xticks(range(n), words, rotation=90, fontsize=6)
            place.set_yticks(range(n), words if i % ACROSS == 0 else [""] * n, fontsize=6)
        _draw_color_bar(figure, image, bar, scale)
        return figure


def _lay_out_maps(n_maps: int, words: Sequence[str], title: str) -> tuple[Figure, list[Any], Any]:
    """Return a figure with axes for maps over words and for the colour bar, with room for the longest word."""
    from matplotlib.figure import Figure

    side, longest = max(CELL * len(words), SMALLEST), max(_measure_text(word, 6) for word in words) + 0.12
    down, across = -(-n_maps // ACROSS), min(n_maps, ACROSS)
    width = max(longest + across * (side + BETWEEN) + BAR, _measure_text(title, 9, weight="bold") + 0.2)
    height = HEAD + down * (side + BETWEEN + longest)
    figure = Figure(figsize=(width, height))
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=9, weight="bold")
    places = []
    for i in range(n_maps):
        left = longest + i % ACROSS * (side + BETWEEN)
        bottom = height - HEAD - (i // ACROSS + 1) * (side + BETWEEN + longest) + longest
        places.append(figure.add_axes((left / width, bottom / height, side / width, side / height)))
    left = longest + across * (side + BETWEEN)
    return (
        figure,
        places,
        figure.add_axes((left / width, (height - HEAD - BETWEEN - side) / height, 0.09 / width, side / height)),
    )


def write_attention_figure(hierarchy: Hierarchy, inputs: Any, path: str | Path, **options: Any) -> None:
    """Write the figure of `plot_words` if ``words`` is given, otherwise that of `plot_heads`.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    inputs : Tensor, tuple or dict
        As the network takes them.
    path : path
        The suffix chooses SVG, PNG or PDF.
    **options
        Arguments of `plot_words` or `plot_heads`.

    Raises
    ------
    NetgraphError
        As `plot_words` and `plot_heads` do.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import write_attention_figure
    >>> layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    >>> tokens = torch.randn(1, 3, 16)
    >>> hierarchy = ng.build_hierarchy(layer, tokens, n_levels=2)
    >>> write_attention_figure(hierarchy, tokens, "words.svg", words=["a", "good", "film"], head=1)
    """
    draw = plot_words if "words" in options else plot_heads
    save_figure(draw(hierarchy, inputs, **options), path)


def _measure_text(text: str, size: float, **font: Any) -> float:
    """Return the width of a text in inches at a size in points, plus a margin, because raster output sets letters wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, prop=FontProperties(size=size, **font)).get_extents().width) * 1.08 / 72


def _choose_head(
    layers: list[LayerAttention], layer: int, head: int, level: int
) -> tuple[LayerAttention, NDArray[Any]]:
    """Return a layer and the map of one of its coarse heads."""
    sizes = [len(one.maps[level]) if level in one.maps else 0 for one in layers]
    if 0 <= layer < len(layers) and level in layers[layer].merged:
        target = layers[layer].merged[level]
        other = next((i for i, one in enumerate(layers) if one.axis.startswith(f"{target}.")), 0)
        raise NetgraphError(
            f"layer {layer}, {layers[layer].axis}, has no heads of its own on level {level}, because its block merged into {target}. "
            f"Look at layer {other}, which belongs to that block."
        )
    if not 0 <= layer < len(layers) or not 0 <= head < sizes[layer]:
        raise NetgraphError(
            f"there is no head {head} of layer {layer}. Level {level} has {len(layers)} layers with "
            f"{', '.join(map(str, sizes))} heads, counted from 0."
        )
    return layers[layer], layers[layer].maps[level][head]


def _group_heads(layer: LayerAttention, level: int) -> Iterator[tuple[str, NDArray[Any], str, float]]:
    """Yield title, map, colour and right end of each head, fine heads of a group before their merged head."""
    fine, groups = layer.maps[0], layer.joined.get(level, np.full(len(layer.maps[0]), -1))
    right = 0.0
    for k, merged in enumerate(layer.maps.get(level, ())):
        members = [(f"head {i}", fine[i]) for i in np.flatnonzero(groups == k)]
        for title, weights in [*members, (f"→ {k}", merged)]:
            right += SIDE + NEAR
            yield title, weights, _choose_color(k), right
        right += APART
    for i in np.flatnonzero(groups < 0):
        right += SIDE + NEAR
        yield f"head {i}" if level in layer.merged else f"{i}, left out", fine[i], FAINT, right


def _choose_color(head: int) -> str:
    """Return the colour of a group of heads."""
    return OKABE_ITO[head % len(OKABE_ITO)]


def _draw_map(place: Any, weights: NDArray[Any], title: str, colour: str, scale: UniformCenteredScale) -> Any:
    """Draw one map with a frame in the colour of its group."""
    image = place.imshow(scale.to_positions(weights), vmin=0, vmax=1, interpolation="nearest")
    bold = "→" in title or "merged" in title
    place.set_title(title, fontsize=7, color=INK, fontweight="bold" if bold else "normal")
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
    return image


def _format_percent(share: float) -> str:
    """Return a share in percent, with one decimal below 10 %."""
    return f"{100 * share:.{0 if share >= 0.1 else 1}f}%"


def _draw_color_bar(figure: Any, image: Any, place: Any, scale: UniformCenteredScale) -> None:
    """Draw the colour bar with the ends and the middle of the scale."""
    bar = figure.colorbar(image, cax=place)
    least, even, most = (_format_percent(scale.to_share(x)) for x in (0, 0.5, 1))
    bar.set_ticks([0, 0.5, 1], labels=[f"≤ {least}", f"{even}, even", most])
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
