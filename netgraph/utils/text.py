"""Texts that somebody else has written: shortened for terminals, tables, figures and graph files, escaped where they would steer a
terminal, and read as Python literals without exhausting the parser.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

# of Unicode: control characters, marks without a picture (writing direction, zero width), halves of pairs, ends of lines and of paragraphs
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_BEYOND_ASCII = re.compile(r"[^ -~]")

LONGEST_MESSAGE = 8000  # characters. Names and lists in messages may be of any length.
LONGEST_LITERAL = 2**16  # characters
LONGEST_INDEX = 18  # digits, below 2**63
DEEPEST_LITERAL = 50  # brackets, signs and operators inside one another


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


def format_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right.

    Examples
    --------
    >>> from netgraph.utils.text import format_columns
    >>> format_columns(["network", "ms"], [["a", "12.5"]])
    ['network    ms', 'a        12.5']
    """
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return a text with control characters written as in Python source. The maker of a file chooses the names in it.

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
    return replace_hidden(text, lambda c: c if c in keep else c.encode("unicode_escape").decode())


def format_message(text: str) -> str:
    """Return a message as one line with escaped control characters. The middle of a very long one is left out.

    Examples
    --------
    >>> from netgraph.utils.text import format_message
    >>> format_message("unexpected two\\nlines")
    'unexpected two\\\\nlines'
    >>> format_message("unexpected " + "n" * 10**6 + ". Check --arch.")[3985:4050]
    'nnnnnnnnnnnnnnn… (993,026 characters left out) …nnnnnnnnnnnnnnnnn'
    """
    text = escape_controls(text)
    if len(text) <= LONGEST_MESSAGE:
        return text
    begin, end = LONGEST_MESSAGE // 2, LONGEST_MESSAGE // 8 * 3
    return f"{text[:begin]}… ({len(text) - begin - end:,} characters left out) …{text[-end:]}"


def replace_hidden(text: str, write: Callable[[str], str]) -> str:
    r"""Return a text with each character of the categories `HIDDEN` as ``write`` returns it.

    Examples
    --------
    >>> from netgraph.utils.text import replace_hidden
    >>> replace_hidden("a\u200bb", lambda c: f"<{ord(c):x}>")
    'a<200b>b'
    """
    return _BEYOND_ASCII.sub(lambda m: write(m[0]) if unicodedata.category(m[0]) in HIDDEN else m[0], text)


def format_json(value: Any, **options: Any) -> str:
    r"""Return JSON in printable ASCII, by the options of `json.dumps`, which leaves the character DEL as it is.

    Examples
    --------
    >>> from netgraph.utils.text import format_json
    >>> print(format_json({"name": "\x1b\x7f"}))
    {"name": "\u001b\u007f"}
    """
    return json.dumps(value, **options).replace("\x7f", "\\u007f")


class LiteralError(ValueError):
    """A literal is too long or too deep. The message goes on after its name."""


def parse_expression(text: str) -> ast.expr:
    """Return the tree of an expression that is not too long and not too deep.

    Raises
    ------
    LiteralError
        It is too long or too deep.
    ValueError, SyntaxError
        It is no expression.
    """
    if len(text) > LONGEST_LITERAL:
        raise LiteralError(f"has {len(text):,} characters, and at most {LONGEST_LITERAL:,} are read")
    if _count_brackets(text) > DEEPEST_LITERAL:
        raise LiteralError(f"has more than {DEEPEST_LITERAL} brackets inside one another")
    try:
        return ast.parse(text, mode="eval").body
    except (RecursionError, MemoryError) as error:  # the parser's words for too many signs or operators
        raise LiteralError("is an expression that is too deep") from error


def read_literal(text: str) -> Any:
    """Return the value of a Python literal.

    Raises
    ------
    LiteralError
        It is too long or too deep.
    ValueError, SyntaxError
        It is no literal.

    Examples
    --------
    >>> from netgraph.utils.text import read_literal
    >>> read_literal("[1, {'a': None}]")
    [1, {'a': None}]
    >>> read_literal("[" * 1000)
    Traceback (most recent call last):
        ...
    netgraph.utils.text.LiteralError: has more than 50 brackets inside one another
    """
    tree = parse_expression(text.lstrip(" \t"))
    try:
        return ast.literal_eval(tree)
    except (RecursionError, MemoryError) as error:
        raise LiteralError("is an expression that is too deep") from error
    except TypeError as error:  # such as a list in a set
        raise ValueError(str(error)) from error


def is_index(text: str) -> bool:
    """Return True for the digits of a number that counts something: ``isdigit`` also takes ``²``, and `int` refuses 5,000 digits.

    Examples
    --------
    >>> from netgraph.utils.text import is_index
    >>> is_index("12"), is_index("²"), is_index("9" * 5000), is_index("")
    (True, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST_INDEX


def _count_brackets(text: str) -> int:
    """Return how deep brackets are inside one another. Those in quotes count too: a text in options has few."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}" and depth > 0)
        deepest = max(deepest, depth)
    return deepest
