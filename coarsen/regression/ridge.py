"""Ridge regression of a layer: weights that map the inputs of the coarse network to the outputs of the fine layer.

For the columns C that the coarse weights multiply (`netgraph.graph.im2col`) and the targets T::

    W, b = argmin |T - C W' - b|² + s |W - W_0|²          W_0 are the merged weights: the ridge pulls towards them
    W    = W_0 + (T - C W_0')' C (C' C + s I)^-1          of centred T and C, if there is a bias
    b    = mean T - W mean C

The strength s is the one of `STRENGTHS` with the smallest error on the inputs that are held out. The final fit uses all inputs.
There are three ways to the same solution (`netgraph.coarsen.regression.solve`), and none holds a matrix of more than `GRAM_BYTES`:

``sums``       here: the sums C' C, T' C and |T|² are kept, those of the inputs that are held out apart.
``dual``       `netgraph.coarsen.regression.dual_ridge`, for fewer rows than columns.
``gradients``  `netgraph.coarsen.regression.gradient_ridge`, where both are many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from netgraph.coarsen.regression.rows import RowBlock, count_chunk_rows, iterate_chunks

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # shares of the mean square of the columns
DEFAULT_STRENGTH = 1e-2  # if no inputs are held out
GRAM_BYTES = 256 * 2**20  # of the products of columns or of rows, in double precision: 5,792 of them


class RidgeFit(NamedTuple):
    """Weights (g, o, d) and bias (g, o) of a fit, |T - C W' - b|² before and after, and |T|²."""

    W: Tensor
    b: Tensor
    before: float
    after: float
    square: float

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors before and after."""
        return relative_error(self.before, self.square), relative_error(self.after, self.square)


def relative_error(rest: float, square: float) -> float:
    """Return the square root of a sum of squares over that of the targets."""
    return math.sqrt(max(rest, 0.0) / max(square, 1e-30))


def fits_in_memory(groups: int, size: int) -> bool:
    """Return True if a square matrix of doubles for each group has at most `GRAM_BYTES`."""
    return groups * size**2 * 8 <= GRAM_BYTES


@dataclass
class RegressionSums:
    """Sums over rows of columns and targets, for each group g of a layer.

    Parameters
    ----------
    n : int
        Number of rows.
    columns, targets : Tensor
        Sums of columns (g, d) and of targets (g, o).
    gram, cross : Tensor
        C' C (g, d, d) and T' C (g, o, d).
    square : float
        |T|².
    """

    n: int
    columns: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor
    square: float

    @classmethod
    def from_rows(cls, columns: Tensor, targets: Tensor) -> RegressionSums:
        """Return the sums of columns (n, g, d) and targets (n, g, o)."""
        (_, g, d), o = columns.shape, targets.shape[2]
        zero = torch.zeros((), dtype=torch.float64, device=columns.device)
        sums = [zero.new_zeros(shape) for shape in ((g, d), (g, o), (g, d, d), (g, o, d))]
        return cls(0, sums[0], sums[1], sums[2], sums[3], 0.0).add_rows(columns, targets)

    def add_rows(self, columns: Tensor, targets: Tensor) -> RegressionSums:
        """Add the sums of columns (n, g, d) and targets (n, g, o) in place.

        Products are formed in the precision of the columns, of values less their mean. The products of means are added in double precision.
        Columns far from 0 therefore lose no accuracy.
        """
        c, t = columns.movedim(1, 0), targets.double().movedim(1, 0)
        n, m, k = c.shape[1], c.mean(1, keepdim=True), t.mean(1, keepdim=True)
        c, rest, m = c - m, (t - k).to(c.dtype), m.double()
        self.gram.add_(c.mT @ c).baddbmm_(m.mT, m, alpha=n)
        self.cross.add_(rest.mT @ c).baddbmm_(k.mT, m, alpha=n)
        self.n, self.square = self.n + n, self.square + float(t.square().sum())
        self.columns.add_(n * m[:, 0])
        self.targets.add_(n * k[:, 0])
        return self

    def __add__(self, other: RegressionSums) -> RegressionSums:
        return RegressionSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __iadd__(self, other: RegressionSums) -> RegressionSums:
        self.n, self.square = self.n + other.n, self.square + other.square
        for name in ("columns", "targets", "gram", "cross"):
            getattr(self, name).add_(getattr(other, name))
        return self

    def center(self) -> tuple[Tensor, Tensor]:
        """Return C' C and T' C of centred columns and targets."""
        c, t = self.columns[:, None] / self.n, self.targets[:, None] / self.n
        return self.gram.baddbmm(c.mT, c, alpha=-self.n), self.cross.baddbmm(t.mT, c, alpha=-self.n)

    def fit_bias(self, W: Tensor, *, free: bool) -> Tensor:
        """Return the best bias (g, o) for weights (g, o, d). It is 0 unless the bias is ``free``."""
        best = (self.targets - self._multiply_columns(W)) / self.n
        return best if free else torch.zeros_like(best)

    def residual(self, W: Tensor, b: Tensor) -> float:
        """Return |T - C W' - b|²."""
        rest = self.square - 2 * (self.cross * W).sum() + ((W @ self.gram) * W).sum()
        rest += (b * (self.n * b + 2 * (self._multiply_columns(W) - self.targets))).sum()
        return max(float(rest), 0.0)

    def error(self, W: Tensor, b: Tensor) -> float:
        """Return |T - C W' - b| / |T|."""
        return relative_error(self.residual(W, b), self.square)

    def _multiply_columns(self, W: Tensor) -> Tensor:
        """Return W times the sums of columns."""
        return (W @ self.columns[:, :, None])[:, :, 0]


