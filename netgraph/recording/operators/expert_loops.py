"""Loops over the experts that some row chose: a recording runs all of them, so that a loop must not end early.

A loop with ``break`` runs the first expert that a row chose, and which one that is depends on the rows. In a recording it would
always be the first of all. What a loop took of its numbers is therefore watched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from netgraph.errors import TraceError


@dataclass
class WatchedLoop:
    """One loop over the numbers of experts.

    Parameters
    ----------
    place : str
        Its module and source line.
    n : int
        How many numbers there are.
    taken : set of int
        The places of the numbers that the loop has taken.
    """

    place: str
    n: int
    taken: set[int] = field(default_factory=set)


class WatchedNumbers(list[Any]):
    """A list of numbers that tells its loop which of them were taken one after the other."""

    loop: WatchedLoop

    def __iter__(self) -> Iterator[Any]:
        for place, number in enumerate(super().__iter__()):
            self.loop.taken.add(place)
            yield number


class LoopWatch:
    """The loops of one run."""

    def __init__(self) -> None:
        self.loops: list[WatchedLoop] = []
        self.parts: dict[
            int, tuple[Tensor, WatchedLoop, int]
        ] = {}  # by id, with the tensor kept alive because ids are reused

    def watch_list(self, numbers: Sequence[Any], place: str) -> WatchedNumbers:
        """Return numbers that a loop takes from a list."""
        watched = WatchedNumbers(numbers)
        watched.loop = self._add_loop(len(watched), place)
        return watched

    def watch_parts(self, parts: Sequence[Tensor], place: str) -> None:
        """Watch tensors that a loop gets all at once. One of them is taken where a call reads it."""
        loop = self._add_loop(len(parts), place)
        self.parts.update({id(part): (part, loop, i) for i, part in enumerate(parts)})

    def _add_loop(self, n: int, place: str) -> WatchedLoop:
        self.loops.append(WatchedLoop(place, n))
        return self.loops[-1]

    def read(self, tensor: Tensor) -> None:
        """Note that a call reads a tensor."""
        if (part := self.parts.get(id(tensor))) is not None:
            part[1].taken.add(part[2])

    def refuse_early_ends(self) -> None:
        """Raise `TraceError` for a loop that took some of its numbers and not all."""
        for loop in self.loops:
            if 0 < len(loop.taken) < loop.n:
                raise TraceError(
                    f"a loop over the experts that some row chose ends early{loop.place}, after {len(loop.taken)} of {loop.n}. Which "
                    "experts it leaves out depends on activations. Let it run over all of them, without break."
                )
