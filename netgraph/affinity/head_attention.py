"""Affinity of attention heads by the tokens they attend to on calibration data, regardless of their weights.

Two heads are alike as far as their attention distributions overlap. The overlap is Bhattacharyya's coefficient (Bull.
Calcutta Math. Soc. 35, 1943), 1 for equal distributions and 0 for disjoint ones, averaged over all words::

    affinity = mean over words i of  sum_j sqrt(p_ij q_ij)

Clark et al., "What does BERT look at?", BlackboxNLP 2019, section 6, compare heads in this way by another divergence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from netgraph.affinity.similarity import cosine_graph
from netgraph.analysis.attention_heads import find_attention_axes, find_heads
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import AxisUnits
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec

ATEN = torch.ops.aten
SDPA = ATEN.scaled_dot_product_attention.default
SOFTMAX = (ATEN.softmax.int, ATEN._softmax.default)
ROWS = 4  # rows whose attention is compared at a time: attention of long texts takes much memory


def attention(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare heads by the overlap of their attention distributions. Units that are not heads are compared by `cosine`.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis, with calibration data.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n, n)
        From 0 to 1, zero on the diagonal. The query heads of a group are compared one by one.

    Raises
    ------
    NetgraphError
        There are no calibration data, or the heads of some attention layer are not known.
    """
    if not find_heads(units.spec, units.axis):
        return cosine_graph(units.incoming, seed=seed)
    if units.seen is None:
        raise NetgraphError(
            "affinity 'attention' needs calibration data and got none. Pass data, or use affinity 'circuits'."
        )
    weights = np.clip(units.seen(measure_overlaps)[units.axis].numpy(), 0, 1)
    weights = np.minimum(weights, weights.T)
    np.fill_diagonal(weights, 0)
    return sparse.csr_array(weights)


def measure_overlaps(network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return the overlap of the attention of every two heads of each axis, averaged over words and layers.

    Parameters
    ----------
    network : GraphNetwork
        A level of a hierarchy, or the recorded graph of level 0.
    spec : UnitSpec
        Spec with the sizes of the network.
    batches : sequence of inputs

    Returns
    -------
    dict of str to Tensor of shape (n, n)
        Overlaps by axis.

    Raises
    ------
    NetgraphError
        The heads of some attention layer are not known.
    """
    axes = find_attention_axes(spec)
    totals, n_words = dict[str, Any](), dict[str, float]()
    for batch in batches:
        layers = collect_attention(network, batch)
        if len(layers) != len(axes):
            raise NetgraphError(
                f"heads were found in {len(axes)} of {len(layers)} attention layers, so attention weights cannot be matched "
                "to heads. Use affinity 'circuits' or 'cosine'."
            )
        for axis, weights in zip(axes, layers, strict=True):
            n = spec.sizes[axis]
            totals[axis] = totals.get(axis, 0) + sum(_sum_overlaps(part, n) for part in weights.split(ROWS))
            n_words[axis] = n_words.get(axis, 0) + float(mask_words(weights).sum()) * weights.shape[1] / n
    return {axis: totals[axis] / max(n_words[axis], 1) for axis in totals}


def _sum_overlaps(weights: Tensor, n: int) -> Tensor:
    """Return the coefficients of every two units, summed over words and over the heads that one unit stands for."""
    roots = weights.sqrt() * mask_words(weights)[:, None, :, None]
    flat = roots.unflatten(1, (n, -1)).movedim(1, 0).flatten(1)  # (n, rows · copies · tokens · tokens)
    return torch.mm(flat, flat.mT).double()


def mask_words(weights: Tensor) -> Tensor:
    """Return 1 for words and 0 for padding at the end, (rows, tokens). No head attends to a token of the padding."""
    seen = weights.amax((1, 2)) > 0  # (rows, tokens)
    last = seen.shape[1] - seen.flip(1).int().argmax(1)
    return (torch.arange(weights.shape[2]) < last[:, None]).to(weights)


def collect_attention(network: GraphNetwork, inputs: Any) -> list[Tensor]:
    """Return the attention weights of every layer, in the order in which the layers run.

    Parameters
    ----------
    network : GraphNetwork
        A level of a hierarchy, or the recorded graph of level 0.
    inputs : Tensor, tuple or dict
        Inputs as the network takes them.

    Returns
    -------
    list of Tensor of shape (rows, heads, tokens, tokens)
    """
    layers = []
    for stop in network.walk([inputs], (SDPA, *SOFTMAX)):
        arguments, named = stop.arguments[0], stop.keywords[0]
        if stop.function is SDPA:
            layers.append(_attention_weights(arguments, named))
        elif arguments[0].ndim == 4:  # the softmax of a classifier has fewer dimensions
            layers.append(arguments[0].float().softmax(arguments[1]))
    return [weights.detach().cpu() for weights in layers]


def _attention_weights(arguments: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """Return the softmax of scaled scores, as `torch.nn.functional.scaled_dot_product_attention` defines it."""
    query, key, _, mask, _, causal = (*arguments, *(None,) * 6)[:6]
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (named.get("scale") or query.shape[-1] ** -0.5)
    if causal or named.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights: Tensor = scores.float().softmax(-1)
    return weights
