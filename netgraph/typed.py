"""Values of options as they were typed: read, and refused by name where they are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netgraph.errors import NetgraphError


def or_usual(given: Any, usual: Any) -> Any:
    """Return what was given, the usual where nothing was."""
    return usual if given is None else given


def above_zero(name: str, value: float) -> float:
    """Return a number that has to be above 0."""
    if not 0 < value < float("inf"):
        raise NetgraphError(f"{name} is {value:g}; give a number above 0")
    return value


def decay_of(value: float) -> float:
    """Return a decay of weights, which has to be 0 or more."""
    if not 0 <= value < float("inf"):
        raise NetgraphError(f"--weight-decay is {value:g}; give a number of 0 or more")
    return value


def below_one(name: str, value: float | None) -> None:
    """Refuse what is no share below 1."""
    if value is not None and not 0 <= value < 1:
        raise NetgraphError(f"--{name} is {value:g}; give a number from 0 on and below 1")


def known(what: str, name: str, among: Any) -> str:
    """Return a name that has to be among others."""
    if name not in among:
        raise NetgraphError(f"no {what} is called {name!r}; there are {', '.join(among)}")
    return name


def numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Read numbers with commas between them."""
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise NetgraphError(f"--{name} {text!r} is no list of numbers with commas between them") from None


def pairs(texts: list[str]) -> dict[str, str]:
    """Read NAME=VALUE, again and again."""
    for text in texts:
        if "=" not in text:
            raise NetgraphError(f"--option {text!r} is not NAME=VALUE; `netgraph train --options` lists the names")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}
