"""Shorten names and texts for terminals, tables, figures and graph files."""

from __future__ import annotations


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
