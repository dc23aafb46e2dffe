"""Sizes that depend on numbers, and to which arguments and dimensions of a call a network passes them.

A graph layer counts the edges that are left (``kept.shape[1]``) and makes a tensor of that many ones. In another graph
there are more. The recorder knows which count was passed, so that the size follows it: it need not be guessed from equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from netgraph.recording.operators.guards import COUNT, GuardedCount
from netgraph.rules.operator_call import bind_arguments

ATEN = torch.ops.aten
CUTS = (ATEN.slice.Tensor, ATEN.narrow.default)  # the length of their result along ``dim`` is an argument
RANGES = (ATEN.arange.default, ATEN.arange.start, ATEN.arange.start_step)
NO_SIZES = frozenset({"dim", "dim0", "dim1", "step"})
FEWEST = 2  # smaller numbers stand for too much else: a dimension, a step, a size of one


class SizeLink(NamedTuple):
    """A dimension of a call's result, by number, or an argument, by name, is the size of a dimension of an earlier node.

    Without a dimension it is the number of all entries of that node.
    """

    place: int | str
    source: str
    source_dim: int | None


def list_counts(arguments: Any) -> list[int]:
    """Return the whole numbers in the arguments of a call of the network in order, with their counts as `GuardedCount`."""
    if type(arguments) in (int, GuardedCount):
        return [arguments]
    if isinstance(arguments, slice):
        arguments = arguments.start, arguments.stop
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    return [n for part in arguments for n in list_counts(part)] if isinstance(arguments, (list, tuple)) else []


def place_counts(node: fx.Node, passed: Sequence[int]) -> list[SizeLink]:
    """Return where the counts that a network passed stand in a call that it led to.

    Parameters
    ----------
    node : torch.fx.Node
        The call.
    passed : sequence of int
        As `list_counts` returns them.
    """
    counts = {int(n): n for n in passed if isinstance(n, GuardedCount) and n >= FEWEST}
    places = _list_sizes(node, passed, counts) if counts else ()
    return [_link_count(place, counts[n]) for place, n in places]


def _list_sizes(node: fx.Node, passed: Sequence[int], counts: Any) -> Iterator[tuple[int | str, int]]:
    """Yield dimensions of the result, and then arguments, that hold one of the counts."""
    result, arguments = node.meta.get("val"), bind_arguments(node)
    if not isinstance(result, Tensor):
        return
    if node.target in CUTS + RANGES:
        dim = int(arguments.get("dim") or 0) % max(result.ndim, 1)
        if result.shape[dim] in counts:
            yield dim, int(result.shape[dim])
    for value in arguments.values():
        if isinstance(value, (list, tuple)) and len(value) == result.ndim:
            named = list(passed[-len(value) :]) if list(passed[-len(value) :]) == list(value) else value
            exact = any(isinstance(n, GuardedCount) for n in named)
            for dim, n in enumerate(named):
                if type(n) in (int, GuardedCount) and n in counts and (not exact or isinstance(n, GuardedCount)):
                    yield dim, int(n)
    for name, value in arguments.items():
        if type(value) is int and value in counts and name not in NO_SIZES:
            yield name, value


def _link_count(place: int | str, count: GuardedCount) -> SizeLink:
    """Return the link of a place to what a count was read of."""
    source, reads = count.read
    if reads == COUNT:
        return SizeLink(place, source.name, 0 if source.meta["val"].ndim == 1 else None)
    return SizeLink(place, source.name, int(reads))
