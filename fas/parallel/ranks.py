"""Ranks: the processes that train one network, and what they tell each other.

Each number that a decision is made from is the same on all ranks, bit for bit: a mean is added up in the order of the ranks on each of
them, and what belongs to one process, such as its clock, is that of the first rank. `torch.distributed` carries it. A process that
trains alone is one rank of one, and tells nobody anything.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from netgraph.environment.processes import check_single_process
from netgraph.errors import NetgraphError, describe_error

Value = TypeVar("Value")
PARALLEL = ("ddp",)


class Ranks:
    """The processes of a run.

    Parameters
    ----------
    rank : int, default 0
    count : int, default 1
    device : torch.device, optional
        Where the backend takes numbers: the GPU for NCCL, by default the CPU.

    Attributes
    ----------
    asked : object
        What this rank asks of all, such as to stop, until they `agree`. None if it asks nothing.
    anyone_asked : bool
        True if a `mean` has shown that some rank asks something.
    alone : bool
        True while a callback runs on the first rank alone.
    failure : Exception, optional
        What such a callback raised, until the ranks `agree`.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.count, self.device = rank, count, device or torch.device("cpu")
        self.asked: Any = None
        self.anyone_asked, self.alone = False, False
        self.failure: Exception | None = None

    @property
    def is_first(self) -> bool:
        """True on the rank that prints, measures and writes."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """True if there is more than one process."""
        return self.count > 1

    def mean(self, number: float) -> float:
        """Return the mean of a number over the ranks, the same bits on each. It also tells whether some rank asks something."""
        if not self.are_several:
            return number
        own = torch.tensor([number, float(self.asked is not None)], dtype=torch.float64, device=self.device)
        rows = [torch.empty_like(own) for _ in range(self.count)]
        with self._together():
            dist.all_gather(rows, own)
        table = torch.stack(rows).tolist()
        self.anyone_asked = self.anyone_asked or any(asked for _, asked in table)
        return float(sum(value for value, _ in table)) / self.count

    def gather(self, value: Value) -> list[Value]:
        """Return a value of each rank, on all of them."""
        if not self.are_several:
            return [value]
        values: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(values, value)
        return values

    def share(self, value: Value) -> Value:
        """Return the value of the first rank."""
        if not self.are_several:
            return value
        values = [value if self.is_first else None]
        with self._together():
            dist.broadcast_object_list(values, src=0)
        shared: Any = values[0]
        return value if self.is_first else shared

    def run_on_first(self, work: Callable[[], Value]) -> Value:
        """Return what the first rank gets from some work. The others wait. An error there ends all ranks.

        Raises
        ------
        NetgraphError
            The work failed on the first rank, which raises its own error.
        """
        if self.is_first:
            return self.run_on_all(work)
        return self.run_on_all(lambda: cast(Value, None))  # what the first rank gets takes its place

    def run_on_all(self, work: Callable[[], Value]) -> Value:
        """Return what the first rank gets from work that every rank does. An error on one of them ends all.

        Raises
        ------
        NetgraphError
            The work failed on another rank, which raises its own error.
        """
        if not self.are_several:
            return work()
        self._check_not_alone()
        result: Any = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        answers = self.gather(None if failure is None else describe_error(failure))
        if failure is not None:
            raise failure
        self._refuse_failures(answers)
        shared: Value = self.share(result)
        return shared

    @staticmethod
    def _refuse_failures(answers: Sequence[str | None]) -> None:
        """Raise an error for the first rank that failed."""
        for rank, failure in enumerate(answers):
            if failure is not None:
                raise NetgraphError(f"rank {rank} failed: {failure}")

    def share_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the first rank, one message for each type."""
        if not self.are_several:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            with self._together():
                dist.broadcast(flat, src=0)
            if not self.is_first:
                parts = flat.split([tensor.numel() for tensor in alike])
                with torch.no_grad():
                    for tensor, part in zip(alike, parts, strict=True):
                        tensor.copy_(part.view_as(tensor))

    def agree(self) -> Any:
        """Return what the lowest rank with a wish asks of all, or None. A callback that failed on the first rank ends all.

        Raises
        ------
        NetgraphError
            A callback failed. The first rank raises the callback's own error.
        """
        asked, failure, self.failure = self.asked, self.failure, None
        answers = self.gather((asked, None if failure is None else describe_error(failure)))
        self.anyone_asked = False
        if self.asked is asked:  # otherwise a signal has arrived meanwhile
            self.asked = None
        if failure is not None:
            raise failure
        self._refuse_failures([words for _, words in answers])
        return next((wish for wish, _ in answers if wish is not None), None)

    def check_equal(self, facts: Mapping[str, Any], advice: str) -> None:
        """Refuse facts that are not the same on all ranks.

        Parameters
        ----------
        facts : dict of str to object
            Short values by their names in words.
        advice : str
            What to do, as a sentence.

        Raises
        ------
        NetgraphError
            On all ranks, with the first difference.
        """
        first, *others = self.gather(dict(facts))
        for rank, there in enumerate(others, start=1):
            for name in [*first, *(name for name in there if name not in first)]:
                if first.get(name) != there.get(name):
                    raise NetgraphError(
                        f"the ranks differ in {name}: {first.get(name)} on rank 0 and {there.get(name)} on rank {rank}. {advice}"
                    )

    def call(self, callback: Callable[..., None], run: Any, record: dict[str, Any]) -> None:
        """Call a callback: on the first rank alone, or on every one if it is marked so (`on_every_rank`)."""
        if not self.are_several or self.alone or getattr(callback, "on_every_rank", False):
            callback(run, record)
        elif self.is_first and self.failure is None:
            self._call_alone(callback, run, record)

    def _call_alone(self, callback: Callable[..., None], run: Any, record: dict[str, Any]) -> None:
        """Call a callback that the other ranks do not call. They learn of its error when the ranks agree."""
        self.alone = True
        try:
            callback(run, record)
        except Exception as error:
            self.failure = error
        finally:
            self.alone = False

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Do something with all ranks. One that has ended is an error in words."""
        self._check_not_alone()
        try:
            yield
        except RuntimeError as error:
            if (lost := describe_lost_rank(error)) is None:
                raise
            raise NetgraphError(lost) from error

    def _check_not_alone(self) -> None:
        """Refuse what all ranks must do together where the first one is alone. It would wait for the others forever."""
        if self.alone:
            raise NetgraphError(
                "a callback that runs on rank 0 alone asked for work of all ranks, such as an evaluation. Give it the attribute "
                "on_every_rank = True, so that every rank calls it."
            )


def join_ranks(parallel: str | None, user: str) -> Ranks:
    """Return the ranks of a run.

    Parameters
    ----------
    parallel : str or None
        ``ddp``, or None for a run of one process.
    user : str
        What runs, as the subject of the message.

    Raises
    ------
    NetgraphError
        Several processes were started for a run of one, or there is no group of processes for a run of several.
    """
    if parallel is None:
        check_single_process(
            user, instead=", or give parallel='ddp' and begin with torch.distributed.init_process_group"
        )
        return Ranks()
    if not dist.is_available() or not dist.is_initialized():
        raise NetgraphError(
            f"parallel is {parallel!r}, and this process has joined no group of processes. Start it with torchrun, and call "
            "torch.distributed.init_process_group first."
        )
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), device)
    if not ranks.is_first:
        logging.getLogger("netgraph").setLevel(logging.ERROR)  # warnings come once, from the first rank
    return ranks


def on_every_rank(callback: Value) -> Value:
    """Mark a callback that all ranks call, because it makes a decision or asks for work of all of them."""
    callback.on_every_rank = True  # type: ignore[attr-defined]  # functions and objects with __dict__ take any attribute
    return callback


def check_parallel(parallel: str | None) -> str | None:
    """Return the way in which several processes train.

    Raises
    ------
    NetgraphError
        There is no such way.
    """
    if parallel is not None and parallel not in PARALLEL:
        raise NetgraphError(
            f"parallel is {parallel!r}. Give {' or '.join(map(repr, PARALLEL))}, or None for one process."
        )
    return parallel


def describe_lost_rank(error: BaseException) -> str | None:
    """Return in words that another process has left the run, if that is what an error of ``torch.distributed`` says."""
    if not isinstance(error, RuntimeError) or isinstance(error, NetgraphError):
        return None
    if not isinstance(error, dist.DistError) and "gloo" not in str(error):
        return None
    first = str(error).strip().splitlines()[0]
    line = re.sub(r"^\[\S*\] ", "", first).split(". ")[0][:200]  # without gloo's source file
    return f"another process of this run has ended or does not answer ({line}). Its own last message says why."
