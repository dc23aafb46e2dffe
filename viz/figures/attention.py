"""Pictures of attention: every head of every layer, and one group of heads over the words of a text, fine against coarse.

Row i of a map is what token i attends to; even attention is the middle of the colours (`netgraph.viz.figures.color_scale`), and the brightest
place of a layer is yellow. Columns of padding are left out.
Heads that merge stand together, in one colour, with the coarse head that they became.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.viz.figures.attention_maps import LayerAttention, collect_layer_attention, split_texts
from netgraph.viz.figures.color_scale import UniformCenteredScale
from netgraph.viz.figures.drawing import OKABE_ITO, format_label
from netgraph.viz.figures.hierarchy import FAINT, INK, STYLE, save_figure

WORDS = 40  # tokens that a map of words has at most
ACROSS = 3  # maps of words in a row
SIDE, NEAR, APART = 0.95, 0.07, 0.16  # inches: a map of the overview, and what is between maps, and more between groups
ROW, HEAD, MARGIN, LEAST = 1.28, 0.34, 0.4, 5.0
CELL, SMALLEST, BETWEEN, BAR = 0.125, 1.0, 0.28, 0.75  # inches of a map over words, and of what is around it
TITLE = "What tokens (down) attend to (across): level 0, and → level {}"


def plot_heads(hierarchy: Hierarchy, inputs: Any, *, level: int = -1) -> Any:
    """Return a `matplotlib.figure.Figure`: layers down, heads across, those that merge side by side and before what they became.

    Parameters
    ----------
    hierarchy : Hierarchy
    inputs : Tensor, tuple or dict
        As the network takes them; maps are means over the rows.
    level : int
        The coarse level beside level 0.

    Raises
    ------
    NetgraphError
        The network has no attention whose heads are found, or the level is not there.
    """
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
            scale = UniformCenteredScale.of(layer.maps.values(), layer.seen)
            bottom = height - HEAD - (i + 1) * ROW + 0.1
            for title, weights, colour, right in row:
                box = ((MARGIN + right - SIDE) / width, bottom / height, SIDE / width, SIDE / height)
                place: Any = figure.add_axes(box)
                _draw_map(place, weights[: layer.seen, : layer.seen], title, colour, scale)
            first = figure.axes[-len(row)]
            said = f"even {_format_percent(scale.even)}, brightest {_format_percent(scale.share(1))}"
            said = f"block merged into {format_label(layer.merged[level], 12)}" if level in layer.merged else said
            first.set_ylabel(f"{format_label(layer.axis, 26)}\n{said}", fontsize=5.5)
        return figure


def plot_words(
    hierarchy: Hierarchy, inputs: Any, words: Sequence[str], *, layer: int = 0, head: int = 0, level: int = -1
) -> Any:
    """Return a figure of one coarse head and of the heads that it was, over the words of the first text.

    Parameters
    ----------
    hierarchy, inputs, level
        As for `plot_heads`.
    words : sequence of str
        The first text's tokens, as many as shall be seen; at most `WORDS` are. Without any, places are numbered.
    layer, head : int
        Which attention, in the order in which they run, and which of its coarse heads.

    Raises
    ------
    NetgraphError
        There is no such layer or head.
    """
    import matplotlib

    found = collect_layer_attention(hierarchy, split_texts(inputs, 1)[0], [level])
    level %= len(hierarchy.levels)
    chosen, merged = _choose_head(found, layer, head, level)
    words = [format_label(word, 14) for word in words or map(str, range(chosen.seen))][:WORDS]
    n = len(words)
    members = [(f"head {i}", chosen.maps[0][i, :n, :n]) for i in np.flatnonzero(chosen.joined[level] == head)]
    maps = [*members, (f"merged head {head}", merged[:n, :n])]
    scale = UniformCenteredScale.of((weights for _, weights in maps), chosen.seen)
    name = f"{format_label(chosen.axis, 60)}: what each word (left) attends to (below), level 0 and level {level}"
    with matplotlib.rc_context(STYLE):
        figure, places, bar = _lay_out_maps(len(maps), words, name)
        for i, (place, (title, weights)) in enumerate(zip(places, maps, strict=True)):
            image = _draw_map(place, weights, title, _choose_color(head), scale)
            place.set_xticks(range(n), words, rotation=90, fontsize=6)
            place.set_yticks(range(n), words if i % ACROSS == 0 else [""] * n, fontsize=6)
        _draw_color_bar(figure, image, bar, scale)
        return figure


def _lay_out_maps(n_maps: int, words: Sequence[str], title: str) -> tuple[Any, list[Any], Any]:
    """Return a figure with places for maps over words and for the bar of colours: room for the longest word left of and below each."""
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
    """Write `plot_words` where ``words`` are given, else `plot_heads`, as SVG, PNG or PDF."""
    draw = plot_words if "words" in options else plot_heads
    save_figure(draw(hierarchy, inputs, **options), path)


def _measure_text(text: str, size: float, **font: Any) -> float:
    """Return how long a text is in a size of points, and some more: letters are set wider on a raster."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, prop=FontProperties(size=size, **font)).get_extents().width) * 1.08 / 72


def _choose_head(found: list[LayerAttention], layer: int, head: int, level: int) -> tuple[LayerAttention, NDArray[Any]]:
    """Return a layer and the map of one of its coarse heads."""
    sizes = [len(one.maps[level]) if level in one.maps else 0 for one in found]
    if 0 <= layer < len(found) and level in found[layer].merged:
        into = found[layer].merged[level]
        there = next((i for i, one in enumerate(found) if one.axis.startswith(f"{into}.")), 0)
        raise NetgraphError(
            f"layer {layer}, {found[layer].axis}, has no heads of its own on level {level}: its block merged into {into}; look at "
            f"layer {there}, which is that block's"
        )
    if not 0 <= layer < len(found) or not 0 <= head < sizes[layer]:
        raise NetgraphError(
            f"there is no head {head} of layer {layer}; level {level} has {len(found)} layers with "
            f"{', '.join(map(str, sizes))} heads, counted from 0"
        )
    return found[layer], found[layer].maps[level][head]


def _group_heads(layer: LayerAttention, level: int) -> Iterator[tuple[str, NDArray[Any], str, float]]:
    """Yield title, map, colour and right end: the heads of each aggregate, and the coarse head that they became."""
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
    return OKABE_ITO[head % len(OKABE_ITO)]


def _draw_map(place: Any, weights: NDArray[Any], title: str, colour: str, scale: UniformCenteredScale) -> Any:
    image = place.imshow(scale.places(weights), vmin=0, vmax=1, interpolation="nearest")
    bold = "→" in title or "merged" in title
    place.set_title(title, fontsize=7, color=INK, fontweight="bold" if bold else "normal")
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
    return image


def _format_percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f}%"


def _draw_color_bar(figure: Any, image: Any, place: Any, scale: UniformCenteredScale) -> None:
    bar = figure.colorbar(image, cax=place)
    least, even, most = (_format_percent(scale.share(x)) for x in (0, 0.5, 1))
    bar.set_ticks([0, 0.5, 1], labels=[f"≤ {least}", f"{even}, even", most])
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
