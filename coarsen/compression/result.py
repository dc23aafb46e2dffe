"""The result of a compression: the smaller network, its hierarchy, and what each step took and gave back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from netgraph.coarsen.compression.costs import Costs, describe_latency
from netgraph.coarsen.compression.target import Target
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.utils.html_table import render_table
from netgraph.utils.text import escape_controls, format_columns


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
    errors : dict of str to dict of float to float, default {}
        By axis, the error of the outputs where it alone keeps this share of its units. The sizes were chosen by these curves.
    """

    model: nn.Module
    hierarchy: Hierarchy
    stages: tuple[Stage, ...]
    target: Target
    reached: float
    metric: str
    notes: tuple[str, ...] = field(default=())
    errors: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

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
            "axes": {name: [t.n_fine, t.n_coarse] for name, t in self.hierarchy.levels[-1].transfers.items()},
            "errors": {name: dict(curve) for name, curve in self.errors.items()},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = format_columns(*self._format_rows())
        return "\n".join(map(escape_controls, [*lines, *self._describe()]))

    def _repr_html_(self) -> str:
        """Return the table of stages for notebooks."""
        head, rows = self._format_rows()
        return render_table("Compression", head, rows, foot=" ".join(self._describe()))

    def _format_rows(self) -> tuple[list[str], list[list[str]]]:
        head = ["network", *self.stages[0].costs.name_cells(), self.metric, "won back"]
        return head, [self._format_stage(stage) for stage in self.stages]

    def _format_stage(self, stage: Stage) -> list[str]:
        won = "" if stage.won_back is None else f"{stage.won_back:.0%}"
        return [stage.name, *stage.costs.format_cells(), f"{stage.metric:.4g}", won]

    def _describe(self) -> list[str]:
        """Return the sentences below the table."""
        verdict = "met" if self.is_met else "not met: this is the nearest network that was found"
        where = "" if self.target.is_share else " on the rows that chose the sizes"
        return [
            f"target {self.target}: {self.reached:.3g}{where}, {verdict}. The network is a {type(self.model).__name__}.",
            describe_latency(self.stages[0].costs),
            *self.notes,
        ]
