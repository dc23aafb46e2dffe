"""The example of an export as a call: its tensors, which of them hold the rows of a batch, and the same call with other rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netgraph.errors import NetgraphError
from netgraph.utils.pytree import Structure, build_structure, drop_classes, normalize_example, unflatten_tree

CHUNK = 64  # rows of real data in one call


@dataclass(frozen=True, eq=False)
class ExampleCall:
    """Arguments of a forward.

    Parameters
    ----------
    structure : structure
        How positional and keyword arguments nest (`netgraph.utils.pytree`).
    tensors : list of Tensor
        The tensors among the arguments.
    batched : tuple of bool
        For each tensor whether its first dimension counts the rows of the batch: it is that of the first tensor with a dimension.
    n_rows : int
        Rows of the batch, 0 where no tensor has a dimension.
    """

    structure: Structure
    tensors: list[Tensor]
    batched: tuple[bool, ...]
    n_rows: int

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments."""
        args, kwargs = unflatten_tree(self.structure, self.tensors)
        return tuple(args), dict(kwargs)

    def with_rows(self, n: int) -> ExampleCall:
        """Return the call with so many rows: the first ones, repeated where there are fewer."""
        rows = torch.arange(n) % max(self.n_rows, 1)
        return self._select(rows) if self.n_rows else self

    def split(self, n: int | None) -> Iterator[ExampleCall]:
        """Yield calls with ``n`` rows each, without the rows that are left over, or all rows in calls of any size if ``n`` is None."""
        step, stop = (n, self.n_rows - n + 1) if n else (CHUNK, self.n_rows)
        for start in range(0, stop, step):
            yield self._select(torch.arange(start, min(start + step, self.n_rows)))

    def _select(self, rows: Tensor) -> ExampleCall:
        """Return the call with these rows of the tensors that hold the batch."""
        pairs = zip(self.tensors, self.batched, strict=True)
        tensors = [t.index_select(0, rows.to(t.device)) if holds else t.clone() for t, holds in pairs]
        return replace(self, tensors=tensors, n_rows=len(rows))


def read_call(example: Any) -> ExampleCall:
    """Return an example, in the form in which `netgraph.trace` takes it, as a call.

    Raises
    ------
    NetgraphError
        It holds no tensor, or something that is neither a tensor nor a plain value.
    """
    leaves: list[Any] = []
    structure = build_structure(normalize_example(example), leaves)
    if not leaves:
        raise NetgraphError("the example of an export holds no tensor. Give the inputs of the network.")
    tensors = [leaf.detach().clone() for leaf in leaves]  # a tensor that is given twice is two inputs
    n_rows = next((len(t) for t in tensors if t.ndim), 0)
    return ExampleCall(structure, tensors, tuple(t.ndim > 0 and len(t) == n_rows for t in tensors), n_rows)


def read_data(data: Any, call: ExampleCall) -> ExampleCall:
    """Return real inputs as a call like that of the example.

    Raises
    ------
    NetgraphError
        They do not nest like the example, or their tensors have other shapes.
    """
    given = read_call(data)
    same = drop_classes(given.structure) == drop_classes(call.structure) and given.batched == call.batched
    shapes = [
        [tuple(t.shape[holds:]) for t, holds in zip(c.tensors, call.batched, strict=True)]
        for c in (given, call)
        if same
    ]
    if not same or shapes[0] != shapes[1]:
        raise NetgraphError(
            "the data of an export do not nest like its example, or have other sizes. Give rows in the form of the example."
        )
    return given
