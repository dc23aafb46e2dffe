"""Pictures of attention: every head of every layer, and one group of heads over the words of a text, fine against coarse.

Row i of a map is what token i attends to; rows add up to one, and the brightest place of a layer is yellow. Columns of
padding are left out. Heads that merge stand together, in one colour, with the coarse head that they became.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.coarsen.hierarchy import Hierarchy
from netgraph.coarsen.network import coarse_network
from netgraph.errors import NetgraphError
from netgraph.heads import attention_axes
from netgraph.program import GraphNetwork
from netgraph.viz.drawing import OKABE_ITO, chain, shown
from netgraph.viz.figures import FAINT, STYLE

ATEN = torch.ops.aten
SDPA = ATEN.scaled_dot_product_attention.default
SOFTMAX = (ATEN.softmax.int, ATEN._softmax.default)
WORDS = 40  # tokens that a map of words has at most


def patterns(network: GraphNetwork, inputs: Any) -> list[Tensor]:
    """Return the attention of every layer in the order in which they run, each (rows, heads, tokens, tokens).

    Parameters
    ----------
    network : GraphNetwork
        A level of a hierarchy; of level 0 its recorded graph.
    inputs : Tensor, tuple or dict
        As the network takes them.
    """
    found = []
    for stop in network.walk([inputs], (SDPA, *SOFTMAX)):
        arguments, named = stop.arguments[0], stop.keywords[0]
        if stop.function is SDPA:
            found.append(_weights(arguments, named))
        elif arguments[0].ndim == 4:  # a classifier ends in one as well
            found.append(arguments[0].float().softmax(arguments[1]))
    return found


def _weights(arguments: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """Return the softmax of scaled scores, as `torch.nn.functional.scaled_dot_product_attention` describes it."""
    query, key, _, mask, _, causal = (*arguments, *(None,) * 6)[:6]
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (named.get("scale") or query.shape[-1] ** -0.5)
    if causal or named.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)  # type: ignore[no-any-return]


def heads_figure(hierarchy: Hierarchy, inputs: Any, *, level: int = -1) -> Any:
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

    rows = _compared(hierarchy, inputs, level)
    across = max(len(fine) + len(coarse) for _, fine, coarse, _ in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.15 * across + 1.2, 1.35 * len(rows) + 0.5), layout="constrained")
        grid: Any = figure.subplots(len(rows), across, squeeze=False)
        for places, (axis, fine, coarse, groups) in zip(grid, rows, strict=True):
            fine, coarse = fine.mean(1), coarse.mean(1)
            seen = _seen(fine)
            for place, (title, weights, colour) in zip(places, _in_groups(fine, coarse, groups), strict=False):
                _map(place, weights[:seen, :seen], title, colour, max(fine.max(), coarse.max()))
            for place in places[len(fine) + len(coarse) :]:
                place.set_axis_off()
            places[0].set_ylabel(shown(axis, 24), fontsize=7)
        return figure


def words_figure(
    hierarchy: Hierarchy, inputs: Any, words: Sequence[str], *, layer: int = 0, head: int = 0, level: int = -1
) -> Any:
    """Return a figure of one coarse head and of the heads that it was, over the words of the first text.

    Parameters
    ----------
    hierarchy, inputs, level
        As for `heads_figure`.
    words : sequence of str
        The first text's tokens, as many as shall be seen; at most `WORDS` are.
    layer, head : int
        Which attention, in the order in which they run, and which of its coarse heads.

    Raises
    ------
    NetgraphError
        There is no such layer or head.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = _compared(hierarchy, inputs, level)
    if not 0 <= layer < len(rows) or not 0 <= head < len(rows[layer][2]):
        raise NetgraphError(
            f"there is no head {head} of layer {layer}; the level has {len(rows)} layers with "
            f"{', '.join(str(len(coarse)) for _, _, coarse, _ in rows)} heads, counted from 0"
        )
    axis, fine, coarse, groups = rows[layer]
    words = [shown(word, 14) for word in words[:WORDS]]
    maps = [(f"head {i}", fine[i]) for i in np.flatnonzero(groups == head)] + [(f"merged head {head}", coarse[head])]
    with matplotlib.rc_context(STYLE):
        size = 1.1 + 0.15 * len(words)
        figure = Figure(figsize=(size * len(maps) + 0.8, size + 0.9), layout="constrained")
        places: Any = figure.subplots(1, len(maps), squeeze=False)[0]
        for i, (place, (title, weights)) in enumerate(zip(places, maps, strict=True)):
            part, most = weights[0, : len(words), : len(words)], max(m[0].max() for _, m in maps)
            _map(place, part, title, OKABE_ITO[head % len(OKABE_ITO)], most)
            place.set_xticks(range(len(words)), words, rotation=90, fontsize=6)
            place.set_yticks(range(len(words)), words if i == 0 else [""] * len(words), fontsize=6)
        figure.suptitle(f"{shown(axis, 60)}: what each word (left) attends to (below)", fontsize=9)
        return figure


