"""The processes of ``torchrun`` that train one network: joined before work begins, with one of them that prints and writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from netgraph.cli.console.terminal import echo
from netgraph.environment.processes import check_single_process, count_processes
from netgraph.errors import NetgraphError, describe_error
from netgraph.utils.choices import PARALLEL

if TYPE_CHECKING:
    from netgraph.fas.solver.train_options import TrainOptions

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FAILED = "rank 0 has failed"  # key of the store that all processes read
SECONDS = 5.0  # in which the first process says that it failed too


@contextmanager
def join_processes(options: TrainOptions) -> Iterator[tuple[TrainOptions, bool]]:
    """Join the processes that ``torchrun`` started, for a block. Give the options of this one, and True if it prints and writes.

    All processes but the first are silent. If one of them fails by itself, it prints its error. What all of them refuse is
    printed by the first.

    Raises
    ------
    NetgraphError
        Several processes were started and cannot train together.
    """
    if options.parallel not in (None, *PARALLEL):
        options.check()  # which refuses the word
    n = count_processes()
    if n == 1 or options.parallel == "none":
        check_single_process("netgraph train", instead=", or leave out --parallel none")
        if options.parallel == "ddp":
            echo("netgraph: --parallel ddp changes nothing, because this is one process", err=True)
        yield replace(options, parallel=None), True
        return
    rank, count = _read_place(n)
    if options.auto is not None:
        raise NetgraphError(
            "--auto measures seconds, which several processes do not share. Leave it out, or start one process."
        )
    device = _choose_device(options.device)
    store = _join(rank, count, device)
    options = replace(options, parallel="ddp", device=device)
    if rank == 0:
        with _telling_failure(store):
            yield options, True
    else:
        with _silent(rank, store):
            yield options, False


def _read_place(n: int) -> tuple[int, int]:
    """Return the rank of this process and the number of all, from the variables that ``torchrun`` sets."""
    missing = [name for name in VARIABLES if not os.environ.get(name, "").strip()]
    if missing:
        raise NetgraphError(
            f"this is one of {n} processes, which cannot find each other without {', '.join(missing)}. Start them with torchrun "
            f"--nproc-per-node {n} -m netgraph train, which sets what they need."
        )
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        raise NetgraphError(
            f"RANK is {os.environ['RANK']!r} and WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, which are no numbers. Start the processes "
            "with torchrun."
        ) from None


def _choose_device(device: str) -> str:
    """Return the device of this process: the CPU, or the GPU of its number on this machine."""
    if device == "cpu":
        return device
    if device != "cuda":
        raise NetgraphError(f"--device {device} is for one process. Several train on cpu or cuda.")
    import torch

    local, n = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= n:
        raise NetgraphError(
            f"--device cuda gives each process a GPU of its own, and process {local} of this machine finds {n}. Start at most as many "
            "processes as there are GPUs, or take cpu."
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _join(rank: int, count: int, device: str) -> Any:
    """Join the group of processes, over gloo on CPUs and NCCL on GPUs, and return a store of short texts that all can read."""
    import torch.distributed

    dist: Any = torch.distributed  # which has its stores without stating so
    environment: Mapping[str, str] = os.environ
    # where torchrun's agent holds the store, it outlives the processes
    agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), count, rank == 0 and not agent,
            timeout=timedelta(minutes=10), wait_for_workers=False,
        )  # fmt: skip
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        shared = dist.PrefixStore(f"netgraph/{attempt}", store)
        dist.init_process_group(
            "gloo" if device == "cpu" else "nccl", store=dist.PrefixStore("group", shared), rank=rank, world_size=count
        )
    except (RuntimeError, ValueError) as error:
        raise NetgraphError(
            f"process {rank} of {count} cannot join the others at {environment['MASTER_ADDR']}:{environment['MASTER_PORT']} "
            f"({describe_error(error)}). Start all of them with torchrun."
        ) from error
    return shared


@contextmanager
def _telling_failure(store: Any) -> Iterator[None]:
    """Let the other processes know that the first one failed, and prints why."""
    import torch.distributed as dist

    try:
        yield
    except BaseException:
        store.set(FAILED, "yes")
        raise
    dist.destroy_process_group()


@contextmanager
def _silent(rank: int, store: Any) -> Iterator[None]:
    """Print nothing on a process that is not the first, except an error of its own."""
    import torch.distributed as dist

    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
            dist.destroy_process_group()
        except Exception as error:
            if isinstance(error, typer.Exit) or _first_has_failed(store):
                raise typer.Exit(getattr(error, "exit_code", 1)) from error
            sys.stderr = streams[1]
            if isinstance(error, NetgraphError):
                echo(f"netgraph: rank {rank}: {error}", err=True)
                raise typer.Exit(error.exit_code) from error
            raise
        finally:
            sys.stdout, sys.stderr = streams


def _first_has_failed(store: Any) -> bool:
    """Return True if the first process says within a few seconds that it failed too, or is gone with its store."""
    try:
        store.wait([FAILED], timedelta(seconds=SECONDS))
    except RuntimeError as error:  # of the store: nothing was said in time, or it has ended
        return "timeout" not in str(error).lower()
    return True
