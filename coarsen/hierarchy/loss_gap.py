"""The smallest ratio that keeps the loss: injection into the coarse network may raise it by a bounded share.

A coarse correction can only pay if the injected network is close to the fine one. The gap (f_c(inject x) - f(x)) / |f(x)|
is also the criterion of the solver's gate (docs/fas.md). Here the ratio of a level follows from a bound on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from netgraph.errors import NetgraphError

GRID = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
Loss = Callable[[nn.Module], float]


@dataclass(frozen=True)
class LossGap:
    """A bound on the relative rise of the loss from one level to the next.

    Parameters
    ----------
    limit : float
    loss : callable ``(network) -> float``
        Evaluates the same minibatch each time.
    """

    limit: float
    loss: Loss

    @classmethod
    def parse(cls, text: str, loss: Loss | None) -> LossGap:
        """Read a bound such as ``gap:0.05``.

        Raises
        ------
        NetgraphError
            The text is not gap:NUMBER, or there is no loss.
        """
        kind, _, value = text.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if kind != "gap" or not 0 <= limit < math.inf:
            raise NetgraphError(f"ratio {text!r} is neither a number nor gap:NUMBER. Give 0.5, or gap:0.05.")
        if loss is None:
            raise NetgraphError(f"ratio {text} needs a loss to measure. Give loss=lambda network: ...")
        return cls(limit, loss)

    def ratio(
        self, fine: nn.Module, candidate: Callable[[float], nn.Module | None]
    ) -> tuple[float, dict[float, float]]:
        """Return the smallest ratio of `GRID` within the bound, and the gaps that were measured.

        The search is a bisection, as if the gap fell with the ratio. The gap of the result itself has been measured.

        Parameters
        ----------
        fine : torch.nn.Module
        candidate : callable ``(ratio) -> network or None``
            Returns the coarse network of a ratio, or None if nothing merges.

        Returns
        -------
        ratio : float
            1 if no ratio is within the bound.
        gaps : dict of float to float
        """
        base, gaps = self.loss(fine), dict[float, float]()
        low, high = 0, len(GRID)  # GRID[high] is within the bound
        while low < high:
            middle = (low + high) // 2
            network = candidate(GRID[middle])
            rise = 0.0 if network is None else self.loss(network) - base
            gaps[GRID[middle]] = rise / max(abs(base), 1e-12)
            if gaps[GRID[middle]] <= self.limit:
                high = middle
            else:
                low = middle + 1
        return (GRID[high] if high < len(GRID) else 1.0), gaps
