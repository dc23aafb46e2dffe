"""Ridge regression of a layer's input: which mixture of the coarse units stands best for each fine one.

For inputs X of the fine network and X_c of the coarse one, both (samples, units)::

    M   = argmin |X - X_c M'|² + s |M - P|²         P prolongs: plain merging is where the ridge pulls to
        = P + (X - X_c P')' X_c (X_c' X_c + s I)^-1
    W_c = R_out W M,   b_c = R_out (b + W (mean X - M mean X_c))

Only the sums X' X_c and X_c' X_c are kept, in double precision. The refit of pruned networks by least squares is that
of He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.normscale import by_row
from netgraph.coarsen.transfer import Transfer
from netgraph.coarsen.weights import inject, prolonged
from netgraph.spec import UnitSpec, term_axes

ROWS = 32_768  # samples of one batch that are used: neighbouring pixels say much the same


class Fit:
    """The fit of one weight's incoming dimension, batch by batch.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    transfers : dict of str to Transfer
    name : str
        The weight, (out, in, ...).
    centred : bool
        Whether there is a bias to take what the means differ by.
    """

    def __init__(self, spec: UnitSpec, transfers: Mapping[str, Transfer], name: str, *, centred: bool) -> None:
        self.spec, self.transfers, self.name, self.centred = spec, transfers, name, centred
        self.n, self.cross, self.gram, self.square = 0, torch.zeros(0), torch.zeros(0), 0.0
        self.mean_fine, self.mean_coarse = torch.zeros(0), torch.zeros(0)

    @staticmethod
    def touches(spec: UnitSpec, transfers: Mapping[str, Transfer], name: str) -> bool:
        """Tell whether a weight's second dimension sums over units that merged."""
        summed = spec.sums.get((name, 1), frozenset())
        merged = [axis for axis in term_axes(spec.parameters[name][1]) if axis in transfers]
        return bool(merged) and all(axis in summed for axis in merged)

    def add(self, fine: Tensor, coarse: Tensor) -> None:
        """Take in samples, (rows, n) and (rows, k)."""
        step = -(-len(fine) // ROWS)
        x, y = fine[::step].double(), coarse[::step].double()
        if not self.n:
            self.mean_fine, self.mean_coarse = x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1])
            self.cross, self.gram = x.new_zeros(x.shape[1], y.shape[1]), y.new_zeros(y.shape[1], y.shape[1])
        self.n += len(x)
        self.square += float(x.square().sum())
        self.mean_fine += x.sum(0)
        self.mean_coarse += y.sum(0)
        self.cross.addmm_(x.T, y)  # (n, rows) @ (rows, k)
        self.gram.addmm_(y.T, y)  # (k, rows) @ (rows, k)

    def solved(self, strength: float) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Return M (n, k), what a bias adds for each fine unit (n,), and the relative errors before and after."""
        fine, coarse = self.mean_fine / self.n, self.mean_coarse / self.n
        plain = prolonged(self.spec, self.transfers, self.name, 1).to(self.gram)  # P, (n, k)
        cross, gram, square = self.cross, self.gram, self.square
        if self.centred:
            cross = cross - self.n * torch.outer(fine, coarse)
            gram = gram - self.n * torch.outer(coarse, coarse)
            square = square - self.n * float(fine.square().sum())
        ridge = max(strength * float(gram.diagonal().mean()), 1e-30)
        matrix = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        M = plain + torch.linalg.solve(matrix, (cross - plain @ gram).T).T
        errors = [_relative(square, cross, gram, m) for m in (plain, M)]
        shift = fine - M @ coarse if self.centred else torch.zeros_like(fine)
        return M, shift, (errors[0], errors[1])

    def write(
        self,
        fine: list[Any],
        coarse: list[Any],
        bias: str | None,
        strength: float,
        gains: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[float, float]:
        """Write the fitted weight and bias; ``fine`` and ``coarse`` are the layers' arguments. Return both errors.

        ``gains`` are those of the norms that follow, fine and coarse: in their scale rows are averaged.
        """
        M, shift, errors = self.solved(strength)
        weight = fine[1].double()
        fitted = torch.tensordot(weight, M, dims=([1], [0])).movedim(-1, 1)  # (out, k, ...)
        coarse[1].copy_(self._restricted(self.name, fitted, gains, skip=1))
        if bias is not None:
            change = torch.tensordot(weight.flatten(2).sum(2) if weight.ndim > 2 else weight, shift, dims=([1], [0]))
            coarse[2].copy_(self._restricted(bias, fine[2].double() + change, gains))
        return errors

    def _restricted(
        self, name: str, tensor: Tensor, gains: tuple[Tensor, Tensor] | None, skip: int | None = None
    ) -> Tensor:
        terms = tuple(() if d == skip else term for d, term in enumerate(self.spec.parameters[name]))
        spec = replace(self.spec, parameters={name: terms})
        if gains is None:
            return inject(spec, self.transfers, {name: tensor})[name]
        return by_row(1 / gains[1], inject(spec, self.transfers, {name: by_row(gains[0], tensor)})[name])


def _relative(square: float, cross: Tensor, gram: Tensor, M: Tensor) -> float:
    """Return |X - X_c M'| / |X| from the sums of products alone."""
    left = square - 2 * float((cross * M).sum()) + float(((M @ gram) * M).sum())
    return math.sqrt(max(left, 0.0) / max(square, 1e-30))
