"""Affinity of heads by what they attend to on calibration data, whatever their weights are.

Two heads attend alike as far as their rows of attention overlap: Bhattacharyya's coefficient of both distributions
(Bull. Calcutta Math. Soc. 35, 1943), 1 where they are one and 0 where they share no token, the mean over all words::

    affinity = mean over words i of  sum_j sqrt(p_ij q_ij)

Clark et al., "What does BERT look at?", BlackboxNLP 2019, section 6, compare heads so by another divergence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from netgraph.affinity import similarity as affinity
from netgraph.analysis.attention_heads import find_attention_axes, find_heads
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import AxisUnits
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec

ATEN = torch.ops.aten
SDPA = ATEN.scaled_dot_product_attention.default
SOFTMAX = (ATEN.softmax.int, ATEN._softmax.default)
AT_ONCE = 4  # rows whose attention is compared at a time: that of long texts is large


def attention(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare heads by how far what they attend to overlaps; units that are no heads by `cosine`.

    Returns
    -------
    csr_array of shape (n, n)
        From 0 to 1, zero on the diagonal. The query heads of a group are compared one by one.

    Raises
    ------
    NetgraphError
        There are no data, or there is attention whose heads are not found.
    """
    if not find_heads(units.spec, units.axis):
        return affinity.cosine_graph(units.incoming, seed=seed)
    if units.seen is None:
        raise NetgraphError(
            "the affinity attention compares what heads attend to and was given no data; give some, or take circuits"
        )
    weights = np.clip(units.seen(measure_overlaps)[units.axis].numpy(), 0, 1)
    weights = np.minimum(weights, weights.T)
    np.fill_diagonal(weights, 0)
    return sparse.csr_array(weights)


def measure_overlaps(network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return how far the attention of every two heads of an axis overlaps, (n, n), the mean over words and layers.

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        With the network's sizes.
    batches : list

    Raises
    ------
    NetgraphError
        There is attention whose heads are not found.
    """
    axes = find_attention_axes(spec)
    total, counted = dict[str, Any](), dict[str, float]()
    for batch in batches:
        found = collect_attention(network, batch)
        if len(found) != len(axes):
            raise NetgraphError(
                f"of {len(found)} layers with attention, heads are found in {len(axes)}, and which is whose is not known; "
                "take the affinity circuits or cosine"
            )
        for axis, weights in zip(axes, found, strict=True):
            n = spec.sizes[axis]
            total[axis] = total.get(axis, 0) + sum(_sum_overlaps(part, n) for part in weights.split(AT_ONCE))
            counted[axis] = counted.get(axis, 0) + float(mask_words(weights).sum()) * weights.shape[1] / n
    return {axis: total[axis] / max(counted[axis], 1) for axis in total}


def _sum_overlaps(weights: Tensor, n: int) -> Tensor:
    """Return the sum over words of the coefficients of every two units, each of as many heads as stand in a row."""
    roots = weights.sqrt() * mask_words(weights)[:, None, :, None]
    flat = roots.unflatten(1, (n, -1)).movedim(1, 0).flatten(1)  # (n, rows · copies · tokens · tokens)
    return torch.mm(flat, flat.mT).double()


def mask_words(weights: Tensor) -> Tensor:
    """Return which tokens of each row are no padding, (rows, tokens): no head attends to what comes after the last that is."""
    seen = weights.amax((1, 2)) > 0  # (rows, tokens)
    last = seen.shape[1] - seen.flip(1).int().argmax(1)
    return (torch.arange(weights.shape[2]) < last[:, None]).to(weights)


def collect_attention(network: GraphNetwork, inputs: Any) -> list[Tensor]:
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
            found.append(_attention_weights(arguments, named))
        elif arguments[0].ndim == 4:  # a classifier ends in one as well
            found.append(arguments[0].float().softmax(arguments[1]))
    return [weights.detach().cpu() for weights in found]


def _attention_weights(arguments: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """Return the softmax of scaled scores, as `torch.nn.functional.scaled_dot_product_attention` describes it."""
    query, key, _, mask, _, causal = (*arguments, *(None,) * 6)[:6]
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (named.get("scale") or query.shape[-1] ** -0.5)
    if causal or named.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights: Tensor = scores.float().softmax(-1)
    return weights
