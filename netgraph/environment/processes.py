"""How many processes take part in a run, as torchrun, Lightning and PyTorch tell it."""

from __future__ import annotations

import os
import sys

from netgraph.errors import NetgraphError


def count_processes() -> int:
    """Return the number of processes of a distributed run that this one belongs to, 1 if it runs alone."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)  # not imported for a command's help
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    size = os.environ.get("WORLD_SIZE", "")
    return int(size) if size.isdecimal() else 1


def check_single_process(user: str, n_processes: int | None = None) -> None:
    """Refuse a run of several processes. Each of them would train a network of its own and say nothing.

    Parameters
    ----------
    user : str
        What cannot run in several processes, as the subject of the message.
    n_processes : int, optional
        Their number, where a library knows it. By default that of `count_processes`.

    Raises
    ------
    NetgraphError
    """
    n = count_processes() if n_processes is None else n_processes
    if n > 1:
        raise NetgraphError(
            f"{user} trains in one process, and this is one of {n} (WORLD_SIZE). They would train {n} networks that know nothing of "
            "each other. Start one process."
        )
