"""The result of a compression: the smaller network, its hierarchy, and what each step took and gave back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from netgraph.coarsen.compression.costs import Costs, describe_latency
from netgraph.coarsen.compression.latency import Latency
from netgraph.coarsen.compression.target import Target
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.hub_methods import HubMethods
from netgraph.io.hub.origin import Step, find_origin
from netgraph.utils.html_table import render_table
from netgraph.utils.text import escape_controls, format_columns

TITLE = "Compression"  # of its step in the history of a network


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
        Share of what merging lost that this step and those before it have won back. None where merging lost nothing, or less than the
        standard error of the metric.
    seconds : float, default 0
        Time that the step took.
    """

    name: str
    costs: Costs
    metric: float
    won_back: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Compressed(HubMethods):
    """A smaller network, and what it costs beside the original.

    Parameters
    ----------
    model : torch.nn.Module
        The network to deploy: in the original's own class where that was proven equal, else a recorded graph.
    hierarchy : Hierarchy or None
        The original and the merged and repaired network, before tuning. None where the compression was opened from a folder.
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
    depth : tuple of dict, default ()
        Of each choice of missing blocks that was tried, the ``chain``, the ``way`` in which they were chosen, the blocks ``missing``, and the
        ``error`` of the outputs.
    """

    model: nn.Module
    hierarchy: Hierarchy | None
    stages: tuple[Stage, ...]
    target: Target
    reached: float
    metric: str
    notes: tuple[str, ...] = field(default=())
    errors: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    depth: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_origin(cls, model: nn.Module, source: str) -> Compressed:
        """Return the compression that a network is the result of, without the original.

        Parameters
        ----------
        model : torch.nn.Module
            A network that was opened from a folder.
        source : str
            The folder, for error messages.

        Raises
        ------
        LoadError
            The folder tells of no compression.
        """
        step = find_origin(model).find_step(TITLE)
        if step is None:
            raise LoadError(
                f"{source} holds a network that no compression made. Open it by netgraph.coarsen.from_pretrained."
            )
        try:
            plain = step.document
            stages = tuple(_read_stage(stage) for stage in plain["stages"])
            if len({tuple(one.batch for one in stage.costs.latency) for stage in stages}) != 1:
                raise ValueError("it has no stages, or other batches at each")
            errors = {
                name: {float(share): float(error) for share, error in curve.items()}
                for name, curve in plain["errors"].items()
            }
            return cls(
                model, None, stages, Target.parse(plain["target"]), float(plain["reached"]), str(plain["metric"]),
                tuple(map(str, plain["notes"])), errors, tuple(map(dict, plain.get("depth", ()))),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise LoadError(
                f"{source} has a compression in another form ({describe_error(error)}). Its network opens by "
                "netgraph.coarsen.from_pretrained."
            ) from error

    def require_hierarchy(self) -> Hierarchy:
        """Return the hierarchy.

        Raises
        ------
        NetgraphError
            The compression was opened from a folder, which holds the small network alone.
        """
        if self.hierarchy is None:
            raise NetgraphError(
                "this compression was opened from a folder, which holds the small network and not the original. Compress it again."
            )
        return self.hierarchy

    @property
    def axes(self) -> dict[str, list[int]]:
        """The units of each axis that merged, before and after."""
        if self.hierarchy is None:
            step = find_origin(self.model).find_step(TITLE)
            return {} if step is None else dict(step.document.get("axes", {}))
        return {name: [t.n_fine, t.n_coarse] for name, t in self.hierarchy.levels[-1].transfers.items()}

    @property
    def blocks(self) -> dict[str, dict[str, list[str]]]:
        """By chain that became shorter, the blocks that stay, each with those that have merged into it."""
        if self.hierarchy is None:
            step = find_origin(self.model).find_step(TITLE)
            return {} if step is None else dict(step.document.get("blocks", {}))
        return {step.chain.name: step.families for step in self.hierarchy.levels[-1].chains}

    def to_step(self) -> Step:
        """Return the compression as a step of its network, for the card of a folder."""
        head, rows = self._format_rows()
        threads = self.stages[0].costs.latency[0].threads
        facts = {"target": str(self.target), "reached": f"{self.reached:.3g}{'' if self.is_met else ', not met'}"}
        where = (
            f"Milliseconds are medians (first and ninth decile) on {threads} thread{'s' * (threads > 1)} of the machine that compressed the "
            "network. They are others on yours."
        )
        table = tuple(dict(zip(head, row, strict=True)) for row in rows)
        return Step(TITLE, facts, rows=table, notes=(where, *self.notes), document=self.document())

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
            "axes": self.axes,
            "blocks": self.blocks,
            "errors": {name: dict(curve) for name, curve in self.errors.items()},
            "depth": [dict(trial) for trial in self.depth],
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


def _read_stage(plain: Mapping[str, Any]) -> Stage:
    """Return the stage of plain data. A number that JSON does not have is none."""
    costs, won = plain["costs"], plain["won_back"]
    latency = tuple(_read_latency(one) for one in costs["latency"])
    if not latency:
        raise ValueError("a stage has no milliseconds")
    size, memory = (int(costs[name]) for name in ("size", "memory"))
    metric = math.nan if plain["metric"] is None else float(plain["metric"])
    measured = Costs(int(costs["parameters"]), float(costs["flops"]), size, memory, latency)
    return Stage(str(plain["name"]), measured, metric, None if won is None else float(won), float(plain["seconds"]))


def _read_latency(plain: Mapping[str, Any]) -> Latency:
    """Return the milliseconds of plain data."""
    median, low, high = (float(plain[name]) for name in ("median", "low", "high"))
    runs, batch, threads = (int(plain[name]) for name in ("runs", "batch", "threads"))
    return Latency(median, low, high, runs, batch, threads)
