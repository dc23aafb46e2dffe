"""Solution: the outcome of a run, with the reason for its end in words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netgraph.fas.estimate.report import VarianceReport, read_report
from netgraph.fas.ledger import Ledger
from netgraph.fas.outcome import Outcome, count_refused_steps
from netgraph.utils.html_table import render_table
from netgraph.utils.text import escape_controls


@dataclass
class Solution:
    """The outcome of `netgraph.fas.FAS.solve`.

    ``print(solution)`` shows the reason, the last figures and the cost of each level.

    Parameters
    ----------
    model : torch.nn.Module
        The finest network, trained in place.
    converged : bool
        True if a tolerance was met (`netgraph.fas.Tolerance`), or if a callback stopped the run as converged.
    reason : str
        Why the run ended.
    history : list of dict, default empty
        One record for each event (docs/fas.md).
    ledger : Ledger
        Costs by level and kind of work.
    mean : torch.nn.Module, optional
        Running mean of the finest network, if ``smoothing.ema`` is set.
    outcome : Outcome, optional
        The reason in PETSc's words.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> hierarchy = ng.build_hierarchy(model, torch.randn(2, 4), n_levels=2)
    >>> batches = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(3)]
    >>> solution = ng.FAS(epochs=4).solve(hierarchy, ng.Problem(batches, torch.nn.functional.mse_loss))
    >>> solution.reason
    'the 4 epochs are spent'
    >>> solution.outcome.name, solution.refused
    ('CONVERGED_ITS', {})
    >>> [(record["level"], record["step"]) for record in solution.events("smooth")]  # the coarse level has the first steps
    [(1, 8), (0, 12)]
    >>> solution.model is model
    True
    """

    model: nn.Module
    converged: bool
    reason: str
    history: list[dict[str, Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    mean: nn.Module | None = None
    outcome: Outcome | None = None

    @property
    def refused(self) -> dict[Outcome, int]:
        """Number of steps that were not taken because their loss or gradient was not finite, for each reason."""
        return count_refused_steps(self.history)

    @property
    def n_refused(self) -> int:
        """Number of steps that were not taken because their loss or gradient was not finite."""
        return sum(self.refused.values())

    @property
    def seconds(self) -> float:
        """Seconds of training, without evaluation and callbacks."""
        return self.ledger.total_seconds()

    @property
    def flops(self) -> float:
        """Operations of training."""
        return self.ledger.total_flops()

    @property
    def _outcome(self) -> str:
        return "converged" if self.converged else "ended"

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of one kind of event.

        Parameters
        ----------
        kind : str
            ``begin``, ``smooth``, ``estimate``, ``down``, ``skip``, ``up``, ``start``, ``cycle``, ``norm``, ``rematch``, ``evaluate``,
            ``refused``, ``failed`` or ``finish``.

        Returns
        -------
        list of dict
        """
        return [record for record in self.history if record["event"] == kind]

    def list_estimates(self) -> list[VarianceReport]:
        """Return the reports of gradients that were estimated from several levels, one for each choice of samples.

        Returns
        -------
        list of VarianceReport
            Empty for plain gradients.
        """
        return [read_report(record) for record in self.events("estimate")]

    def describe_estimates(self) -> list[str]:
        """Return the last report of each level's estimated gradients as lines.

        Returns
        -------
        list of str
            Empty for plain gradients.
        """
        latest = {report.level: str(report) for report in self.list_estimates()}
        return [line for text in latest.values() for line in text.splitlines()]

    def describe_coarse_steps(self) -> list[str]:
        """Return how many coarse steps were begun, taken and refused, and the reasons, most frequent first, as lines.

        Returns
        -------
        list of str
            Empty for a run without cycles.
        """
        ups, skips = self.events("up"), self.events("skip")
        if not ups and not skips:
            return []
        n_taken = sum(record["length"] > 0 for record in ups)
        head = (
            f"coarse steps: {len(ups)} begun, {n_taken} of them taken and {len(ups) - n_taken} rejected by the line search, "
            f"{len(skips)} not begun"
        )
        reasons = Counter(_drop_numbers(record["why"]) for record in skips)
        last = {_drop_numbers(record["why"]): record["why"] for record in skips}
        return [head, *(f"  {n} not begun: {last[reason]}" for reason, n in reasons.most_common())]

    def __str__(self) -> str:
        evaluations = self.events("evaluate")
        figures = ", ".join(f"{k} {v:.4g}" for k, v in evaluations[-1]["figures"].items()) if evaluations else ""
        lines = [f"{self._outcome}: {self.reason}", figures, *self.describe_coarse_steps(), *self.describe_estimates()]
        return "\n".join([*(escape_controls(line) for line in lines if line), str(self.ledger)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the costs as an HTML table for notebooks, with the reason above and the figures below."""
        evaluations = self.events("evaluate")
        figures = [f"{name} {value:.4g}" for name, value in evaluations[-1]["figures"].items()] if evaluations else []
        figures += self.describe_coarse_steps()[:1]
        figures.append(f"total {self.seconds:.2f} s, {self.flops:.3g} FLOPs")
        head = ("level", "spent on", "seconds", "FLOPs")
        rows = [(row["level"], row["kind"], row["seconds"], float(row["flops"])) for row in self.ledger.rows()]
        return render_table(f"{self._outcome}: {self.reason}", head, rows, foot=", ".join(figures))


def _drop_numbers(reason: str) -> str:
    """Return a reason without its numbers, so that reasons of one kind count as one."""
    return re.sub(r"[-+.\d]+(e[-+]?\d+)?%?", "#", reason)
