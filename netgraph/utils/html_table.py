"""Tables for notebooks: what ``_repr_html_`` of our nouns returns. No script, no style sheet, no request; all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from netgraph.utils.text import shorten

ROWS = 60  # of one table; the rest are counted
CHARACTERS = 120  # of one cell


def render_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, foot: str = "") -> str:
    """Return an HTML table.

    Parameters
    ----------
    caption : str
    head : sequence of str
    rows : iterable of sequences
        Numbers are aligned to the right, with commas; text is escaped, and cut after `CHARACTERS`.
    foot : str
        A line below.
    """
    found = list(rows)
    body = "".join(f"<tr>{''.join(map(_render_cell, row))}</tr>" for row in found[:ROWS])
    if len(found) > ROWS:
        body += f"<tr><td colspan='{len(head)}'>and {len(found) - ROWS:,} more</td></tr>"
    top = "".join(f"<th scope='col' style='text-align:left'>{_shorten_text(word)}</th>" for word in head)
    below = f"<p>{_shorten_text(foot)}</p>" if foot else ""
    title = f"<caption style='text-align:left;font-weight:600'>{_shorten_text(caption)}</caption>"
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{below}"


def _render_cell(value: object) -> str:
    if isinstance(value, int):
        return f"<td style='text-align:right'>{value:,}</td>"
    if isinstance(value, float):
        return f"<td style='text-align:right'>{value:.3g}</td>"
    return f"<td style='text-align:left'>{_shorten_text(str(value))}</td>"


def _shorten_text(text: str) -> str:
    return escape(shorten(text, CHARACTERS))
