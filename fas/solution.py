"""Solution: what a run gives back, with its reason in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netgraph.fas.ledger import Ledger


@dataclass
class Solution:
    """The outcome of `netgraph.fas.solver.FAS.solve`.

    Parameters
    ----------
    model : torch.nn.Module
        The finest network, trained in place.
    converged : bool
        Whether a callback stopped the run as converged; a run that spends its budget has not asked.
    reason : str
        Why the run ended.
    history : list of dict
        One record for each event (docs/fas.md).
    ledger : Ledger
    mean : torch.nn.Module, optional
        The running mean of the finest parameters, where one was asked for.
    """

    model: nn.Module
    converged: bool
    reason: str
    history: list[dict[str, Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    mean: nn.Module | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training, evaluation and callbacks left out."""
        return self.ledger.total_seconds()

    @property
    def flops(self) -> float:
        """Operations of training."""
        return self.ledger.total_flops()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of one kind: ``smooth``, ``down``, ``skip``, ``up``, ``start``, ``evaluate``, ``refused``."""
        return [record for record in self.history if record["event"] == kind]

    def __str__(self) -> str:
        measured = self.events("evaluate")
        figures = ", ".join(f"{k} {v:.4g}" for k, v in measured[-1]["figures"].items()) if measured else ""
        state = "converged" if self.converged else "ended"
        return "\n".join(part for part in (f"{state}: {self.reason}", figures, str(self.ledger)) if part)

    __repr__ = __str__
