"""HTML tables for notebooks, which ``_repr_html_`` methods return. They have no script, style sheet or request, and all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from netgraph.utils.text import shorten

ROWS = 60  # rows of a table. The others are counted.
CHARACTERS = 120  # characters of a cell


def render_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, foot: str = "") -> str:
    """Return an HTML table.

    Parameters
    ----------
    caption : str
    head : sequence of str
        Titles of the columns.
    rows : iterable of sequences
        Numbers are aligned to the right, with commas. Text is escaped and cut after `CHARACTERS`. Rows after the first `ROWS`
        are only counted.
    foot : str, default=""
        Line below the table.

    Returns
    -------
    str

    Examples
    --------
    >>> from netgraph.utils.html_table import render_table
    >>> "<td style='text-align:right'>1,200</td>" in render_table("Axes", ["units"], [[1200]])
    True
    """
    lines = list(rows)
    body = "".join(f"<tr>{''.join(map(_render_cell, row))}</tr>" for row in lines[:ROWS])
    if len(lines) > ROWS:
        body += f"<tr><td colspan='{len(head)}'>and {len(lines) - ROWS:,} more</td></tr>"
    top = "".join(f"<th scope='col' style='text-align:left'>{_shorten_text(word)}</th>" for word in head)
    below = f"<p>{_shorten_text(foot)}</p>" if foot else ""
    title = f"<caption style='text-align:left;font-weight:600'>{_shorten_text(caption)}</caption>"
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{below}"


def _render_cell(value: object) -> str:
    """Return one cell: numbers to the right, text to the left."""
    if isinstance(value, int):
        return f"<td style='text-align:right'>{value:,}</td>"
    if isinstance(value, float):
        return f"<td style='text-align:right'>{value:.3g}</td>"
    return f"<td style='text-align:left'>{_shorten_text(str(value))}</td>"


def _shorten_text(text: str) -> str:
    """Return text on one line, cut and escaped."""
    return escape(shorten(text, CHARACTERS))
