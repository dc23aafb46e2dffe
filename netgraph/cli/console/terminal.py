"""The one way to the terminal: text is escaped on its way to stdout and stderr."""

from __future__ import annotations

import typer

from netgraph.utils.text import escape_controls, format_json


def echo(line: object = "", *, err: bool = False) -> None:
    """Print one line to stdout, or with ``err`` to stderr. Control characters in it are escaped, line breaks too."""
    _write(escape_controls(str(line)), err)


def echo_lines(text: object, *, err: bool = False) -> None:
    """Print a table with escaped names to stdout or stderr. Line breaks and tabs stay."""
    _write(escape_controls(str(text), keep="\n\t"), err)


def echo_json(value: object) -> None:
    """Print data to stdout as JSON, in which all characters but printable ASCII and line breaks are escaped."""
    _write(format_json(value, indent=1), err=False)


def _write(text: str, err: bool) -> None:
    """Write to stdout, or to stderr. A message that stderr does not take is dropped, because it must not end the work."""
    try:
        typer.echo(text, err=err)
    except OSError:
        if not err:
            raise
