"""Solution: what a run gives back, with its reason in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netgraph.fas.ledger import Ledger
from netgraph.utils.html_table import render_table


@dataclass
class Solution:
    """The outcome of `netgraph.fas.solver.solver.FAS.solve`.

    Parameters
    ----------
    model : torch.nn.Module
        The finest network, trained in place.
    converged : bool
        Whether a tolerance was met (`netgraph.fas.options.Tolerance`), or a callback stopped the run as converged.
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

    @property
    def _state(self) -> str:
        return "converged" if self.converged else "ended"

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of one kind: ``smooth``, ``down``, ``skip``, ``up``, ``start``, ``norm``, ``evaluate``, ``refused``."""
        return [record for record in self.history if record["event"] == kind]

    def __str__(self) -> str:
        measured = self.events("evaluate")
        figures = ", ".join(f"{k} {v:.4g}" for k, v in measured[-1]["figures"].items()) if measured else ""
        return "\n".join(part for part in (f"{self._state}: {self.reason}", figures, str(self.ledger)) if part)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the costs as a table for notebooks, with the reason above and the figures below."""
        measured = self.events("evaluate")
        figures = [f"{name} {value:.4g}" for name, value in measured[-1]["figures"].items()] if measured else []
        ups, skips = self.events("up"), self.events("skip")
        taken = sum(record["length"] > 0 for record in ups)
        if ups or skips:
            figures.append(f"coarse steps: {taken} taken, {len(ups) - taken} rejected, {len(skips)} not begun")
        figures.append(f"total {self.seconds:.2f} s, {self.flops:.3g} FLOPs")
        head = ("level", "spent on", "seconds", "FLOPs")
        rows = [(row["level"], row["kind"], row["seconds"], float(row["flops"])) for row in self.ledger.rows()]
        return render_table(f"{self._state}: {self.reason}", head, rows, foot=", ".join(figures))
