"""One HTML page of training runs that asks for nothing from anywhere: their numbers, charts, and costs side by side.

plotly's script comes from the installed package and stands in the page once. Its content security policy names the
digests of the scripts; names of runs stand in JSON, and come on the page as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netgraph.errors import NetgraphError
from netgraph.fas.ledger import KINDS
from netgraph.fas.monitoring.history import History, common_loss, summarize_run
from netgraph.viz.page.page import escape_json, fill_template, join_scripts, policy_digest, read_asset
from netgraph.viz.reports.charts import CHARTS, import_plotly

COLUMNS = {
    "run": "run", "network": "network", "data": "data", "levels": "levels trained on", "steps": "steps", "seconds": "seconds",
    "flops": "FLOPs", "loss": "loss", "best_loss": "lowest loss", "accuracy": "accuracy",
    "seconds_to_common_loss": "seconds to the loss all reached", "flops_to_common_loss": "FLOPs to it",
    "coarse": "coarse steps taken", "test_accuracy": "test accuracy", "test_loss": "test loss", "reason": "ended because",
}  # fmt: skip
WHOLE = ("Cycles",)  # charts that take the whole width


def write_run_page(histories: Sequence[History], path: str | Path) -> None:
    """Write runs as one HTML file.

    Parameters
    ----------
    histories : sequence of History
        The first names the page where there is one only.
    path : path

    Raises
    ------
    NetgraphError
        plotly is not installed, or there is no run.
    """
    Path(path).write_text(render_run_page(histories), encoding="utf-8")


def render_run_page(histories: Sequence[History]) -> str:
    """Return the page of some runs."""
    if not histories:
        raise NetgraphError("a report is of runs, and none is given; name one or more")
    import_plotly()
    from plotly.offline import get_plotlyjs

    library, style = get_plotlyjs(), read_asset("theme.css") + read_asset("run.css")
    script = join_scripts("run.js")
    # plotly brings style sheets of its own, other ones with each version; nothing that they name can be fetched
    policy = (
        f"default-src 'none'; script-src {policy_digest(library)} {policy_digest(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = escape_json(build_report_data(histories))
    parts = {"policy": policy, "style": style, "library": library, "script": script, "data": data}
    return fill_template("run.html", parts)


def build_report_data(histories: Sequence[History]) -> dict[str, Any]:
    """Return what the page's script fills it with."""
    drawn = [(title, caption, draw(histories)) for title, caption, draw in CHARTS]
    charts = [
        {"title": title, "caption": caption, "text": figure.to_json(), "whole": title in WHOLE}
        for title, caption, figure in drawn
        if figure is not None
    ]
    title = histories[0].name if len(histories) == 1 else f"{len(histories)} runs"
    said = str(histories[0].facts.get("reason") or "") if len(histories) == 1 else ", ".join(h.name for h in histories)
    return {
        "title": title,
        "said": said,
        "charts": charts,
        "numbers": tabulate_results(histories),
        "costs": tabulate_costs(histories),
    }


def tabulate_results(histories: Sequence[History]) -> dict[str, Any]:
    """Return the table of what runs are compared by, as text; columns that are empty are left out."""
    loss = common_loss(histories) if len(histories) > 1 else None
    rows = [summarize_run(history, loss) for history in histories]
    for row in rows:
        asked = row["corrections_taken"] + row["corrections_rejected"] + row["coarse_steps_not_begun"]
        row["coarse"] = f"{row['corrections_taken']:,} of {asked:,}" if asked else None
    used = [key for key in COLUMNS if any(row[key] is not None for row in rows)]
    text = [[format_number(key, row[key]) for key in used] for row in rows]
    note = "Seconds and FLOPs are those of training: matching counted, compiling, evaluation and callbacks not."
    if loss is not None:
        note = f"The lowest loss that all runs reached is {loss:.4g}. {note}"
    return {"caption": "Runs", "head": [COLUMNS[key] for key in used], "rows": text, "note": note}


def tabulate_costs(histories: Sequence[History]) -> dict[str, Any]:
    """Return the table of the ledgers, as text: a row for each run and level, seconds by what they were spent on."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for h in histories for row in h.costs)]
    rows = []
    for history in histories:
        for level in sorted({row["level"] for row in history.costs}):
            own = {row["kind"]: row for row in history.costs if row["level"] == level}
            seconds = [f"{own[kind]['seconds']:.2f}" if kind in own else "" for kind in kinds]
            flops = sum(row["flops"] for kind, row in own.items() if kind != "evaluate")
            rows.append([history.name, str(level), *seconds, f"{flops:.3g}"])
    head = ["run", "level", *kinds, "FLOPs"]
    return {"caption": "Seconds by level and what they were spent on", "head": head, "rows": rows, "note": ""}


def format_number(key: str, value: Any) -> str:
    """Return one cell of the table."""
    if value is None:
        return ""
    if "accuracy" in key:
        return f"{value:.2%}"
    if "flops" in key:
        return f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:.2f}" if "seconds" in key else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
