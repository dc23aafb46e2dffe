"""Guards: decisions of a network on its inputs alone, which a recording holds with their outcome and checks in each run.

A network may ask whether a mask is all true, how long the longest row is, or whether an index found anything. One recording holds
for the inputs that give the same answers. `check_decision` is a step of a recorded graph that raises where they do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx

from netgraph.errors import GuardError

RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
OPPOSITES = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
NUMBERS, COUNT = (
    "numbers",
    "count",
)  # what a decision reads of a tensor: its numbers, their count, or the size of a dimension


def check_decision(tensor: Tensor, reads: str | int, relation: str, bound: Any, place: str) -> None:
    """Raise where a decision of the recording would be another one on the inputs of this run.

    Parameters
    ----------
    tensor : Tensor
        What the network decided on.
    reads : str or int
        `NUMBERS`, `COUNT`, or the dimension whose size the decision reads.
    relation : str
        One of `RELATIONS`, which held in the recording between what was read and ``bound``.
    bound : int, bool or nested list of these
    place : str
        What the decision depends on, its module and its source line.

    Raises
    ------
    GuardError
        The relation does not hold.
    """
    if torch.compiler.is_compiling():  # an exported program has no numbers to look at
        return
    found = read_decided(tensor, reads)
    if not RELATIONS[relation](found, bound):
        what = "a number" if reads == NUMBERS else "a count"
        raise GuardError(
            f"the recording holds for one outcome of a decision{place}: {what} was {relation} {_shorten(bound)}, and it is "
            f"{_shorten(found)} here. Record again with such an example, or give inputs like those of the recording."
        )


def list_decisions(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """Return the reads of the guards of a graph, and the relations that they ask for."""
    return [node.args[1:4] for node in graph.nodes if node.target is check_decision]


def make_same_decisions(first: fx.Graph, second: fx.Graph) -> bool:
    """Return True if two graphs have the same guards, apart from the numbers with which they compare counts."""
    pairs = list(zip_longest(list_decisions(first), list_decisions(second)))
    return all(a == b or (a is not None and b is not None and compare_counts_alike(a, b)) for a, b in pairs)


def compare_counts_alike(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Return True if two decisions, as `list_decisions` returns them, compare one count in the same way with two numbers."""
    return tuple(a[:2]) == tuple(b[:2]) and a[0] != NUMBERS and type(a[2]) is type(b[2]) is int


def read_decided(tensor: Tensor, reads: str | int) -> Any:
    """Return the numbers of a tensor that a decision reads."""
    if isinstance(reads, int):
        return tensor.shape[reads]
    return tensor.numel() if reads == COUNT else tensor.tolist()


def _shorten(value: Any) -> str:
    """Return a value as text of bounded length."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


class GuardedCount(int):
    """A size that depends on numbers. Comparing it is a decision, which ``note`` gets as a relation that holds."""

    note: Callable[[str, int], None]
    read: tuple[fx.Node, str | int]

    @classmethod
    def of(cls, count: int, note: Callable[[str, int], None], read: tuple[fx.Node, str | int]) -> GuardedCount:
        """Return a count whose comparisons are noted, with the node and what is read of it."""
        guarded = cls(count)
        guarded.note, guarded.read = note, read
        return guarded

    def _compare(self, relation: str, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        holds = RELATIONS[relation](int(self), int(other))
        if not isinstance(other, GuardedCount):  # of two such counts neither is a bound
            self.note(relation if holds else OPPOSITES[relation], int(other))
        return holds

    def __bool__(self) -> bool:
        return bool(self._compare("!=", 0))

    def __eq__(self, other: object) -> Any:
        return self._compare("==", other)

    def __ne__(self, other: object) -> Any:
        return self._compare("!=", other)

    def __lt__(self, other: int) -> Any:
        return self._compare("<", other)

    def __le__(self, other: int) -> Any:
        return self._compare("<=", other)

    def __gt__(self, other: int) -> Any:
        return self._compare(">", other)

    def __ge__(self, other: int) -> Any:
        return self._compare(">=", other)

    __hash__ = int.__hash__
