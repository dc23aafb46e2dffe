"""Values of options as they were typed: read, and refused by name where they are none."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import typer

from netgraph.errors import NetgraphError


def value_or_default(given: Any, usual: Any) -> Any:
    """Return what was given, the usual where nothing was."""
    return usual if given is None else given


def check_positive(name: str, value: float) -> float:
    """Return a number that has to be above 0."""
    if not 0 < value < float("inf"):
        raise NetgraphError(f"{name} is {value:g}; give a number above 0")
    return value


def check_weight_decay(value: float) -> float:
    """Return a decay of weights, which has to be 0 or more."""
    if not 0 <= value < float("inf"):
        raise NetgraphError(f"--weight-decay is {value:g}; give a number of 0 or more")
    return value


def check_below_one(name: str, value: float | None) -> None:
    """Refuse what is no share below 1."""
    if value is not None and not 0 <= value < 1:
        raise NetgraphError(f"--{name} is {value:g}; give a number from 0 on and below 1")


def check_choice(what: str, name: str, among: Any) -> str:
    """Return a name that has to be among others."""
    if name not in among:
        raise NetgraphError(f"no {what} is called {name!r}; there are {', '.join(among)}")
    return name


def parse_numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Read numbers with commas between them."""
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise NetgraphError(f"--{name} {text!r} is no list of numbers with commas between them") from None


def parse_pairs(texts: list[str]) -> dict[str, str]:
    """Read NAME=VALUE, again and again."""
    for text in texts:
        if "=" not in text:
            raise NetgraphError(f"--option {text!r} is not NAME=VALUE; `netgraph train --options` lists the names")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def explain_usage_error(error: typer.TyperException, words: Sequence[str]) -> str:
    """Return what to tell about a command line that cannot be read; the help where nothing was typed."""
    if not words:
        return error.format_message()
    told = error.format_message().strip().removesuffix(".")
    found = _find_typed_value(getattr(getattr(error, "param", None), "opts", ()), words)
    told += f" (found {found!r})" if found is not None else ""
    path = getattr(getattr(error, "ctx", None), "command_path", "netgraph")
    return f"netgraph: {told[:1].lower()}{told[1:]}; `{path} --help` lists what can be given"


def _find_typed_value(options: Sequence[str], words: Sequence[str]) -> str | None:
    """Return what was typed behind an option the last time, ``--option=value`` or ``--option value``."""
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return next((value for option, value in list(pairwise(parts))[::-1] if option in options), None)


def check_port(port: int) -> None:
    """Refuse a port that another program listens on.

    Raises
    ------
    NetgraphError
    """
    with socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ours.bind(("127.0.0.1", port))
        except OSError as error:
            raise NetgraphError(
                f"port {port} is not to be had ({error.strerror}); give another one by --port"
            ) from error
