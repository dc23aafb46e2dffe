"""Free memory, compared with what a file, an option or a config asks for before anything is made."""

from __future__ import annotations

import psutil

from netgraph.errors import LoadError

ALWAYS = 2**24  # bytes that are never counted
VALUE = 64  # bytes of an empty list or dict, the largest value of JSON for each character


def measure_free_memory() -> int:
    """Return the bytes that this process may still take: what the machine has, within the limit of the process."""
    free = int(psutil.virtual_memory().available)
    try:
        import resource
    except ImportError:  # Windows
        return free
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return (
        free if limit == resource.RLIM_INFINITY else min(free, max(limit - int(psutil.Process().memory_info().vms), 0))
    )


def check_memory(n_bytes: int, asker: str, *, free: int | None = None) -> None:
    """Refuse what would not fit into the free memory.

    Parameters
    ----------
    n_bytes : int
        Least memory that is needed.
    asker : str
        What asks for it, as the subject of the message.
    free : int, optional
        What was free before a part of it was taken. By default what is free now.

    Raises
    ------
    LoadError
    """
    if free is None and n_bytes <= ALWAYS:
        return
    if n_bytes > (free := measure_free_memory() if free is None else free):
        raise LoadError(
            f"{asker} asks for {n_bytes:,} bytes, but {free:,} are free. Give smaller sizes, or free some memory."
        )


def check_json(text: str, asker: str) -> None:
    """Refuse a text in JSON whose values would not fit into the free memory. Two characters may make an object of 64 bytes.

    Parameters
    ----------
    text : str
    asker : str
        What holds the text, as the subject of the message.

    Raises
    ------
    LoadError
    """
    check_memory(VALUE * sum(text.count(mark) for mark in "[{,:"), asker)
