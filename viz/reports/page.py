"""The HTML report of training runs: one offline file with their numbers, charts and costs.

The plotly script comes from the installed package and is in the page once. The content security policy lists the
digests of the scripts. Names of runs are stored as JSON and shown as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netgraph.errors import NetgraphError
from netgraph.fas.ledger import KINDS
from netgraph.fas.monitoring.history import History, common_loss, summarize_run
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.viz.page.page import escape_json, fill_template, join_scripts, policy_digest, read_asset
from netgraph.viz.reports.charts import CHARTS, import_plotly

COLUMNS = {
    "run": "run", "network": "network", "data": "data", "levels": "levels trained on", "steps": "steps", "seconds": "seconds",
    "flops": "FLOPs", "loss": "loss", "best_loss": "lowest loss", "accuracy": "accuracy",
    "seconds_to_common_loss": "seconds to the loss all reached", "flops_to_common_loss": "FLOPs to it",
    "coarse": "coarse steps taken", "test_accuracy": "test accuracy", "test_loss": "test loss", "reason": "ended because",
}  # fmt: skip
FULL_WIDTH = ("Cycles",)  # charts over the whole width


def write_run_page(histories: Sequence[History], path: str | Path) -> None:
    """Write the report of training runs as one HTML file.

    Parameters
    ----------
    histories : sequence of History
        A single run gives the page its name.
    path : path
        The file to write.

    Raises
    ------
    NetgraphError
        plotly is not installed, or there is no run.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import History
    >>> from netgraph.viz import write_run_page
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> batches = [(torch.randn(4, 8), torch.randint(0, 4, (4,)))]
    >>> problem = ng.Problem(batches, torch.nn.functional.cross_entropy)
    >>> solution = ng.FAS("v", cycles=1).solve(ng.build_hierarchy(net, torch.randn(2, 8), n_levels=2), problem)
    >>> write_run_page([History.of(solution, "one V-cycle")], "report.html")
    """
    check_output_file(Path(path))
    write_atomically(lambda place: place.write_text(render_run_page(histories), encoding="utf-8"), Path(path))


def render_run_page(histories: Sequence[History]) -> str:
    """Return the HTML of the report."""
    if not histories:
        raise NetgraphError("a report needs at least one run, got none. Name one or more.")
    import_plotly()
    from plotly.offline import get_plotlyjs

    library, style = get_plotlyjs(), read_asset("theme.css") + read_asset("run.css")
    script = join_scripts("run.js")
    # Style sheets of plotly change with every version, so inline styles are allowed. They cannot fetch anything.
    policy = (
        f"default-src 'none'; script-src {policy_digest(library)} {policy_digest(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = escape_json(build_report_data(histories))
    parts = {"policy": policy, "style": style, "library": library, "script": script, "data": data}
    return fill_template("run.html", parts)


def build_report_data(histories: Sequence[History]) -> dict[str, Any]:
    """Return the data that the script of the page shows."""
    figures = [(title, caption, draw(histories)) for title, caption, draw in CHARTS]
    charts = [
        {"title": title, "caption": caption, "text": figure.to_json(), "whole": title in FULL_WIDTH}
        for title, caption, figure in figures
        if figure is not None
    ]
    title = histories[0].name if len(histories) == 1 else f"{len(histories)} runs"
    subtitle = (
        str(histories[0].facts.get("reason") or "") if len(histories) == 1 else ", ".join(h.name for h in histories)
    )
    return {
        "title": title,
        "said": subtitle,
        "charts": charts,
        "numbers": tabulate_results(histories),
        "costs": tabulate_costs(histories),
    }


def tabulate_results(histories: Sequence[History]) -> dict[str, Any]:
    """Return the comparison table of runs as text, without empty columns."""
    loss = common_loss(histories) if len(histories) > 1 else None
    rows = [summarize_run(history, loss) for history in histories]
    for row in rows:
        n_steps = row["corrections_taken"] + row["corrections_rejected"] + row["coarse_steps_not_begun"]
        row["coarse"] = f"{row['corrections_taken']:,} of {n_steps:,}" if n_steps else None
    used = [key for key in COLUMNS if any(row[key] is not None for row in rows)]
    text = [[format_number(key, row[key]) for key in used] for row in rows]
    note = (
        "Seconds and FLOPs are those of training. They include matching, but not compilation, evaluation and callbacks."
    )
    if loss is not None:
        note = f"The lowest loss that all runs reached is {loss:.4g}. {note}"
    return {"caption": "Runs", "head": [COLUMNS[key] for key in used], "rows": text, "note": note}


def tabulate_costs(histories: Sequence[History]) -> dict[str, Any]:
    """Return the cost table as text: one row for each run and level, seconds by kind of work."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for h in histories for row in h.costs)]
    rows = []
    for history in histories:
        for level in sorted({row["level"] for row in history.costs}):
            costs_by_kind = {row["kind"]: row for row in history.costs if row["level"] == level}
            seconds = [f"{costs_by_kind[kind]['seconds']:.2f}" if kind in costs_by_kind else "" for kind in kinds]
            flops = sum(row["flops"] for kind, row in costs_by_kind.items() if kind != "evaluate")
            rows.append([history.name, str(level), *seconds, f"{flops:.3g}"])
    head = ["run", "level", *kinds, "FLOPs"]
    return {"caption": "Seconds by level and kind of work", "head": head, "rows": rows, "note": ""}


def format_number(key: str, value: Any) -> str:
    """Return one cell of the comparison table as text."""
    if value is None:
        return ""
    if "accuracy" in key:
        return f"{value:.2%}"
    if "flops" in key:
        return f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:.2f}" if "seconds" in key else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
