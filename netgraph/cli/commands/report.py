"""``netgraph report``: compare training runs on one page, on one sheet of figures, or as numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgraph.cli.console.terminal import echo, echo_json, echo_lines
from netgraph.cli.options.coarsen import Json
from netgraph.errors import NetgraphError
from netgraph.io.files.output_files import check_output_file
from netgraph.utils.text import shorten

if TYPE_CHECKING:
    from netgraph.fas.monitoring.history import History

FIGURES = (".svg", ".png", ".pdf")
COLUMNS = ("run", "steps", "seconds", "FLOPs", "loss", "lowest", "accuracy", "coarse steps", "ended because")


def compare_runs(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folders of --report or --checkpoints, files of train --json, or ids and experiments of MLflow.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The page (.html), or a sheet of figures (.svg, .png, .pdf)."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Compare training runs: print their numbers, and write report.html or the file of --output."""
    from netgraph.fas.monitoring.history import common_loss, summarize_run

    output = output or (None if json_ else Path("report.html"))
    write = None if output is None else find_writer(output)
    histories = [history for word in runs for history in read_runs(word)]
    loss = common_loss(histories) if len(histories) > 1 else None
    rows = [summarize_run(history, loss) for history in histories]
    if json_:
        echo_json({"common_loss": loss, "runs": rows})
    else:
        echo_lines(format_table(rows, loss))
    if write is not None:
        write(histories, output)
        echo(f"netgraph: wrote {output}", err=True)


def read_runs(word: str) -> list[History]:
    """Return the histories that a word names: that of a folder or a file, else runs of MLflow.

    Raises
    ------
    LoadError
        There is no run of that name, or it is damaged.
    """
    from netgraph.fas.monitoring.mlflow_runs import read_mlflow_runs
    from netgraph.fas.monitoring.run_file import read_run

    return [read_run(word)] if os.path.lexists(word) else read_mlflow_runs(word)


def find_writer(path: Path) -> Callable[[Sequence[Any], Any], None]:
    """Return the function that writes runs into a file of this suffix.

    Raises
    ------
    NetgraphError
        No function writes this suffix, the folder does not exist, or plotly is needed and not installed.
    """
    from netgraph.viz.reports.charts import import_plotly
    from netgraph.viz.reports.page import write_run_page
    from netgraph.viz.reports.sheet import write_run_figure

    if path.suffix not in (".html", *FIGURES):
        raise NetgraphError(
            f"--output {path} ends in {path.suffix or 'nothing'}. Give NAME.html for the page, or .svg, .png or .pdf."
        )
    check_output_file(path)
    if path.suffix in FIGURES:
        return write_run_figure
    import_plotly()
    return write_run_page


def format_table(rows: Sequence[dict[str, Any]], loss: float | None) -> str:
    """Return summaries of runs as a table.

    Parameters
    ----------
    rows : sequence of dict
        From `netgraph.fas.monitoring.history.summarize_run`.
    loss : float, optional
        The lowest loss that all runs reached. The cost to reach it is added below the table.
    """
    cells = [list(COLUMNS)] + [_format_cells(row) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            f"{c:<{w}}" if i in (0, 8) else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    if loss is not None:
        lines += ["", f"to the lowest loss that all reached, {loss:.4g}:"]
        costs = [(r["run"], r["seconds_to_common_loss"], r["flops_to_common_loss"]) for r in rows]
        lines += [
            f"  {shorten(run, 40):<{widths[0]}}  {seconds:9.2f} s  {flops:9.3g} FLOPs" for run, seconds, flops in costs
        ]
    return "\n".join(lines)


def _format_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one run, in the order of `COLUMNS`."""
    n_steps = row["corrections_taken"] + row["corrections_rejected"] + row["coarse_steps_not_begun"]
    return [
        shorten(row["run"], 40),
        f"{row['steps']:,}",
        f"{row['seconds']:.2f}",
        f"{row['flops']:.3g}",
        "" if row["loss"] is None else f"{row['loss']:.4f}",
        "" if row["best_loss"] is None else f"{row['best_loss']:.4f}",
        "" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
        f"{row['corrections_taken']:,} of {n_steps:,}" if n_steps else "",
        shorten(row["reason"] or "", 60),
    ]
