"""Ridge regression for many rows and many columns, by conjugate gradients on the normal equations.

No matrix of products is formed. Each product with C' C makes the columns again, a chunk of rows at a time::

    (C' C + s I) D = C' (T - C W_0')         W = W_0 + D, of centred C and T if there is a bias

All outputs go through one pass, each with step lengths of its own, preconditioned by the diagonal (Golub and Van Loan, Matrix
Computations, 4th edition, section 11.5). A fit ends at a gradient of `TOLERANCE` times the first one, or after `STEPS` products.
Each step reduces the error, so that a fit that ends early is also better than the merged weights. Strengths are tried from
the largest to the smallest, each from the solution of the one before, until the error on inputs that are held out rises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from netgraph.coarsen.regression.ridge import DEFAULT_STRENGTH, GRAM_BYTES, STRENGTHS, RidgeFit
from netgraph.coarsen.regression.rows import RowBlock, average_columns, count_chunk_rows, iterate_chunks

STEPS = 100
TOLERANCE = 100  # in units of the precision of the columns: 1.2e-5 in single precision, 2.2e-14 in double
VECTORS = 6  # of one weight each in double precision, in a fit


def fit_by_gradients(blocks: Sequence[RowBlock], start: Tensor, strength: float | None, *, free: bool) -> RidgeFit:
    """Fit weights by conjugate gradients. Parameters are those of `netgraph.coarsen.regression.ridge.fit_sums`."""
    D = torch.zeros_like(start)
    if strength is None:
        strength = _choose_strength(blocks, start, D, free=free)
    system = _NormalEquations.from_rows(blocks, start, (False, True), free=free)
    before, square = system.residual(torch.zeros_like(D), (False, True))
    system.solve(D, strength)
    after, _ = system.residual(D, (False, True))
    W = start + D
    b = system.level - (W.double() @ system.mean[:, :, None])[:, :, 0]
    return RidgeFit(W, b, before, after, square)


def _choose_strength(blocks: Sequence[RowBlock], start: Tensor, D: Tensor, *, free: bool) -> float:
    """Return the strength after which the error on the rows that are held out rises. D becomes the solution of the last one."""
    if not any(bool(block.held_out.any()) for block in blocks):
        return DEFAULT_STRENGTH
    system = _NormalEquations.from_rows(blocks, start, (False,), free=free)
    best, chosen = float("inf"), DEFAULT_STRENGTH
    for strength in sorted(STRENGTHS, reverse=True):
        system.solve(D, strength)
        rest, _ = system.residual(D, (True,))
        if rest > best:
            break
        best, chosen = rest, strength
    return chosen


@dataclass(frozen=True)
class _NormalEquations:
    """The normal equations of some of the rows.

    ``mean`` (g, d) and ``level`` (g, o) are the means of columns and targets, or zeros without a bias. ``diagonal`` (g, d) is
    that of C' C.
    """

    blocks: Sequence[RowBlock]
    start: Tensor
    parts: tuple[bool, ...]
    mean: Tensor
    level: Tensor
    diagonal: Tensor
    size: int

    @classmethod
    def from_rows(
        cls, blocks: Sequence[RowBlock], start: Tensor, parts: tuple[bool, ...], *, free: bool
    ) -> _NormalEquations:
        groups, o, d = start.shape
        size = count_chunk_rows(groups, d, o)
        mean, level, _ = average_columns(blocks, size, parts)
        if not free:
            mean, level = torch.zeros_like(mean), torch.zeros_like(level)
        diagonal = torch.zeros_like(mean)
        for columns, _, _ in iterate_chunks(blocks, size, parts):
            diagonal += (columns - mean.to(columns)).square().sum(0)
        return cls(blocks, start, parts, mean, level, diagonal, size)

    def solve(self, D: Tensor, strength: float) -> None:
        """Solve for the change D (g, o, d) of the weights in place, some outputs at a time."""
        groups, o, d = D.shape
        ridge = (strength * self.diagonal.mean(-1)).clamp_min(1e-30)[:, None, None]
        for outputs in torch.arange(o).split(max(1, GRAM_BYTES // (8 * VECTORS * groups * d))):
            self._solve_outputs(D, slice(int(outputs[0]), int(outputs[-1]) + 1), ridge)

    def _solve_outputs(self, D: Tensor, outputs: slice, ridge: Tensor) -> None:
        """Solve for the rows ``outputs`` of D."""
        W, D = self.start[:, outputs], D[:, outputs]
        R = self._pull(W, outputs)  # the gradient at the merged weights
        bound = TOLERANCE * torch.finfo(D.dtype).eps * R.norm(dim=2, keepdim=True)
        if D.any():
            R = self._pull(W + D, outputs) - ridge * D
        scale = self.diagonal[:, None] + ridge
        P = R / scale
        square = (R * P).sum(2, keepdim=True)
        for _ in range(STEPS):
            if bool((R.norm(dim=2, keepdim=True) <= bound).all()):
                break
            Q = self._multiply(P) + ridge * P
            curvature = (P * Q).sum(2, keepdim=True)
            step = torch.where(curvature > 0, square / curvature.clamp_min(1e-300), 0.0)
            D += step * P
            R -= step * Q
            before, square = square, (R * R / scale).sum(2, keepdim=True)
            P.mul_(torch.where(before > 0, square / before.clamp_min(1e-300), 0.0)).add_(R / scale)

    def _pull(self, W: Tensor, outputs: slice) -> Tensor:
        """Return (T - C W')' C of some outputs, (g, o, d)."""
        total = torch.zeros_like(W, dtype=torch.float64)
        for c, rest in self._iterate_rest(W, self.parts, outputs):
            total += rest.to(c).mT @ c
        return total

    def _multiply(self, P: Tensor) -> Tensor:
        """Return P C' C, (g, o, d)."""
        total, mean, p = torch.zeros_like(P), self.mean.to(self.start), P.to(self.start)
        for columns, _, _ in iterate_chunks(self.blocks, self.size, self.parts):
            c = (columns - mean).movedim(1, 0)
            total += (p @ c.mT) @ c
        return total

    def residual(self, D: Tensor, parts: tuple[bool, ...]) -> tuple[float, float]:
        """Return |T - C (W_0 + D)' - b|² and |T|² of some rows, with the bias of the rows of the equations."""
        rest = sum(float(r.square().sum()) for _, r in self._iterate_rest(self.start + D, parts, slice(None)))
        chunks = iterate_chunks(self.blocks, self.size, parts)
        return rest, sum(float(targets.double().square().sum()) for _, targets, _ in chunks)

    def _iterate_rest(self, W: Tensor, parts: tuple[bool, ...], outputs: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each chunk the columns less their mean (g, m, d), and what weights leave of the targets (g, m, o)."""
        mean = self.mean.to(self.start)
        for columns, targets, _ in iterate_chunks(self.blocks, self.size, parts):
            c = (columns - mean).movedim(1, 0)
            centred = targets[:, :, outputs].double().movedim(1, 0) - self.level[:, None, outputs]
            yield c, centred - c @ W.mT
