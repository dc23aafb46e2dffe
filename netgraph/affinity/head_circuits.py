"""Affinity of heads by the circuits that they compute, whatever basis each has inside.

A head attends by the scores x' W_Q' W_K y and moves W_O W_V y; rotations inside the head cancel in both products (Elhage et
al., "A mathematical framework for transformer circuits", 2021). For heads 1 and 2 they are compared by Frobenius' product,
through Gram matrices of the size of a head, and no matrix of the width squared is formed::

    <Q1' K1, Q2' K2> = tr((Q1 Q2') (K2 K1'))           Q, K, V (size, width), with biases as a column of Q, K and V
    <O1 V1,  O2 V2 > = tr((O1' O2) (V2 V1'))           O (width, size)

A key's bias adds the same to all scores of a query and is left out, unless rotary positions turn it. With them each pair of
numbers, as one complex number, has a circuit of its own; over all turns the mean of their products is
Re sum_f <q1_f, q2_f> conj <k1_f, k2_f> / 2. Queries or keys that are normed have gains that know numbers apart, and no
rotation cancels: both are compared in the basis that they have, <Q1, Q2> <K1, K2>.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from netgraph.affinity import similarity as affinity
from netgraph.analysis.attention_heads import Heads, HeadSlice, Index, find_heads
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import AxisUnits


def circuits(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare heads by the mean cosine of both their circuits; units that are no heads by `cosine`.

    Returns
    -------
    csr_array of shape (n, n)
        ``(1 + cos) / 2``, zero on the diagonal and for heads that compute nothing.

    Raises
    ------
    NetgraphError
        A weight is not finite.
    """
    found = find_heads(units.spec, units.axis)
    if not found:
        return affinity.cosine_graph(units.incoming, seed=seed)
    attending, moving = (
        _normalize_gram(sum(kernel)) for kernel in zip(*(multiply_circuits(h, units.state) for h in found), strict=True)
    )
    weights = np.clip(0.5 + (attending + moving) / 4, 0, 1)
    weights[(np.diagonal(attending) == 0) & (np.diagonal(moving) == 0)] = 0
    weights = np.minimum(weights, weights.T)
    np.fill_diagonal(weights, 0)
    return sparse.csr_array(weights)


def _normalize_gram(kernel: Any) -> NDArray[Any]:
    """Return the cosines of a Gram matrix; zero where a length is."""
    lengths = np.sqrt(np.maximum(np.diagonal(kernel), 0))
    if not np.isfinite(lengths).all():
        raise NetgraphError(
            f"head {int((~np.isfinite(lengths)).argmax())} has weights that are not finite, or overflow where they are "
            "multiplied; affinities need finite ones: mend the network"
        )
    inverse = 1 / np.where(lengths > 0, lengths, np.inf)
    return np.asarray(kernel * inverse[:, None] * inverse)


def multiply_circuits(heads: Heads, state: Mapping[str, Tensor]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the products of all heads' circuits with one another, attending and moving, each (n, n)."""
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
    return _trace_products(q, k, n) / 2 + still, _trace_products(out, value, n)  # half: the mean over all turns


def split_rotary_pairs(mates: Index) -> tuple[Index, Index, Index]:
    """Return both members of each pair that rotary positions turn, and the numbers that they leave alone."""
    numbers = np.arange(len(mates))
    first = np.flatnonzero(numbers < mates)
    return first, mates[first], np.flatnonzero(numbers == mates)


def gather_head_rows(part: HeadSlice, state: Mapping[str, Tensor]) -> Tensor:
    """Return the rows of heads, (units, copies, size, width), with the bias as one more column where there is one."""
    weight = state[part.weight].detach().movedim(part.dim, 0)
    weight = weight.to("cpu", torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if part.bias is not None:
        weight = torch.cat([weight, state[part.bias].detach().to(weight)[:, None]], 1)
    return weight[torch.from_numpy(part.index)]


def _trace_products(a: Tensor, b: Tensor, n: int) -> NDArray[Any]:
    """Return tr((a_i a_j') (b_j b_i')) over all pairs, copies added up; for complex rows, row by row of a head.

    ``a`` and ``b`` are (units, copies, size, width), either of one unit or one copy that all share.
    """
    copies = max(a.shape[1], b.shape[1])
    total = torch.zeros(n, n, dtype=torch.float64)
    for c in range(copies):
        x, y = (t[:, min(c, t.shape[1] - 1)].expand(n, *t.shape[2:]) for t in (a, b))
        for i in range(n):
            total[i] += (_trace_head_rows if x.is_complex() else _trace_heads)(x, y, i)
    return np.asarray((total + total.T).numpy()) / 2


def _trace_heads(x: Tensor, y: Tensor, i: int) -> Tensor:
    return ((x[i] @ x.mT) * (y[i] @ y.mT)).sum((1, 2))  # (size, width) @ (n, width, size)


def _trace_head_rows(x: Tensor, y: Tensor, i: int) -> Tensor:
    return ((x[i].conj() * x).sum(2) * (y[i] * y.conj()).sum(2)).real.sum(1)
