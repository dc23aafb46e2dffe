"""One offline HTML page of a hierarchy: the table, and every axis with its units grouped by aggregate."""

from __future__ import annotations

from html import escape
from pathlib import Path

from netgraph.coarsen.hierarchy import Hierarchy
from netgraph.coarsen.report import coverage
from netgraph.coarsen.transfer import Transfer

SHOWN = 512  # units of one axis that are drawn; the rest are counted

STYLE = """
:root { color-scheme: light dark; --line: #8884; --unit: #4477aa; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: right; padding: .25rem .9rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
details { border-bottom: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary span { opacity: .7; }
.units { display: flex; flex-wrap: wrap; gap: 6px; padding: .6rem 0; }
.aggregate { display: flex; flex-wrap: wrap; gap: 2px; padding: 2px; border: 1px solid var(--line); border-radius: 4px; }
.unit { min-width: 1.5rem; padding: 0 2px; text-align: center; font-size: 11px; background: var(--unit); color: white; border-radius: 2px; }
"""


def write_page(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write one HTML file that asks for nothing from anywhere; names from the network are escaped."""
    body = "".join(_level(hierarchy, i) for i in range(1, len(hierarchy.levels)))
    share, why = coverage(hierarchy)
    kept = "".join(f"<li>{part:.1%} kept: {escape(reason)}</li>" for reason, part in why)
    Path(path).write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Hierarchy</title><style>{STYLE}</style><h1>{escape(type(hierarchy.levels[0].model).__name__)}</h1>"
        f"{_table(hierarchy)}<p>{share:.1%} of the parameters have a merged dimension.</p><ul>{kept}</ul>{body}</html>",
        encoding="utf-8",
    )


def _table(hierarchy: Hierarchy) -> str:
    rows = "".join(
        f"<tr><td>{i}</td><td>{x.n_units:,}</td><td>{x.n_parameters:,}</td><td>{x.flops:.3g}</td><td>{x.seconds:.2f}</td></tr>"
        for i, x in enumerate(hierarchy.levels)
    )
    return (
        "<table><tr><th>level</th><th>units</th><th>parameters</th><th>FLOPs</th><th>seconds</th></tr>"
        f"{rows}</table><p>operator complexity {hierarchy.operator_complexity:.3f}, "
        f"grid complexity {hierarchy.grid_complexity:.3f}</p>"
    )


def _level(hierarchy: Hierarchy, i: int) -> str:
    axes = "".join(_axis(name, transfer) for name, transfer in hierarchy.levels[i].transfers.items())
    return f"<h2>From level {i - 1} to level {i}</h2>{axes}"


def _axis(name: str, transfer: Transfer) -> str:
    groups: dict[int, list[int]] = {}
    for unit, aggregate in enumerate(transfer.aggregates[:SHOWN].tolist()):  # -1: left out, and drawn apart
        groups.setdefault(aggregate, []).append(unit)
    drawn = "".join(
        "<div class='aggregate'>" + "".join(f"<span class='unit'>{u}</span>" for u in members) + "</div>"
        for aggregate, members in sorted(groups.items())
        if aggregate >= 0
    )
    rest = transfer.n_fine - SHOWN
    more = f"<p>and {rest:,} units more</p>" if rest > 0 else ""
    more += f"<p>left out: {', '.join(map(str, groups[-1]))}</p>" if -1 in groups else ""
    return (
        f"<details{' open' * (transfer.n_fine <= 64)}><summary>{escape(name)} <span>{transfer.n_fine} units to {transfer.n_coarse}</span></summary>"
        f"<div class='units'>{drawn}</div>{more}</details>"
    )
