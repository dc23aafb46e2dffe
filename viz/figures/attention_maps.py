"""Attention maps of every level, and the matching of heads between levels: the data behind pictures of attention.

Row i of a map is the attention of token i and sums to one. Layers are matched between levels by the axis of their heads, so a
level may have fewer layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.affinity.head_attention import collect_attention, mask_words
from netgraph.analysis.attention_heads import find_attention_axes
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.network.functional_error import split_batches
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.viz.figures.drawing import compose_aggregates

AT_ONCE = 4  # texts in memory at a time, because maps of long texts are large


@dataclass(frozen=True)
class LayerAttention:
    """The heads of one layer on several levels.

    Parameters
    ----------
    axis : str
    maps : dict of int to array of shape (n_heads, tokens, tokens)
        By level. A level without the layer is not a key.
    joined : dict of int to int array of shape (n_heads,)
        For each coarse level with the layer, the head that each head of level 0 joined, or -1 if it was left out.
    merged : dict of int to str
        For each level without the layer, the name of the block that its block merged into.
    """

    axis: str
    maps: Mapping[int, NDArray[Any]]
    joined: Mapping[int, NDArray[np.int64]]
    merged: Mapping[int, str] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Number of tokens that any head of level 0 attends to. Padding comes after them."""
        return _count_tokens(self.maps[0].max(0))


def collect_layer_attention(hierarchy: Hierarchy, inputs: Any, levels: Iterable[int]) -> list[LayerAttention]:
    """Return the attention of every layer of level 0 as means over the rows of the inputs.

    Rows of padding tokens do not count.

    Parameters
    ----------
    hierarchy : Hierarchy
    inputs : Tensor, tuple or dict
        As the network takes them.
    levels : iterable of int
        Coarse levels to compare with.

    Returns
    -------
    list of LayerAttention

    Raises
    ------
    NetgraphError
        A level is missing or not coarse, there is no attention, some attention has no known heads, or the network does not run on the inputs.
    """
    coarse = [_check_level(hierarchy, level) for level in levels]
    maps = {level: _average_maps(hierarchy.levels[level], inputs) for level in (0, *coarse)}
    if not maps[0]:
        raise NetgraphError("the network has no layer with attention. Give the hierarchy of a transformer.")
    layers = []
    for axis, fine in maps[0].items():
        present = [level for level in coarse if axis in maps[level]]
        joined = {level: _match_heads(hierarchy, axis, level, len(fine)) for level in present}
        merged = {
            level: block
            for level in coarse
            if level not in present and (block := _find_merged_block(hierarchy, axis, level))
        }
        layers.append(LayerAttention(axis, {level: maps[level][axis] for level in (0, *present)}, joined, merged))
    return layers


def split_texts(inputs: Any, n: int, *, start: int = 0) -> list[Any]:
    """Return ``n`` rows of the inputs from ``start`` on, each as a batch of one."""
    return split_batches(inputs, 1)[start : start + n]


def _check_level(hierarchy: Hierarchy, level: int) -> int:
    """Return a coarse level counted from 0. Negative levels count from the end."""
    n = len(hierarchy.levels)
    if not -n <= level < n or level % n == 0:
        raise NetgraphError(f"level {level} is not coarse. Choose a level from 1 to {n - 1}.")
    return level % n


def _average_maps(level: Level, inputs: Any) -> dict[str, NDArray[Any]]:
    """Return the mean maps of each layer by the axis of its heads."""
    model = level.model
    network = model if isinstance(model, GraphNetwork) else coarse_network(model, level.spec, {})
    axes, total, n_rows = find_attention_axes(level.spec), list[Tensor](), list[Tensor]()
    was_training = network.training
    try:
        for batch in split_batches(inputs, AT_ONCE):
            weights = _run_network(network.eval(), batch)
            if not axes or len(axes) != len(weights):
                raise NetgraphError(
                    f"of {len(weights)} layers with attention, heads are found in {len(axes)}. Pictures of attention need a "
                    "network with known heads in every layer."
                )
            rows = [mask_words(maps) for maps in weights]  # each (rows, tokens)
            sums = [(maps * row[:, None, :, None]).sum(0) for maps, row in zip(weights, rows, strict=True)]
            counts = [row.sum(0) for row in rows]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
            n_rows = [a + b for a, b in zip(n_rows, counts, strict=True)] if n_rows else counts
    finally:
        network.train(was_training)
    means = [a / n.clamp(min=1)[:, None] for a, n in zip(total, n_rows, strict=True)]
    return {axis: np.asarray(mean.numpy()) for axis, mean in zip(axes, means, strict=True)}


def _run_network(network: GraphNetwork, batch: Any) -> list[Tensor]:
    """Return the attention weights of all layers for one batch."""
    try:
        with torch.no_grad():
            return collect_attention(network, batch)
    except NetgraphError:
        raise
    except Exception as error:  # operators raise many kinds
        raise NetgraphError(
            f"the network does not run on these inputs ({type(error).__name__}: {str(error)[:200]}). Give inputs that it "
            "takes. Texts need the tokenizer that it was trained with."
        ) from error


def _count_tokens(weights: NDArray[Any]) -> int:
    """Return the number of tokens up to the last one that is attended to."""
    return int(np.flatnonzero(weights.max(0) > 0).max(initial=0)) + 1


def _find_merged_block(hierarchy: Hierarchy, axis: str, level: int) -> str | None:
    """Return the block of a level that the block of an axis merged into, or None."""
    target = None
    for step in (step for above in hierarchy.levels[1 : level + 1] for step in above.chains):
        for kept in step.kept:
            if any(f"{target or axis}.".startswith(f"{block}.") for block in step.members(kept) if block != kept):
                target = kept
    return target


def _match_heads(hierarchy: Hierarchy, axis: str, level: int, n_heads: int) -> NDArray[np.int64]:
    """Return the head of a level that each query head of level 0 joined. Units may be groups of query heads."""
    units = compose_aggregates(hierarchy, axis)[level - 1]
    copies = np.arange(n_heads // len(units))
    return np.where(units[:, None] < 0, -1, units[:, None] * len(copies) + copies).ravel()
