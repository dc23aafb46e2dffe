"""What every head attends to, level by level, and which heads became which: what pictures of attention are drawn from.

Row i of a map is what token i attends to, and adds up to one. Layers are known from level to level by the axis of their
heads, so that a level may have fewer of them.
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

AT_ONCE = 4  # texts whose maps are in memory together: a long text's are large


@dataclass(frozen=True)
class LayerAttention:
    """One layer's heads on several levels.

    Parameters
    ----------
    axis : str
    maps : dict of int to array of shape (n_heads, tokens, tokens)
        By level; levels that lack the layer are not in it.
    joined : dict of int to int array of shape (n_heads,)
        For each coarse level that has the layer, which of its heads each head of level 0 joined; -1 where it was left out.
    merged : dict of int to str
        For each level that lacks the layer because its block merged into another, the name of that block.
    """

    axis: str
    maps: Mapping[int, NDArray[Any]]
    joined: Mapping[int, NDArray[np.int64]]
    merged: Mapping[int, str] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """How many tokens any head of level 0 attends to: padding comes last."""
        return _count_tokens(self.maps[0].max(0))


def collect_layer_attention(hierarchy: Hierarchy, inputs: Any, levels: Iterable[int]) -> list[LayerAttention]:
    """Return the attention of every layer of level 0, the mean over the rows of the inputs; padding's own rows count nothing.

    Parameters
    ----------
    hierarchy : Hierarchy
    inputs : Tensor, tuple or dict
        As the network takes them.
    levels : iterable of int
        Coarse levels to compare with.

    Raises
    ------
    NetgraphError
        A level is not there or not coarse, attention is found whose heads are not, or the network does not run.
    """
    chosen = [_check_level(hierarchy, level) for level in levels]
    maps = {level: _average_maps(hierarchy.levels[level], inputs) for level in (0, *chosen)}
    found = []
    for axis, fine in maps[0].items():
        here = [level for level in chosen if axis in maps[level]]
        joined = {level: _match_heads(hierarchy, axis, level, len(fine)) for level in here}
        merged = {
            level: into
            for level in chosen
            if level not in here and (into := _find_merged_block(hierarchy, axis, level))
        }
        found.append(LayerAttention(axis, {level: maps[level][axis] for level in (0, *here)}, joined, merged))
    return found


def split_texts(inputs: Any, n: int, *, start: int = 0) -> list[Any]:
    """Return some rows of inputs, each by itself."""
    return split_batches(inputs, 1)[start : start + n]


def _check_level(hierarchy: Hierarchy, level: int) -> int:
    n = len(hierarchy.levels)
    if not -n <= level < n or level % n == 0:
        raise NetgraphError(f"level {level} is not coarse; there are levels 1 to {n - 1}")
    return level % n


def _average_maps(level: Level, inputs: Any) -> dict[str, NDArray[Any]]:
    """Return each layer's mean maps by the axis of its heads."""
    model = level.model
    network = model if isinstance(model, GraphNetwork) else coarse_network(model, level.spec, {})
    axes, total, counted = find_attention_axes(level.spec), list[Tensor](), list[Tensor]()
    was_training = network.training
    try:
        for batch in split_batches(inputs, AT_ONCE):
            found = _run_network(network.eval(), batch)
            if not axes or len(axes) != len(found):
                raise NetgraphError(
                    f"of {len(found)} layers with attention, heads are found in {len(axes)}; pictures of attention need a "
                    "network whose heads netgraph.analysis.attention_heads finds in every layer"
                )
            rows = [mask_words(weights) for weights in found]  # each (rows, tokens)
            sums = [(weights * row[:, None, :, None]).sum(0) for weights, row in zip(found, rows, strict=True)]
            counts = [row.sum(0) for row in rows]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
            counted = [a + b for a, b in zip(counted, counts, strict=True)] if counted else counts
    finally:
        network.train(was_training)
    means = [a / n.clamp(min=1)[:, None] for a, n in zip(total, counted, strict=True)]
    return {axis: np.asarray(mean.numpy()) for axis, mean in zip(axes, means, strict=True)}


def _run_network(network: GraphNetwork, batch: Any) -> list[Tensor]:
    try:
        with torch.no_grad():
            return collect_attention(network, batch)
    except NetgraphError:
        raise
    except Exception as error:  # operators raise many kinds
        raise NetgraphError(
            f"the network does not run on these inputs ({type(error).__name__}: {str(error)[:200]}); give what it takes: "
            "texts need the tokenizer that it was trained with"
        ) from error


def _count_tokens(weights: NDArray[Any]) -> int:
    return int(np.flatnonzero(weights.max(0) > 0).max(initial=0)) + 1


def _find_merged_block(hierarchy: Hierarchy, axis: str, level: int) -> str | None:
    """Return the block of a level into which the block of an axis merged, None where it did not."""
    into = None
    for step in (step for above in hierarchy.levels[1 : level + 1] for step in above.chains):
        for kept in step.kept:
            if any(f"{into or axis}.".startswith(f"{block}.") for block in step.members(kept) if block != kept):
                into = kept
    return into


def _match_heads(hierarchy: Hierarchy, axis: str, level: int, n_heads: int) -> NDArray[np.int64]:
    """Return the head of a level that each query head of level 0 joined, where units are groups of query heads."""
    units = compose_aggregates(hierarchy, axis)[level - 1]
    copies = np.arange(n_heads // len(units))
    return np.where(units[:, None] < 0, -1, units[:, None] * len(copies) + copies).ravel()
