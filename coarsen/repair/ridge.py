"""Ridge regression of a layer: the weights with which the coarse network's own inputs give what the fine layer answers.

For the columns C that the coarse weights multiply (`netgraph.coarsen.repair.im2col`) and the answers T that they should give::

    W, b = argmin |T - C W' - b|² + s |W - W_0|²          W_0 is what merging gave: there the ridge pulls to
    W    = W_0 + (T - C W_0')' C (C' C + s I)^-1          of centred T and C, where there is a bias
    b    = mean T - W mean C

Only the sums C' C, T' C and |T|² are kept, and those of some inputs apart: s is that of `STRENGTHS` which errs least on them;
then all are fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # shares of the columns' mean square
UNJUDGED = 1e-2  # where no inputs are held out


@dataclass(frozen=True)
class RegressionSums:
    """Sums over rows of columns and answers, for each group g of a layer.

    Parameters
    ----------
    n : int
        Rows.
    columns, answers : Tensor
        Their sums, (g, d) and (g, o).
    gram, cross : Tensor
        C' C (g, d, d) and T' C (g, o, d).
    square : float
        |T|².
    """

    n: int
    columns: Tensor
    answers: Tensor
    gram: Tensor
    cross: Tensor
    square: float

    @classmethod
    def of(cls, columns: Tensor, answers: Tensor) -> RegressionSums:
        """Return the sums of columns (n, g, d) and answers (n, g, o), products in the precision of the columns.

        What is multiplied is less its mean, and sums of means are added in double precision: columns far from 0 lose nothing.
        """
        c, t = columns.movedim(1, 0), answers.double().movedim(1, 0)
        n, m, k = c.shape[1], c.mean(1, keepdim=True), t.mean(1, keepdim=True)
        c, rest, m = c - m, (t - k).to(c.dtype), m.double()
        gram, cross = (c.mT @ c).double() + n * m.mT @ m, (rest.mT @ c).double() + n * k.mT @ m
        return cls(n, n * m[:, 0], n * k[:, 0], gram, cross, float(t.square().sum()))

    def __add__(self, other: RegressionSums) -> RegressionSums:
        return RegressionSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def center(self) -> tuple[Tensor, Tensor]:
        """Return C' C and T' C of columns and answers less their means."""
        c, t = self.columns[:, None] / self.n, self.answers[:, None] / self.n
        return self.gram - self.n * c.mT @ c, self.cross - self.n * t.mT @ c

    def bias(self, W: Tensor, *, free: bool) -> Tensor:
        """Return the best bias beside weights (g, o, d), 0 unless it is ``free``: (g, o)."""
        best = (self.answers - self._times(W)) / self.n
        return best if free else torch.zeros_like(best)

    def error(self, W: Tensor, b: Tensor) -> float:
        """Return |T - C W' - b| / |T|."""
        left = self.square - 2 * (self.cross * W).sum() + ((W @ self.gram) * W).sum()
        left += (b * (self.n * b + 2 * (self._times(W) - self.answers))).sum()
        return math.sqrt(max(float(left), 0.0) / max(self.square, 1e-30))

    def _times(self, W: Tensor) -> Tensor:
        return (W @ self.columns[:, :, None])[:, :, 0]


def solve_ridge(sums: RegressionSums, start: Tensor, strength: float, *, free: bool) -> tuple[Tensor, Tensor]:
    """Return weights (g, o, d) and bias (g, o) of the ridge that pulls to ``start``; ``free`` says if there is a bias."""
    gram, cross = sums.center() if free else (sums.gram, sums.cross)
    ridge = (strength * gram.diagonal(dim1=-2, dim2=-1).mean(-1)).clamp_min(1e-30)
    matrix = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    W = start + torch.linalg.solve(matrix, (cross - start @ gram).mT).mT
    return W, sums.bias(W, free=free)


def choose_strength(fit: RegressionSums, held: RegressionSums, start: Tensor, *, free: bool) -> float:
    """Return the strength whose fit errs least on what was held out."""
    return min(STRENGTHS, key=lambda strength: held.error(*solve_ridge(fit, start, strength, free=free)))
