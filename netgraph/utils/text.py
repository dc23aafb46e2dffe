"""Shorten names and texts for terminals, tables, figures and graph files, and escape what would steer a terminal."""

from __future__ import annotations

import re

# control characters of both sets, separators of lines, marks of writing direction, and halves of pairs, which no stream takes
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shorten(text: str, length: int, *, substitute: str | None = "·") -> str:
    """Return a text as one printable line of at most ``length`` characters.

    Parameters
    ----------
    text : str
    length : int
        A longer text is cut and ends in an ellipsis.
    substitute : str, optional
        Replaces each character that cannot be printed, such as a line break or a change of writing direction.
        None keeps all characters.

    Returns
    -------
    str

    Examples
    --------
    >>> from netgraph.utils.text import shorten
    >>> shorten("encoder.layer.0", 8)
    'encoder…'
    >>> shorten("two\\nlines", 20)
    'two·lines'
    """
    if substitute is not None:
        text = "".join(c if c.isprintable() else substitute for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return a text with control characters written as in Python source. Names in a file are chosen by whoever made the file.

    Parameters
    ----------
    text : str
    keep : str, default=""
        Characters that stay, such as the line break of a table.

    Returns
    -------
    str

    Examples
    --------
    >>> from netgraph.utils.text import escape_controls
    >>> print(escape_controls("layer\x1b]0;title\x07\nname"))
    layer\x1b]0;title\x07\nname
    """
    return CONTROLS.sub(lambda c: c[0] if c[0] in keep else c[0].encode("unicode_escape").decode(), text)
