"""Free memory, compared with what a file, an option or a config asks for before anything is made."""

from __future__ import annotations

import psutil

from netgraph.errors import LoadError

ALWAYS = 2**24  # bytes that are never counted


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


def check_memory(n_bytes: int, asker: str) -> None:
    """Refuse what would not fit into the free memory.

    Parameters
    ----------
    n_bytes : int
        Least memory that is needed.
    asker : str
        What asks for it, as the subject of the message.

    Raises
    ------
    LoadError
    """
    if n_bytes > ALWAYS and n_bytes > (free := measure_free_memory()):
        raise LoadError(
            f"{asker} asks for {n_bytes:,} bytes, but {free:,} are free. Give smaller sizes, or free some memory."
        )
