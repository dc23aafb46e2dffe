"""The solver's options as a table, read from where they are defined."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, NamedTuple

from netgraph.fas.options import Options


class Row(NamedTuple):
    """One option: its dotted name, its default as text, and what it means."""

    name: str
    default: str
    meaning: str


def table() -> list[Row]:
    """Return every option; one level's own are ``level.2.lr``, ``level.2.pre``, ``level.1.gate.gap``."""
    options = Options()
    groups = [(f.name, getattr(options, f.name)) for f in fields(Options) if f.name != "levels"]
    return [
        Row(f"{group}.{f.name}", _text(getattr(value, f.name)), _meanings(type(value)).get(f.name, ""))
        for group, value in groups
        for f in fields(value)
    ]


def _meanings(group: type) -> dict[str, str]:
    """Return what the docstring says of each field."""
    parts = re.split(r"^    (\w+) : .*$", group.__doc__ or "", flags=re.M)[1:]
    return {name: " ".join(text.replace("``", "").split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" for part in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
