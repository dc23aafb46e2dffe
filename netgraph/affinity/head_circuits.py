"""Affinity of attention heads by the circuits that they compute, regardless of the basis inside each head.

A head attends by the scores x' W_Q' W_K y and moves W_O W_V y. Rotations inside the head cancel in both products (Elhage
et al., "A mathematical framework for transformer circuits", 2021). The circuits of heads 1 and 2 are compared by
Frobenius' inner product, through Gram matrices of the size of a head. No matrix of width × width is formed::

    <Q1' K1, Q2' K2> = tr((Q1 Q2') (K2 K1'))           Q, K, V (size, width), with biases as a column of Q, K and V
    <O1 V1,  O2 V2 > = tr((O1' O2) (V2 V1'))           O (width, size)

The bias of a key adds the same number to all scores of a query. It is left out unless rotary positions turn it. With
rotary positions, each pair of dimensions is one complex number and has a circuit of its own. The mean of their inner
products over all turns is Re sum_f <q1_f, q2_f> conj <k1_f, k2_f> / 2. A norm on queries or keys has one gain for each
dimension, so no rotation cancels. Both are then compared in the basis that they have, <Q1, Q2> <K1, K2>.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from netgraph.affinity.similarity import cosine_graph
from netgraph.analysis.attention_heads import Heads, HeadSlice, Index, find_heads
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import AxisUnits


def circuits(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare heads by the mean cosine of their two circuits. Units that are not heads are compared by `cosine`.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n, n)
        ``(1 + cos) / 2``, zero on the diagonal and for heads with two zero circuits.

    Raises
    ------
    NetgraphError
        A weight is not finite.
    """
    layers = find_heads(units.spec, units.axis)
    if not layers:
        return cosine_graph(units.incoming, seed=seed)
    query_key, value_out = (
        _normalize_gram(sum(kernel))
        for kernel in zip(*(multiply_circuits(heads, units.state) for heads in layers), strict=True)
    )
    weights = np.clip(0.5 + (query_key + value_out) / 4, 0, 1)
    weights[(np.diagonal(query_key) == 0) & (np.diagonal(value_out) == 0)] = 0
    weights = np.minimum(weights, weights.T)
    np.fill_diagonal(weights, 0)
    return sparse.csr_array(weights)


def _normalize_gram(kernel: Any) -> NDArray[Any]:
    """Return the cosines of a Gram matrix, zero for vectors of length zero."""
    lengths = np.sqrt(np.maximum(np.diagonal(kernel), 0))
    if not np.isfinite(lengths).all():
        raise NetgraphError(
            f"head {int((~np.isfinite(lengths)).argmax())} has weights that are not finite or overflow in a product. "
            "Affinities need finite weights: repair the network first."
        )
    inverse = 1 / np.where(lengths > 0, lengths, np.inf)
    return np.asarray(kernel * inverse[:, None] * inverse)


def multiply_circuits(heads: Heads, state: Mapping[str, Tensor]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the inner products of the query-key and of the value-out circuits of all heads, each (n, n)."""
    query, key, value, out = (
        gather_head_rows(part, state) for part in (heads.query, heads.key, heads.value, heads.out)
    )
    n, width = max(len(query), len(out)), state[heads.key.weight].shape[1 - heads.key.dim]
    if heads.normed:
        return _trace_products(query.flatten(2)[..., None, :], key.flatten(2)[..., None, :], n), _trace_products(
            out, value, n
        )
    if heads.mates is None:
        return _trace_products(query, key[..., :width], n), _trace_products(out, value, n)
    first, second, alone = split_rotary_pairs(heads.mates)
    q, k = (torch.complex(x[..., first, :], x[..., second, :]) for x in (query, key))
    still = _trace_products(query[..., alone, :], key[..., alone, :width], n)
    return _trace_products(q, k, n) / 2 + still, _trace_products(out, value, n)  # half of it: the mean over all turns


def split_rotary_pairs(mates: Index) -> tuple[Index, Index, Index]:
    """Return the first and second dimension of each pair that rotary positions turn, and the dimensions they leave."""
    numbers = np.arange(len(mates))
    first = np.flatnonzero(numbers < mates)
    return first, mates[first], np.flatnonzero(numbers == mates)


def gather_head_rows(part: HeadSlice, state: Mapping[str, Tensor]) -> Tensor:
    """Return the weight rows of each head, (units, copies, size, width). A bias is one more column."""
    weight = state[part.weight].detach().movedim(part.dim, 0)
    weight = weight.to("cpu", torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if part.bias is not None:
        weight = torch.cat([weight, state[part.bias].detach().to(weight)[:, None]], 1)
    return weight[torch.from_numpy(part.index)]


def _trace_products(a: Tensor, b: Tensor, n: int) -> NDArray[Any]:
    """Return tr((a_i a_j') (b_j b_i')) over all pairs of heads, summed over copies. Complex rows are compared one by one.

    ``a`` and ``b`` have the shape (units, copies, size, width). Either may have one unit or one copy that all share.
    """
    copies = max(a.shape[1], b.shape[1])
    total = torch.zeros(n, n, dtype=torch.float64)
    for c in range(copies):
        x, y = (t[:, min(c, t.shape[1] - 1)].expand(n, *t.shape[2:]) for t in (a, b))
        for i in range(n):
            total[i] += (_trace_head_rows if x.is_complex() else _trace_heads)(x, y, i)
    return np.asarray((total + total.T).numpy()) / 2


def _trace_heads(x: Tensor, y: Tensor, i: int) -> Tensor:
    """Return the inner products of the circuit of head i with those of all heads."""
    return ((x[i] @ x.mT) * (y[i] @ y.mT)).sum((1, 2))  # (size, width) @ (n, width, size)


def _trace_head_rows(x: Tensor, y: Tensor, i: int) -> Tensor:
    """Return the inner products of head i with all heads, each complex row as a circuit of its own."""
    return ((x[i].conj() * x).sum(2) * (y[i] * y.conj()).sum(2)).real.sum(1)
