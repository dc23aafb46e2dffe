"""How many processes take part in a run, as their launcher and PyTorch tell it."""

from __future__ import annotations

import os
import sys

from netgraph.errors import NetgraphError

# What torchrun, accelerate and Lightning set, then Open MPI, MPICH and Intel MPI, and srun. SLURM_NTASKS is also set where one process runs.
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def count_processes() -> int:
    """Return the number of processes of a distributed run that this one belongs to, 1 if it runs alone."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)  # not imported for a command's help
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return max(map(_read_size, SIZES))


def _read_size(name: str) -> int:
    """Return the number in a variable of the environment as PyTorch reads it, which takes spaces and signs too. 1 if it is none."""
    try:
        return int(os.environ.get(name, ""))
    except ValueError:
        return 1


def check_single_process(user: str, n_processes: int | None = None, *, instead: str = "") -> None:
    """Refuse a run of several processes. Each of them would train a network of its own and say nothing.

    Parameters
    ----------
    user : str
        What cannot run in several processes, as the subject of the message.
    n_processes : int, optional
        Their number, where a library knows it. By default that of `count_processes`.
    instead : str, optional
        Another way out, as the end of the last sentence.

    Raises
    ------
    NetgraphError
    """
    n = count_processes() if n_processes is None else n_processes
    if n > 1:
        raise NetgraphError(
            f"{user} trains in one process, and this is one of {n} (WORLD_SIZE). They would train {n} networks that know nothing of "
            f"each other. Start one process{instead}."
        )
