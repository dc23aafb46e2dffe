"""Affinities: how alike two units of one axis are, as a sparse symmetric matrix of edge weights.

Up to `DENSE` units every pair is compared; beyond, each unit keeps its ``k`` nearest by blocked products, so that
no n × n matrix is ever formed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph.errors import NetgraphError

DENSE = 2048
BLOCK = 2048


def cosine(features: NDArray[Any], *, k: int = 32, seed: int = 0) -> sparse.csr_array:
    """Return ``(1 + cos) / 2`` between rows: their order is that of the cosine, and no edge is lost to a sign.

    A zero row has no edge: it is like nothing.

    Parameters
    ----------
    features : array of shape (n, d)
    k : int
        Neighbours that each unit keeps where n exceeds `DENSE`.
    seed : int
        Unused: nothing here is random.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal.

    Raises
    ------
    NetgraphError
        A feature is not finite.
    """
    x = _finite(features)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    alive = (lengths > 0).astype(x.dtype).ravel()

    def weigh(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        return np.asarray(np.clip((1 + products) / 2, 0, 1) * alive[i, None] * alive[None, j])

    return _graph(x, k, weigh)


def radial(features: NDArray[Any], *, k: int = 32, seed: int = 0) -> sparse.csr_array:
    """Return ``exp(-|x - y|² / 2 s²)``, s² the median squared distance of a sample of pairs."""
    x = _finite(features)
    squares = np.einsum("ij,ij->i", x, x)
    pairs = np.random.default_rng(seed).integers(0, len(x), (2, 1000))
    sample = squares[pairs[0]] + squares[pairs[1]] - 2 * np.einsum("ij,ij->i", x[pairs[0]], x[pairs[1]])
    scale = max(float(np.median(sample)), float(np.finfo(np.float32).tiny))

    def weigh(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        distance = np.maximum(squares[i, None] + squares[None, j] - 2 * products, 0)
        return np.asarray(np.exp(-distance / (2 * scale)))

    return _graph(x, k, weigh)


def _finite(features: NDArray[Any]) -> NDArray[Any]:
    x = np.ascontiguousarray(features, dtype=np.float32 if features.dtype != np.float64 else np.float64)
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).argmax())
        raise NetgraphError(
            f"unit {bad} has weights that are not finite; affinities need finite ones: mend the network"
        )
    return x


def _graph(x: NDArray[Any], k: int, weigh: Any) -> sparse.csr_array:
    n = len(x)
    if n <= DENSE:
        weights = np.asarray(weigh(x @ x.T, slice(0, n), slice(0, n)))
        np.fill_diagonal(weights, 0)
        return _complete(weights) if np.count_nonzero(weights > 1e-12) == n * (n - 1) else _sparse(weights)
    return _nearest(x, min(k, n - 1), weigh)


def _complete(weights: NDArray[Any]) -> sparse.csr_array:
    """Return the graph in which every pair has an edge, without a search for zeros."""
    n = len(weights)
    columns = np.tile(np.arange(n, dtype=np.int32), n)
    off = np.ones(n * n, dtype=bool)
    off[:: n + 1] = False
    starts = np.arange(0, n * (n - 1) + 1, max(n - 1, 1), dtype=np.int32)[: n + 1]
    if n == 1:
        starts = np.zeros(2, dtype=np.int32)
    return sparse.csr_array((weights.ravel()[off], columns[off], starts), shape=(n, n))


def _sparse(weights: NDArray[Any]) -> sparse.csr_array:
    weights[weights <= 1e-12] = 0
    return sparse.csr_array(weights)


def _nearest(x: NDArray[Any], k: int, weigh: Any) -> sparse.csr_array:
    n = len(x)
    rows, columns, values = [], [], []
    for start in range(0, n, BLOCK):
        here = slice(start, min(start + BLOCK, n))
        block = torch.from_numpy(np.asarray(weigh(x[here] @ x.T, here, slice(0, n))))
        block[torch.arange(block.shape[0]), torch.arange(start, here.stop)] = -1
        best = block.topk(k, dim=1)
        rows.append(np.repeat(np.arange(start, here.stop), k))
        columns.append(best.indices.numpy().ravel())
        values.append(best.values.numpy().ravel())
    r, c, v = (np.concatenate(a) for a in (rows, columns, values))
    found = v > 1e-12
    graph = sparse.csr_array((v[found], (r[found], c[found])), shape=(n, n))
    return sparse.csr_array(graph.maximum(graph.T))
