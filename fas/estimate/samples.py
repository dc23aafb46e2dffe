"""Minibatches as samples: counted, cut, joined, and taken from the stream of minibatches in any number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from netgraph.errors import NetgraphError, TraceError
from netgraph.utils.pytree import Structure, build_structure, unflatten_tree


def count_samples(batch: Any) -> int:
    """Return the number of samples of a minibatch that can be cut.

    Raises
    ------
    NetgraphError
        The minibatch has no tensor, a tensor without rows, or tensors of different numbers of rows.
    """
    _, leaves = _split_leaves(batch)
    return len(leaves[0])


def cut_samples(batch: Any, start: int, stop: int) -> Any:
    """Return samples ``start`` to ``stop`` of a minibatch. A minibatch that is taken whole stays the same object."""
    structure, leaves = _split_leaves(batch)
    return batch if (start, stop) == (0, len(leaves[0])) else unflatten_tree(structure, [t[start:stop] for t in leaves])


def join_batches(batches: list[Any]) -> list[Any]:
    """Return minibatches joined to one, or as they are where their tensors do not fit together, as texts of different lengths."""
    if len(batches) < 2:
        return batches
    structures, leaves = zip(*map(_split_leaves, batches), strict=True)
    shapes = [[(t.dtype, t.shape[1:]) for t in tensors] for tensors in leaves]
    if any(structure != structures[0] for structure in structures) or any(each != shapes[0] for each in shapes):
        return batches
    return [unflatten_tree(structures[0], [torch.cat(parts) for parts in zip(*leaves, strict=True)])]


@dataclass
class Remainder:
    """What an estimate has left of the last minibatch that it took.

    Attributes
    ----------
    batches : list
        The rest of a minibatch, or nothing.
    largest : int
        Samples of the largest minibatch that was taken.
    """

    batches: list[Any] = field(default_factory=list)
    largest: int = 0


def take_samples(stream: Iterator[Any], remainder: Remainder, n: int) -> list[Any]:
    """Take a number of samples from a stream of minibatches, those of the remainder first."""
    taken: list[Any] = []
    while n:
        if not remainder.batches:
            remainder.batches = [next(stream)]
            remainder.largest = max(remainder.largest, count_samples(remainder.batches[0]))
        batch = remainder.batches.pop()
        rows = count_samples(batch)
        taken.append(cut_samples(batch, 0, min(n, rows)))
        if n < rows:
            remainder.batches = [cut_samples(batch, n, rows)]
        n -= min(n, rows)
    return join_batches(taken)


def cut_pool(pool: list[Any], start: int, stop: int) -> list[Any]:
    """Return samples ``start`` to ``stop`` of several minibatches, counted through all of them."""
    parts, first = [], 0
    for batch in pool:
        n = count_samples(batch)
        low, high = max(start - first, 0), min(stop - first, n)
        if low < high:
            parts.append(cut_samples(batch, low, high))
        first += n
    return parts


def _split_leaves(batch: Any) -> tuple[Structure, list[Tensor]]:
    """Return the structure of a minibatch and its tensors, all of one number of rows."""
    leaves: list[Tensor] = []
    try:
        structure = build_structure(batch, leaves)
    except TraceError as error:
        raise NetgraphError(f"a minibatch cannot be cut into samples: {error}") from None
    rows = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
    if len(rows) != 1 or rows[0] == 0:
        found = f"tensors of {' and '.join(map(str, rows))} rows" if rows else "no tensor"
        raise NetgraphError(
            f"a minibatch cannot be cut into samples, because it has {found}. Give minibatches whose tensors all have the samples in "
            "their first dimension, or set estimate.kind to minibatch."
        )
    return structure, leaves
