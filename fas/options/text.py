"""Options of the solver as text, and their table.

As text an option is called ``group.name``, such as ``gate.gap=0.05``, and for a single level ``level.2.lr=3e-4``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from netgraph.errors import NetgraphError
from netgraph.fas.options.all_options import GROUPS, Options, find_level_option, iterate_options
from netgraph.fas.options.declaration import format_value, read_declaration
from netgraph.utils.text import is_index


def parse_options(texts: Mapping[str, str]) -> Options:
    """Read options from text by their dotted names.

    Parameters
    ----------
    texts : dict of str to str
        Values by dotted name, such as ``{"tau.kind": "whole", "level.2.lr": "3e-4"}``.

    Returns
    -------
    Options

    Raises
    ------
    NetgraphError
        No option has that name, or the value has another type or is out of bounds.

    Examples
    --------
    >>> from netgraph.fas import parse_options
    >>> options = parse_options({"gate.search": "1,0.5", "level.1.pre": "7"})
    >>> options.gate.search, options.smoothing_of(1).pre
    ((1.0, 0.5), 7)
    """
    groups: dict[str, Any] = {name: group() for name, group in GROUPS.items()}
    levels: dict[int, dict[str, Any]] = {}
    for name, text in texts.items():
        group, _, rest = name.partition(".")
        if group == "level":
            number, _, option = rest.partition(".")
            if not is_index(number):
                raise NetgraphError(f"option {name!r} names no level. Write level.2.lr for the third level.")
            default = find_level_option(int(number), option)[1]
            levels.setdefault(int(number), {})[option] = _parse_value(name, text, default)
        elif name in list_option_names():
            value = _parse_value(name, text, getattr(groups[group], rest))
            groups[group] = replace(groups[group], **{rest: value})
        else:
            raise NetgraphError(
                f"no option is called {name!r}. There are {', '.join(list_option_names())} and level.N.NAME."
            )
    return Options(**groups, levels=levels)


def _parse_value(name: str, text: str, default: Any) -> Any:
    """Read a value of the type of the default. A default of None stands for an optional number."""
    read, kind = _reader_of(default)
    try:
        return read(text)
    except (ValueError, KeyError):
        raise NetgraphError(
            f"option {name} is {text!r}, which is not {kind}. Its default is {format_value(default)}."
        ) from None


def _reader_of(default: Any) -> tuple[Callable[[str], Any], str]:
    """Return a function that reads values of the type of the default, and the type in words."""
    if isinstance(default, bool):
        return lambda text: {"true": True, "false": False, "1": True, "0": False}[text.lower()], "true or false"
    if isinstance(default, tuple):
        return lambda text: tuple(float(part) for part in text.split(",") if part), "a list of numbers with commas"
    if default is None:
        return lambda text: None if text == "none" else float(text), "a number or none"
    kinds = {int: "a whole number", float: "a number", str: "a word"}
    return type(default), kinds[type(default)]


class OptionRow(NamedTuple):
    """One row of the table: dotted name, default as text, unit and meaning."""

    name: str
    default: str
    unit: str
    meaning: str


def list_option_names() -> list[str]:
    """Return the dotted names of all options."""
    return [name for name, _ in iterate_options()]


def build_option_table() -> list[OptionRow]:
    """Return the table of options that ``netgraph train --options`` prints.

    Returns
    -------
    rows : list of OptionRow
        One row of name, default, unit and meaning for each option, and a last one for the options of single levels.

    Examples
    --------
    >>> from netgraph.fas import build_option_table
    >>> print(*build_option_table()[0], sep=" | ")
    smoothing.pre | 4 | optimizer steps | Steps on a level before going down.
    """
    rows = [
        OptionRow(
            f"{group_name}.{f.name}", format_value(f.default), read_declaration(f).unit, read_declaration(f).meaning
        )
        for group_name, group in GROUPS.items()
        for f in fields(group)
    ]
    of_levels = "For one level, where 0 is the finest: lr, pre and the rest of smoothing, estimate.NAME, gate.NAME and tau.NAME."
    return [*rows, OptionRow("level.N.NAME", "", "", of_levels)]


def format_option_table() -> str:
    """Return the table in Markdown, as it stands in ``docs/fas.md``."""
    lines = ["| option | default | unit | meaning |", "|---|---|---|---|"]
    for name, default, unit, meaning in build_option_table():
        cells = (f"`{name}`", f"`{default}`" if default else "", unit, meaning)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)
