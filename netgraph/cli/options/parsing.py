"""Wrong usage explained in one sentence: the mistake, the typed value, and the command that lists the right words."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import pairwise

import typer

from netgraph.errors import NetgraphError


def explain_usage_error(error: typer.TyperException, words: Sequence[str]) -> str:
    """Explain why a command line cannot be read.

    Parameters
    ----------
    error : typer.TyperException
    words : sequence of str
        The command line without the name of the program.

    Returns
    -------
    str
        One line, or the help where nothing was typed.
    """
    if not words:
        return error.format_message()
    message = error.format_message().strip().removesuffix(".")
    value = _find_typed_value(getattr(getattr(error, "param", None), "opts", ()), words)
    message += f" (found {value!r})" if value is not None else ""
    path = getattr(getattr(error, "ctx", None), "command_path", "netgraph")
    return f"netgraph: {message[:1].lower()}{message[1:]}. See `{path} --help`."


def _find_typed_value(options: Sequence[str], words: Sequence[str]) -> str | None:
    """Return the last value typed for an option, as ``--option=value`` or ``--option value``."""
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return next((value for option, value in list(pairwise(parts))[::-1] if option in options), None)


def check_port(port: int) -> None:
    """Refuse a port on which another program listens.

    Raises
    ------
    NetgraphError
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise NetgraphError(
                f"port {port} is not available ({error.strerror}). Give another one by --port."
            ) from error
