"""Ridge regression for fewer rows than columns, by the products of rows.

With n rows, C C' is n times n, and the solution is exact (Saunders, Gammerman, Vovk, "Ridge regression learning algorithm in dual
variables", ICML 1998)::

    E = T - C W_0'                        centred, if there is a bias, as are the columns
    A = (C C' + s I)^-1 E
    W = W_0 + A' C

Rows that are held out are judged without weights: their error is E_h - C_h C' A. Columns are made a chunk of rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from netgraph.coarsen.regression.ridge import DEFAULT_STRENGTH, GRAM_BYTES, STRENGTHS, RidgeFit
from netgraph.coarsen.regression.rows import RowBlock, average_columns, count_chunk_rows, gather_chunks, iterate_chunks


def fit_dual(blocks: Sequence[RowBlock], start: Tensor, strength: float | None, *, free: bool) -> RidgeFit:
    """Fit weights by the products of rows. Parameters are those of `netgraph.coarsen.regression.ridge.fit_sums`."""
    groups, o, d = start.shape
    size = count_chunk_rows(groups, d, o)
    mean, _, _ = average_columns(blocks, size)
    mean = mean if free else torch.zeros_like(mean)
    K = _multiply_rows(blocks, mean.to(start), size)
    E, held_out, square = _compute_rest(blocks, start, mean.to(start), size)
    if strength is None:
        strength = _choose_strength(K, E, held_out, d, free=free)
    level = E.mean(1, keepdim=True) if free else torch.zeros_like(E[:, :1])
    E -= level
    A = _solve(K, E, strength, d)
    W, first = start.clone(), 0
    for columns, _, _ in iterate_chunks(blocks, size):
        rows = slice(first, first + len(columns))
        W += A[:, rows].mT.to(W) @ (columns - mean.to(W)).movedim(1, 0)
        first = rows.stop
    b = level[:, 0] - (W.double() @ mean[:, :, None])[:, :, 0]
    return RidgeFit(W, b, float(E.square().sum()), float((E - K @ A).square().sum()), square)


def _multiply_rows(blocks: Sequence[RowBlock], mean: Tensor, size: int) -> Tensor:
    """Return the products of all rows less the mean of the columns, (g, n, n)."""
    n, (groups, d) = sum(len(block.held_out) for block in blocks), mean.shape
    K, first = torch.zeros(groups, n, n, dtype=torch.float64, device=mean.device), 0
    for wide in gather_chunks(blocks, size, GRAM_BYTES // (8 * groups * d)):
        i, j = slice(first, first + len(wide)), 0
        outer = (wide - mean).movedim(1, 0)
        for columns, _, _ in iterate_chunks(blocks, size):
            if j >= i.stop:
                break
            product = outer @ (columns - mean).movedim(1, 0).mT
            K[:, i, j : j + len(columns)] = product
            K[:, j : j + len(columns), i] = product.mT
            j += len(columns)
        first = i.stop
    return K


def _compute_rest(blocks: Sequence[RowBlock], start: Tensor, mean: Tensor, size: int) -> tuple[Tensor, Tensor, float]:
    """Return T - C W_0' (g, n, o) of columns less their mean, a mask of the rows that are held out, and |T|²."""
    rest, held, square = [], [], 0.0
    for columns, targets, held_out in iterate_chunks(blocks, size):
        square += float(targets.double().square().sum())
        rest.append(targets.double().movedim(1, 0) - (columns - mean).movedim(1, 0) @ start.mT)
        held += [held_out] * len(columns)
    return torch.cat(rest, 1), torch.tensor(held, device=start.device), square


def _choose_strength(K: Tensor, E: Tensor, held_out: Tensor, d: int, *, free: bool) -> float:
    """Return the strength with the smallest error on the rows that are held out."""
    fit, held = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    if not len(held):
        return DEFAULT_STRENGTH
    inner, across = K[:, fit[:, None], fit], K[:, held[:, None], fit]
    E_f, E_h = E[:, fit], E[:, held]
    if free:  # less the means of the rows of the fit
        of_fit = inner.mean(1, keepdim=True)
        level = of_fit.mean(2, keepdim=True)
        across = across - across.mean(2, keepdim=True) - of_fit + level
        inner = inner - of_fit - of_fit.mT + level
        E_f, E_h = E_f - E_f.mean(1, keepdim=True), E_h - E_f.mean(1, keepdim=True)
    return min(STRENGTHS, key=lambda strength: float((E_h - across @ _solve(inner, E_f, strength, d)).square().sum()))


def _solve(K: Tensor, E: Tensor, strength: float, d: int) -> Tensor:
    """Return (K + s I)^-1 E, (g, n, o). The strength is a share of the mean square of the d columns."""
    matrix = K.clone()
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    diagonal += (strength * diagonal.sum(-1, keepdim=True) / d).clamp_min(1e-30)
    solution: Tensor = torch.linalg.solve(matrix, E)
    return solution
