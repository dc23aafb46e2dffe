"""As few units as keep the loss: aggregates chosen so that going down changes the function little.

A coarse correction can only pay where the injected network is nearly the fine one: (f_c(inject x) - f(x)) / |f(x)| is the
gap that the solver's gate looks at (docs/fas.md). Here the ratio of a level follows from a bound on it.
"""

from __future__ import annotations

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
    loss : callable
        ``(network) -> float``, on the same minibatch each time.
    """

    limit: float
    loss: Loss

    @classmethod
    def parsed(cls, text: str, loss: Loss | None) -> LossGap:
        """Read ``gap:0.05``.

        Raises
        ------
        NetgraphError
            It is not gap:NUMBER, or there is no loss.
        """
        kind, _, value = text.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if kind != "gap" or not limit >= 0:
            raise NetgraphError(f"ratio {text!r} is neither a number nor gap:NUMBER; give 0.5, or gap:0.05")
        if loss is None:
            raise NetgraphError(f"ratio {text} needs a loss to measure; give loss=lambda network: ...")
        return cls(limit, loss)

    def ratio(
        self, fine: nn.Module, candidate: Callable[[float], nn.Module | None]
    ) -> tuple[float, dict[float, float]]:
        """Return the smallest ratio of `GRID` within the bound, 1 where there is none, and the gaps that were measured.

        Found by halving, as if the gap fell with the ratio; what is returned was measured itself.

        Parameters
        ----------
        fine : torch.nn.Module
        candidate : callable
            Returns the coarse network of a ratio, None where nothing merges.
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
