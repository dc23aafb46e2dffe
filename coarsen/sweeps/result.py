"""The result of a sweep: one row for each combination, with what its network costs and keeps, and the Pareto set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from netgraph.coarsen.partition.target_size import describe_uneven
from netgraph.coarsen.sweeps.pareto import find_pareto
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.utils.html_table import render_table
from netgraph.utils.text import escape_controls, format_columns

Row = dict[str, Any]
SETTINGS = ("affinity", "coarsener", "budget", "ratio", "repair")


@dataclass(frozen=True)
class Sweep:
    """Many coarsenings of one network, each judged and measured.

    Parameters
    ----------
    rows : list of dict
        The original first, whose ``coarsener`` is None. A row has the settings ``affinity``, ``coarsener``, ``budget``, ``ratio`` and
        ``repair``, and of its network the ``parameters``, ``flops_per_sample``, the metric under its name, ``error``, ``ms_batch_1`` and
        so on, ``speed_batch_1`` (times as fast as the original, by first deciles), ``seconds`` of merging and repair, ``class`` and the units of the ``axes`` that
        shrank. If the combination could not be had, these are None and ``reason`` says why.
    metric : str
        Name of the metric, and of its column.
    larger_is_better : bool, default True
        False for losses and errors.
    facts : dict, default {}
        What holds for all rows: digests of ``network`` and ``data``, ``options``, ``threads``, and the ``shared_seconds`` that rows shared.

    Examples
    --------
    >>> from netgraph.coarsen import Sweep
    >>> rows = [{"coarsener": "hem", "ratio": r, "parameters": n, "top1": t} for r, n, t in ((0.5, 50, 0.9), (0.7, 70, 0.8))]
    >>> [row["ratio"] for row in Sweep(rows, "top1").pareto("parameters")]
    [0.5]
    """

    rows: list[Row]
    metric: str
    larger_is_better: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> list[Row]:
        """The rows that have a network, the original included."""
        return [row for row in self.rows if row.get("reason") is None]

    @property
    def costs(self) -> list[str]:
        """Columns that are costs: parameters, FLOPs and milliseconds, as far as they were measured."""
        names = dict.fromkeys(name for row in self.measured for name, value in row.items() if value is not None)
        return [name for name in names if name in ("parameters", "flops_per_sample") or name.startswith("ms_batch_")]

    @property
    def columns(self) -> list[str]:
        """The columns of a table, in their order."""
        names = dict.fromkeys(name for row in self.rows for name in row if name not in ("axes", "reason", *SETTINGS))
        return [*SETTINGS, *names, "pareto", "reason"]

    def pareto(self, cost: str = "parameters") -> list[Row]:
        """Return the rows of which no other has at most the same cost and at least as good a metric, and is better in one.

        Parameters
        ----------
        cost : str, default "parameters"
            A column of `costs`, such as ``flops_per_sample`` or ``ms_batch_32``.

        Returns
        -------
        list of dict
            From the cheapest on.

        Raises
        ------
        NetgraphError
            No row has such a cost.
        """
        if cost not in self.costs:
            raise NetgraphError(f"no row has the cost {cost!r}. Choose among {', '.join(self.costs) or 'none'}.")
        rows = [row for row in self.measured if row.get(cost) is not None and row.get(self.metric) is not None]
        sign = -1 if self.larger_is_better else 1
        optimal = find_pareto([(row[cost], sign * row[self.metric]) for row in rows])
        return sorted(
            (row for row, is_optimal in zip(rows, optimal, strict=True) if is_optimal), key=lambda row: row[cost]
        )

    @property
    def marked_costs(self) -> list[str]:
        """The costs for which tables mark the Pareto set: parameters, and milliseconds of the largest batch."""
        return [name for name in self.costs if name != "flops_per_sample"][:1] + [
            name for name in self.costs if name.startswith("ms_batch_")
        ][-1:]

    @property
    def several(self) -> list[str]:
        """Which of ``affinity`` and ``budget`` have several values, so that tables and pictures name them."""
        rows = [row for row in self.measured if row.get("coarsener") is not None]
        affinities = {row.get("affinity") for row in rows} - {None}
        budgets = {row.get("budget") for row in rows}
        return ["affinity"] * (len(affinities) > 1) + ["budget"] * (len(budgets) > 1)

    def list_table(self) -> list[Row]:
        """Return the rows with all columns but ``axes``, and in ``pareto`` the costs for which a row is in the Pareto set."""
        optimal = {cost: {id(row) for row in self.pareto(cost)} for cost in self.marked_costs}
        return [
            {name: row.get(name) for name in self.columns}
            | {"pareto": " ".join(cost for cost, rows in optimal.items() if id(row) in rows)}
            for row in self.rows
        ]

    def to_frame(self) -> Any:
        """Return the table as a `pandas.DataFrame`.

        Raises
        ------
        NetgraphError
            pandas is not installed.
        """
        pandas = import_package("pandas", "a data frame")
        return pandas.DataFrame(self.list_table(), columns=self.columns)

    def document(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        marks = [row["pareto"].split() for row in self.list_table()]
        rows = [{**row, "pareto": mark} for row, mark in zip(self.rows, marks, strict=True)]
        return {"metric": self.metric, "larger_is_better": self.larger_is_better, **self.facts, "rows": rows}

    def __str__(self) -> str:
        head, rows = self.format_table()
        return "\n".join(map(escape_controls, [*format_columns(head, rows), *self.describe()]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        head, rows = self.format_table()
        return render_table("Sweep", head, rows, foot=" ".join(self.describe()))

    def format_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the head of the table and its rows as text. Settings that all rows share are left out, and so are rows without a network."""
        table = [row for row in self.list_table() if row["reason"] is None]
        names = ["coarsener", *self.several, "ratio", "repair"]
        names += [name for name in self.columns if name in (*self.costs, self.metric, "error", "seconds", "pareto")]
        head = [HEADS.get(name, name.replace("ms_batch_", "ms, batch ")) for name in names]
        return head, [[_format_cell(name, row, self.metric) for name in names] for row in table]

    def describe(self) -> list[str]:
        """Return the sentences below the table."""
        return list(self._list_sentences())

    def _list_sentences(self) -> Iterator[str]:
        better = "larger" if self.larger_is_better else "smaller"
        marks = " and ".join(name.replace("ms_batch_", "ms of batch ") for name in self.marked_costs)
        yield f"Pareto: no other row has as {'large' if self.larger_is_better else 'small'} a {self.metric} ({better} is better) for as small a cost ({marks})."
        threads = self.facts.get("threads")
        if threads and any(name.startswith("ms_") for name in self.costs):
            yield (
                f"Milliseconds are medians on {threads} thread{'s' * (threads > 1)} of this machine. Rows of equal sizes share one measurement."
            )
        if shared := self.facts.get("shared_seconds"):
            yield f"Seconds are those of merging and repair. {shared:.2f} s more for graphs and error curves were shared."
        sizes = [pair for row in self.measured for pair in (row.get("axes") or {}).items()]
        if uneven := describe_uneven(sizes, self.facts.get("options", {}).get("round_to", 1)):
            yield f"{uneven[0].upper()}{uneven[1:]}"
        failed = [row for row in self.rows if row.get("reason") is not None]
        reasons = Counter((row["coarsener"], row["reason"]) for row in failed)
        for (coarsener, reason), n in reasons.items():
            yield f"{n} row{'s' * (n > 1)} of {coarsener} could not be had: {reason}"


HEADS = {"parameters": "parameters", "flops_per_sample": "FLOPs/sample", "pareto": "Pareto"}


def _format_cell(name: str, row: Row, metric: str) -> str:
    """Return a value as text for a person."""
    value = row[name]
    if name == "coarsener":
        return value or "original"
    if name == "pareto":
        return ", ".join(cost.split("_")[0] for cost in value.split())
    if value is None:
        return "-"
    if name == "parameters":
        return f"{value:,}"
    if name == "seconds":
        return f"{value:.2f}"
    return (
        format(value, ".4g" if name == metric else "g" if name == "ratio" else ".3g")
        if not isinstance(value, str)
        else value
    )


def compare_settings(row: Row, settings: Sequence[Any]) -> bool:
    """Return True if a row has these settings."""
    return all(row.get(name) == value for name, value in zip(SETTINGS, settings, strict=True))