def solve_ridge(sums: RegressionSums, start: Tensor, strength: float, *, free: bool) -> tuple[Tensor, Tensor]:
    """Return weights (g, o, d) and bias (g, o) of the ridge regression.

    Parameters
    ----------
    sums : RegressionSums
    start : Tensor of shape (g, o, d)
        Weights that the ridge pulls towards.
    strength : float
        Share of the mean square of the columns.
    free : bool
        If there is a bias.
    """
    matrix, cross = sums.center() if free else (sums.gram.clone(), sums.cross)
    rest = (cross - start @ matrix).mT
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    diagonal += (strength * diagonal.mean(-1, keepdim=True)).clamp_min(1e-30)
    W = start + torch.linalg.solve(matrix, rest).mT
    return W, sums.fit_bias(W, free=free)


def choose_strength(fit: RegressionSums, held: RegressionSums, start: Tensor, *, free: bool) -> float:
    """Return the strength of the fit with the smallest error on the sums ``held`` out."""
    return min(STRENGTHS, key=lambda strength: held.error(*solve_ridge(fit, start, strength, free=free)))


def fit_sums(blocks: Iterable[RowBlock], start: Tensor, strength: float | None, *, free: bool) -> RidgeFit:
    """Fit weights by the sums of all rows.

    Parameters
    ----------
    blocks : iterable of RowBlock
    start : Tensor of shape (g, o, d)
        Weights that the ridge pulls towards.
    strength : float or None
        Share of the mean square of the columns. None chooses it on the rows that are held out.
    free : bool
        If there is a bias.
    """
    groups, o, d = start.shape
    start, parts = start.double(), dict[bool, RegressionSums]()
    for columns, targets, held_out in iterate_chunks(blocks, count_chunk_rows(groups, d, o)):
        if held_out in parts:
            parts[held_out].add_rows(columns, targets)
        else:
            parts[held_out] = RegressionSums.from_rows(columns, targets)
    total, held = parts[False], parts.pop(True, None)  # the first input of a batch is never held out
    if held is not None:
        strength = strength or choose_strength(total, held, start, free=free)
        total += held
        del held
    W, b = solve_ridge(total, start, strength or DEFAULT_STRENGTH, free=free)
    before = total.residual(start, total.fit_bias(start, free=free))
    return RidgeFit(W, b, before, total.residual(W, b), total.square)
