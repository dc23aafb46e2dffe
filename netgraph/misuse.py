"""Wrong usage in one sentence: what was typed, what is wrong with it, and where the right words stand."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import pairwise

import typer

from netgraph.errors import NetgraphError


def misused(error: typer.TyperException, words: Sequence[str]) -> str:
    """Return what to tell about a command line that cannot be read; the help where nothing was typed."""
    if not words:
        return error.format_message()
    told = error.format_message().strip().removesuffix(".")
    found = _found(getattr(getattr(error, "param", None), "opts", ()), words)
    told += f" (found {found!r})" if found is not None else ""
    path = getattr(getattr(error, "ctx", None), "command_path", "netgraph")
    return f"netgraph: {told[:1].lower()}{told[1:]}; `{path} --help` lists what can be given"


def _found(options: Sequence[str], words: Sequence[str]) -> str | None:
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
