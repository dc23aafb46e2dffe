"""The result of a compression: the smaller network, its hierarchy, and what each step took and gave back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from netgraph.coarsen.compression.costs import Costs
from netgraph.coarsen.compression.target import Target
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.utils.html_table import render_table
from netgraph.utils.text import escape_controls


@dataclass(frozen=True)
class Stage:
    """A network on the way from the original to the compressed one.

    Parameters
    ----------
    name : str
        ``original``, ``merged``, ``repaired`` or ``tuned``.
    costs : Costs
        Merging alone changes them.
    metric : float
        Value of the metric.
    won_back : float, optional
        Share of what merging lost that this step and those before it have won back. None where merging lost nothing.
    seconds : float, default 0
        Time that the step took.
    """

    name: str
    costs: Costs
    metric: float
    won_back: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Compressed:
    """A smaller network, and what it costs beside the original.

    Parameters
    ----------
    model : torch.nn.Module
        The network to deploy: in the original's own class where that was proven equal, else a recorded graph.
    hierarchy : Hierarchy
        The original and the merged and repaired network, before tuning.
    stages : tuple of Stage
        The original first.
    target : Target
        What was asked for.
    reached : float
        What the target bounds, as it came out: a share of the original's cost, points of accuracy, or an error.
    metric : str
        Name of the metric.
    notes : tuple of str, default ()
        What was left alone or could not be done, in sentences.
    """

    model: nn.Module
    hierarchy: Hierarchy
    stages: tuple[Stage, ...]
    target: Target
    reached: float
    metric: str
    notes: tuple[str, ...] = field(default=())

    @property
    def is_met(self) -> bool:
        """True if the target is met, a share within 2 %."""
        return self.target.is_met(self.reached)

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row for each stage, for a data frame or a file: numbers in the units that the names say."""
        return [dict(self._list_cells(stage)) for stage in self.stages]

    def _list_cells(self, stage: Stage) -> Iterator[tuple[str, Any]]:
        costs = stage.costs
        yield from (("network", stage.name), ("parameters", costs.parameters), ("flops_per_sample", costs.flops))
        for latency in costs.latency:
            yield f"ms_batch_{latency.batch}", latency.median
        yield from (("peak_memory_bytes", costs.memory), ("bytes", costs.size), (self.metric, stage.metric))
        yield from (("won_back", stage.won_back), ("seconds", stage.seconds))

    def document(self) -> dict[str, Any]:
        """Return everything but the networks as plain data for JSON."""
        return {
            "target": str(self.target),
            "reached": self.reached,
            "met": self.is_met,
            "metric": self.metric,
            "class": type(self.model).__name__,
            "threads": self.stages[0].costs.latency[0].threads,
            "stages": [asdict(stage) for stage in self.stages],
            "axes": {name: t.n_coarse for name, t in self.hierarchy.levels[-1].transfers.items()},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        head, rows = self._format_rows()
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [_join_cells(row, widths) for row in (head, *rows)]
        return "\n".join(map(escape_controls, [*lines, *self._describe()]))

    def _repr_html_(self) -> str:
        """Return the table of stages for notebooks."""
        head, rows = self._format_rows()
        return render_table("Compression", head, rows, foot=" ".join(self._describe()))

    def _format_rows(self) -> tuple[list[str], list[list[str]]]:
        first = self.stages[0].costs
        head = ["network", "parameters", "FLOPs/sample", *(f"ms, batch {x.batch}" for x in first.latency)]
        head += ["peak MB", "file MB", self.metric, "won back"]
        return head, [self._format_stage(stage) for stage in self.stages]

    def _format_stage(self, stage: Stage) -> list[str]:
        costs = stage.costs
        won = "" if stage.won_back is None else f"{stage.won_back:.0%}"
        return [
            stage.name,
            f"{costs.parameters:,}",
            f"{costs.flops:.3g}" if costs.flops else "-",
            *(str(latency).removesuffix(")").replace(" ms (", " (") + ")" for latency in costs.latency),
            f"{costs.memory / 1e6:.3g}",
            f"{costs.size / 1e6:.3g}",
            f"{stage.metric:.4g}",
            won,
        ]

    def _describe(self) -> list[str]:
        """Return the sentences below the table."""
        threads = self.stages[0].costs.latency[0].threads
        verdict = "met" if self.is_met else "not met: this is the nearest network that was found"
        return [
            f"target {self.target}: {self.reached:.3g}, {verdict}. The network is a {type(self.model).__name__}.",
            f"Milliseconds are medians (first and ninth decile) on {threads} thread{'s' * (threads > 1)} of this machine.",
            *self.notes,
        ]


def _join_cells(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line of a table: the first cell to the left, numbers to the right."""
    first, *rest = (
        cell.ljust(width) if not i else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
