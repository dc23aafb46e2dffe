"""Affinities: how alike two units of one axis are, as a sparse symmetric matrix of edge weights.

Up to `DENSE` units every pair is compared; beyond, each unit keeps its ``k`` nearest by blocked products, so that
no n × n matrix is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph.errors import NetgraphError

DENSE = 2048
NEIGHBOURS = 32
BLOCK = 2048

Weigh = Callable[[NDArray[Any], slice, slice], NDArray[Any]]


def cosine(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return ``(1 + cos) / 2`` between rows: their order is that of the cosine, and no edge is lost to a sign.

    A zero row has no edge: it is like nothing. Exact copies weigh exactly 1, other directions less.

    Parameters
    ----------
    features : array of shape (n, d)
    k : int, optional
        Neighbours that each unit keeps; by default all up to `DENSE` units, `NEIGHBOURS` of more.
    seed : int
        Unused: nothing here is random.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal.

    Raises
    ------
    NetgraphError
        A feature is not finite, or ``k`` is below 1.
    """
    x = _finite(features)
    x = x / _or_one(np.abs(x).max(axis=1, initial=0, keepdims=True))  # or the squares of large numbers overflow
    x /= _or_one(np.linalg.norm(x, axis=1, keepdims=True))
    alive = np.asarray(x.any(axis=1))
    return _graph(x, k, alive, lambda products, i, j: np.clip((1 + products) / 2, 0, 1))


def radial(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return ``exp(-|x - y|² / 2 s²)``, s² the median squared distance of a sample of pairs that differ.

    Parameters, and what a zero row and exact copies get, are those of `cosine`; ``seed`` draws the sample.
    """
    x = _finite(features)
    alive = np.asarray(x.any(axis=1))
    x = x / _or_one(np.abs(x).max(initial=0))
    x -= x.mean(axis=0) if len(x) else 0  # near the origin the differences of squares keep their digits
    squares = np.einsum("ij,ij->i", x, x)
    scale = _median_square(x[alive], seed)

    def weigh(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        distance = np.maximum(squares[i, None] + squares[None, j] - 2 * products, 0)
        return np.asarray(np.exp(-distance / (2 * scale)))

    return _graph(x, k, alive, weigh)


def _median_square(x: NDArray[Any], seed: int) -> Any:
    if len(x) < 2:
        return x.dtype.type(1)
    i, j = np.random.default_rng(seed).integers(0, len(x), (2, 1000))
    squares = np.square(x[i] - x[j]).sum(axis=1)
    return np.median(squares[squares > 0]) if squares.any() else x.dtype.type(1)


def _or_one(lengths: Any) -> Any:
    return np.where(lengths > 0, lengths, 1).astype(lengths.dtype)


def _finite(features: NDArray[Any]) -> NDArray[Any]:
    if features.ndim != 2:
        raise NetgraphError(f"features have shape {features.shape}; affinities need one row a unit: (n_units, d)")
    x = np.ascontiguousarray(features, dtype=np.float32 if features.dtype != np.float64 else np.float64)
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).argmax())
        raise NetgraphError(
            f"unit {bad} has weights that are not finite; affinities need finite ones: mend the network"
        )
    return x


def _graph(x: NDArray[Any], k: int | None, alive: NDArray[Any], weigh: Weigh) -> sparse.csr_array:
    n = len(x)
    if k is not None and k < 1:
        raise NetgraphError(f"k is {k}; a unit keeps at least one neighbour")
    weigh = _exact(weigh, _copies(x), alive)
    if n > DENSE or (k is not None and k < n - 1):
        return _nearest(x, min(k or NEIGHBOURS, n - 1), weigh)
    weights = weigh(x @ x.T, slice(0, n), slice(0, n))
    np.fill_diagonal(weights, 0)
    return _complete(weights) if np.count_nonzero(weights) == n * (n - 1) else sparse.csr_array(weights)


def _exact(weigh: Weigh, copies: NDArray[np.int64] | None, alive: NDArray[Any]) -> Weigh:
    """Give copies the weight 1 and all others less, whatever the products were rounded to; the dead, none."""
    all_alive = bool(alive.all())

    def weigh_exactly(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        one = products.dtype.type(1)
        weights = np.minimum(weigh(products, i, j), np.nextafter(one, 0 * one))
        if copies is not None:
            weights[copies[i, None] == copies[None, j]] = 1
        return weights if all_alive else np.asarray(weights * (alive[i, None] & alive[None, j]))

    return weigh_exactly


def _copies(x: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return a number for each row that its copies share; None where no two rows are alike."""
    if not x.size:
        return None
    rows = np.ascontiguousarray(x + 0)  # -0 becomes 0
    rows = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    found, number = np.unique(rows, return_inverse=True)
    return None if len(found) == len(x) else number.astype(np.int64)


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


def _nearest(x: NDArray[Any], k: int, weigh: Weigh) -> sparse.csr_array:
    """Keep the k heaviest edges of each unit. A block of pairs serves its rows and, transposed, its columns."""
    n = len(x)
    best = torch.full((n, k), -1, dtype=torch.from_numpy(x[:0]).dtype)
    where = torch.zeros((n, k), dtype=torch.int64)
    blocks = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    for number, i in enumerate(blocks):
        for j in blocks[number:]:
            block = torch.from_numpy(weigh(x[i] @ x[j].T, i, j))
            if i == j:
                block.fill_diagonal_(-1)
            else:
                _keep(best[j], where[j], block.T, i.start)
            _keep(best[i], where[i], block, j.start)
    return _united(best.numpy(), where.numpy())


def _keep(best: torch.Tensor, where: torch.Tensor, block: torch.Tensor, start: int) -> None:
    """Write into ``best`` and ``where`` the heaviest of what they hold and of a block's columns."""
    k = best.shape[1]
    new = block.topk(min(k, block.shape[1]), dim=1)
    both, columns = torch.cat([best, new.values], 1), torch.cat([where, new.indices + start], 1)
    kept = both.topk(k, dim=1)
    best.copy_(kept.values)
    where.copy_(columns.gather(1, kept.indices))


def _united(best: NDArray[Any], where: NDArray[np.int64]) -> sparse.csr_array:
    """Return the graph of the edges that either end keeps."""
    n, k = best.shape
    found = best.ravel() > 0
    rows = np.repeat(np.arange(n), k)[found]
    graph = sparse.csr_array((best.ravel()[found], (rows, where.ravel()[found])), shape=(n, n))
    return sparse.csr_array(graph.maximum(graph.T))
