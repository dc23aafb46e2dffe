"""Ridge regression of a layer: weights that map the inputs of the coarse network to the outputs of the fine layer.

For the columns C that the coarse weights multiply (`netgraph.coarsen.repair.im2col`) and the targets T::

    W, b = argmin |T - C W' - b|² + s |W - W_0|²          W_0 are the merged weights: the ridge pulls towards them
    W    = W_0 + (T - C W_0')' C (C' C + s I)^-1          of centred T and C, if there is a bias
    b    = mean T - W mean C

Only the sums C' C, T' C and |T|² are kept. Those of the inputs that are held out are kept apart. The strength s is the one of
`STRENGTHS` with the smallest error on them. The final fit uses all inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # shares of the mean square of the columns
DEFAULT_STRENGTH = 1e-2  # if no inputs are held out


@dataclass(frozen=True)
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
        """Return the sums of columns (n, g, d) and targets (n, g, o).

        Products are formed in the precision of the columns, of values less their mean. The products of means are added in double precision.
        Columns far from 0 therefore lose no accuracy.
        """
        c, t = columns.movedim(1, 0), targets.double().movedim(1, 0)
        n, m, k = c.shape[1], c.mean(1, keepdim=True), t.mean(1, keepdim=True)
        c, rest, m = c - m, (t - k).to(c.dtype), m.double()
        gram, cross = (c.mT @ c).double() + n * m.mT @ m, (rest.mT @ c).double() + n * k.mT @ m
        return cls(n, n * m[:, 0], n * k[:, 0], gram, cross, float(t.square().sum()))

    def __add__(self, other: RegressionSums) -> RegressionSums:
        return RegressionSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def center(self) -> tuple[Tensor, Tensor]:
        """Return C' C and T' C of centred columns and targets."""
        c, t = self.columns[:, None] / self.n, self.targets[:, None] / self.n
        return self.gram - self.n * c.mT @ c, self.cross - self.n * t.mT @ c

    def fit_bias(self, W: Tensor, *, free: bool) -> Tensor:
        """Return the best bias (g, o) for weights (g, o, d). It is 0 unless the bias is ``free``."""
        best = (self.targets - self._multiply_columns(W)) / self.n
        return best if free else torch.zeros_like(best)

    def error(self, W: Tensor, b: Tensor) -> float:
        """Return |T - C W' - b| / |T|."""
        rest = self.square - 2 * (self.cross * W).sum() + ((W @ self.gram) * W).sum()
        rest += (b * (self.n * b + 2 * (self._multiply_columns(W) - self.targets))).sum()
        return math.sqrt(max(float(rest), 0.0) / max(self.square, 1e-30))

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
    gram, cross = sums.center() if free else (sums.gram, sums.cross)
    ridge = (strength * gram.diagonal(dim1=-2, dim2=-1).mean(-1)).clamp_min(1e-30)
    matrix = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    W = start + torch.linalg.solve(matrix, (cross - start @ gram).mT).mT
    return W, sums.fit_bias(W, free=free)


def choose_strength(fit: RegressionSums, held: RegressionSums, start: Tensor, *, free: bool) -> float:
    """Return the strength of the fit with the smallest error on the sums ``held`` out."""
    return min(STRENGTHS, key=lambda strength: held.error(*solve_ridge(fit, start, strength, free=free)))