Row = tuple[str, NDArray[Any], NDArray[Any], NDArray[np.int64]]


def _compared(hierarchy: Hierarchy, inputs: Any, level: int) -> list[Row]:
    """Return for each layer its axis, fine and coarse maps (heads, rows, tokens, tokens), and the coarse head of each fine one."""
    levels = hierarchy.levels
    if not -len(levels) <= level < len(levels) or level % len(levels) == 0:
        raise NetgraphError(f"level {level} is not coarse; there are levels 1 to {len(levels) - 1}")
    first, place = levels[0], level % len(levels)
    axes = attention_axes(first.spec)
    fine, coarse = (
        patterns(network.eval(), inputs)
        for network in (coarse_network(first.model, first.spec, {}), levels[place].model)
        if isinstance(network, GraphNetwork)
    )
    if not axes or not len(axes) == len(fine) == len(coarse):
        raise NetgraphError(
            f"of {len(fine)} layers with attention, heads are found in {len(axes)}, and the coarse level has {len(coarse)} "
            "layers; pictures compare networks whose layers stayed and whose heads netgraph.heads finds"
        )
    heads = [
        chain(hierarchy, axis)[place - 1] if axis in levels[1].transfers else np.arange(len(x[0]))
        for axis, x in zip(axes, fine, strict=True)
    ]
    maps = [[x.transpose(0, 1).numpy() for x in found] for found in (fine, coarse)]
    grouped = [_by_unit(groups, len(x)) for groups, x in zip(heads, maps[0], strict=True)]
    return list(zip(axes, *maps, grouped, strict=True))


def _by_unit(groups: NDArray[np.int64], n_heads: int) -> NDArray[np.int64]:
    """Return the coarse head of each query head, where units are groups of query heads."""
    copies = n_heads // len(groups)
    return np.where(groups < 0, -1, groups * copies).repeat(copies) + np.tile(np.arange(copies), len(groups))


def _in_groups(fine: NDArray[Any], coarse: NDArray[Any], groups: NDArray[np.int64]) -> list[tuple[str, Any, str]]:
    """Return titles, maps and colours: the heads of each aggregate, and the coarse head that they became."""
    found: list[tuple[str, Any, str]] = []
    for k, merged in enumerate(coarse):
        colour = OKABE_ITO[k % len(OKABE_ITO)]
        found += [(f"head {i}", fine[i], colour) for i in np.flatnonzero(groups == k)]
        found.append((f"→ {k}", merged, colour))
    return found + [(f"head {i}, left out", fine[i], FAINT) for i in np.flatnonzero(groups < 0)]


def _seen(maps: NDArray[Any]) -> int:
    """Return how many tokens are attended to by any: padding comes last."""
    return int(np.flatnonzero(maps.max(axis=(0, 1)) > 0).max(initial=0)) + 1


def _map(place: Any, weights: NDArray[Any], title: str, colour: str, most: float) -> None:
    place.imshow(np.sqrt(weights / most), vmin=0, vmax=1, interpolation="nearest")  # roots, or the small all look alike
    place.set_title(
        title, fontsize=7, color="#222222", fontweight="bold" if "→" in title or "merged" in title else "normal"
    )
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
