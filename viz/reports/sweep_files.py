"""A sweep as a file: the suffix chooses a table, a picture, or a page with both."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape
from pathlib import Path

from netgraph.coarsen.sweeps.result import Sweep
from netgraph.coarsen.sweeps.table_files import format_csv, format_document, format_latex
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.utils.text import shorten
from netgraph.viz.figures.hierarchy import STYLE, save_figure
from netgraph.viz.page.page import fill_template, policy_digest, read_asset
from netgraph.viz.reports.sweep_figure import plot_sweep

TEXTS: dict[str, Callable[[Sweep], str]] = {".csv": format_csv, ".json": format_document, ".tex": format_latex}
PICTURES = (".svg", ".png", ".pdf")
SUFFIXES = (*TEXTS, *PICTURES, ".html")


def check_sweep_file(path: str | Path) -> None:
    """Check before work begins that a sweep can be written to a file.

    Raises
    ------
    NetgraphError
        The suffix is none of those, the path cannot be written, or matplotlib is missing for a picture.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise NetgraphError(
            f"{path} ends in {path.suffix or 'nothing'}, and a sweep is written as {', '.join(SUFFIXES)}. Give such a name."
        )
    check_output_file(path)
    if path.suffix.lower() not in TEXTS:
        import_package("matplotlib", "a figure")


def write_sweep(sweep: Sweep, path: str | Path) -> None:
    """Write a sweep to a file.

    Parameters
    ----------
    sweep : Sweep
        From `netgraph.coarsen.sweep`.
    path : path
        ``.csv`` and ``.json`` hold all digits, ``.tex`` a table of the package booktabs. ``.svg``, ``.png`` and ``.pdf`` are the picture of
        `plot_sweep`, and ``.html`` is one offline page with picture and table.

    Raises
    ------
    NetgraphError
        The suffix is none of these, the file cannot be written, or a picture has nothing to show.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import sweep
    >>> from netgraph.viz import write_sweep
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> result = sweep(network, torch.randn(64, 8), ratios=[0.5], coarseners=["hem"], repairs=["none"], latency=False)
    >>> write_sweep(result, "sweep.csv")
    >>> print(open("sweep.csv").readline().strip())
    affinity,coarsener,budget,ratio,repair,parameters,flops_per_sample,error,class,seconds,pareto,reason
    """
    path = Path(path)
    check_sweep_file(path)
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        save_figure(plot_sweep(sweep), path)
        return
    text = render_sweep_page(sweep) if suffix == ".html" else TEXTS[suffix](sweep)
    write_atomically(lambda place: place.write_text(text, encoding="utf-8"), path)


def render_sweep_page(sweep: Sweep) -> str:
    """Return one offline HTML page with the picture and the table. It has no script, and all names are escaped."""
    style = read_asset("theme.css") + read_asset("sweep.css")
    policy = f"default-src 'none'; style-src {policy_digest(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    head, rows = sweep.format_table()
    top = "".join(f"<th scope='col'>{_escape(word)}</th>" for word in head)
    body = "".join(f"<tr>{''.join(map(_render_cell, row))}</tr>\n" for row in rows)
    foot = "".join(f"<p>{_escape(line, 2000)}</p>" for line in sweep.describe())
    count = len(sweep.rows) - 1
    parts = {
        "policy": policy, "style": style, "picture": _draw_picture(sweep), "head": top, "rows": body, "foot": foot,
        "title": _escape(f"Sweep of {count} combination{'s' * (count != 1)} by {sweep.metric}"),
    }  # fmt: skip
    return fill_template("sweep.html", parts)


def _draw_picture(sweep: Sweep) -> str:
    """Return the picture as the text of a ``data:`` address. As an image it can run nothing."""
    matplotlib = import_package("matplotlib", "a figure")
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        plot_sweep(sweep).savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def _render_cell(text: str) -> str:
    """Return a cell: numbers to the right."""
    is_number = text.lstrip("-")[:1].isdigit()
    return f"<td{' class=number' if is_number else ''}>{_escape(text)}</td>"


def _escape(text: str, length: int = 120) -> str:
    return escape(shorten(text, length))
