"""Transfers of units that lie inside other units: each expert merges its neurons in its own way, and each group its channels.

All of them have equally many aggregates, because the coarse tensor has one size. A tensor that runs over both axes is moved
one outer unit at a time. Where the two axes stand side by side in one dimension, they are moved as one (`joint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import AggregatesError, NetgraphError
from netgraph.tracing.unit_spec import Term, UnitSpec, term_size

Transfers = Mapping[str, Transfer]
Dims = dict[int, tuple[Term, frozenset[str]]]  # by dimension of a tensor, its term and the axes that it sums over
MoveTensor = Callable[[Tensor, Dims, Mapping[str, Any], Mapping[str, int]], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class NestedTransfer(Transfer):
    """Transfer of an axis with aggregates of its own in each unit of another axis. `aggregates` holds those in the first unit.

    Parameters
    ----------
    within : str
        The outer axis.
    parts : tuple of Transfer
        One for each unit of the outer axis.
    """

    within: str = ""
    parts: tuple[Transfer, ...] = field(default=())

    @classmethod
    def of(cls, within: str, aggregates: Sequence[Transfer | NDArray[Any]] | NDArray[Any]) -> NestedTransfer:
        """Return the transfer with these aggregates, (n_outer, n), or with these transfers inside the outer units.

        Raises
        ------
        AggregatesError
            Outer units have different numbers of aggregates.
        """
        parts = tuple(row if isinstance(row, Transfer) else Transfer(np.asarray(row)) for row in aggregates)
        counts = {part.n_coarse for part in parts}
        if len(counts) != 1:
            raise AggregatesError(
                f"the units of axis {within!r} must have equally many aggregates inside, got {sorted(counts)}. The coarse tensor has "
                "one size for all of them."
            )
        return cls(parts[0].aggregates, parts[0].weights, within, parts)

    @cached_property
    def each(self) -> NDArray[np.int64]:
        """Aggregates in each outer unit, (n_outer, n)."""
        return np.stack([part.aggregates for part in self.parts])

    @cached_property
    def joint(self) -> Transfer:
        """The transfer of pairs of an outer and an inner unit, in row-major order."""
        starts = np.arange(len(self.parts))[:, None] * self.n_coarse
        shares = np.concatenate([part.shares for part in self.parts]) if self.is_weighted else None
        return Transfer(np.where(self.each >= 0, self.each + starts, -1).ravel(), shares)

    @property
    def is_weighted(self) -> bool:
        """True if units have weights in the mean of their aggregate, in any outer unit."""
        return any(part.is_weighted for part in self.parts)

    @cached_property
    def is_identity(self) -> bool:
        """True if every unit is its own aggregate, in order, everywhere."""
        return all(part.is_identity for part in self.parts)

    def __repr__(self) -> str:
        return f"NestedTransfer({self.n_fine} -> {self.n_coarse} in each of {len(self.parts)} units of {self.within})"


def count_coarse(spec: UnitSpec, transfers: Transfers) -> dict[str, int]:
    """Return the number of coarse units of each axis with a transfer, and of the ranks that follow it.

    If m units merge into each, 1 / m of the ranks stay. If units are only left out, all ranks stay.

    Raises
    ------
    NetgraphError
        A transfer is of an axis that the network lacks, or of another number of units, or fewer units stay than are chosen.
    """
    for axis, transfer in transfers.items():
        size = spec.axes[axis].size if axis in spec.axes else None
        if transfer.n_fine != size:
            known = f"has {size} units" if size is not None else f"is none of {', '.join(spec.axes)}"
            raise NetgraphError(
                f"axis {axis!r} {known}, and a transfer of {transfer.n_fine} units was given for it. Give one for its units."
            )
    sizes = {axis: t.n_coarse for axis, t in transfers.items()}
    for axis, transfer in transfers.items():
        together = int(transfer.sizes.max(initial=1))
        if transfer.n_coarse * together < spec.axes[axis].fewest:
            raise NetgraphError(
                f"axis {axis!r} would keep {transfer.n_coarse} units, but {spec.axes[axis].fewest} are chosen for each row. Leave out "
                "fewer."
            )
        for ranks in (ranks for ranks, units in spec.follows.items() if units == axis):
            sizes[ranks] = spec.axes[ranks].size // together
    return sizes


def count_merged(spec: UnitSpec, transfers: Transfers) -> dict[str, int]:
    """Return how many units of each axis the coarse ones stand for: all, or of chosen units those that were not left out."""
    sizes = spec.sizes
    for axis, transfer in transfers.items():
        if spec.axes[axis].fewest:
            sizes[axis] = int(transfer.sizes.sum())
    return sizes


def list_aggregates(transfer: Transfer) -> NDArray[np.int64]:
    """Return the aggregates of a transfer, (n,), or those in each outer unit, (n_outer, n). `make_transfer` reads both."""
    return transfer.each if isinstance(transfer, NestedTransfer) else transfer.aggregates


def list_weights(transfer: Transfer) -> NDArray[np.float64] | None:
    """Return the weights of the units in the shape of `list_aggregates`, or None if all weigh the same."""
    if not transfer.is_weighted:
        return None
    parts = transfer.parts if isinstance(transfer, NestedTransfer) else (transfer,)
    weights = [np.ones(part.n_fine) if part.weights is None else part.weights for part in parts]
    return np.stack(weights).reshape(list_aggregates(transfer).shape)


def make_transfer(aggregates: NDArray[Any], within: str | None, weights: NDArray[np.float64] | None = None) -> Transfer:
    """Return the transfer of aggregates (n,), or of those in each unit of an outer axis, (n_outer, n)."""
    if aggregates.ndim != 2:
        return Transfer(aggregates, weights)
    rows = [None] * len(aggregates) if weights is None else weights
    return NestedTransfer.of(within or "", [Transfer(a, w) for a, w in zip(aggregates, rows, strict=True)])


def compose_transfers(composed: Transfers, transfers: Transfers) -> dict[str, Transfer]:
    """Return the transfers from the units of the base to those of a level, after one more step.

    Parameters
    ----------
    composed : dict of str to Transfer
        From the base to the level above.
    transfers : dict of str to Transfer
        The step.
    """
    return {**composed, **{axis: _compose(composed, axis, transfer) for axis, transfer in transfers.items()}}


def _compose(composed: Transfers, axis: str, step: Transfer) -> Transfer:
    """Return the transfer of an axis over all steps. Outer units that have merged share the parts of the later step."""
    first = composed.get(axis)
    nested = [transfer for transfer in (first, step) if isinstance(transfer, NestedTransfer)]
    if not nested:
        return step if first is None else first.compose(step)
    within = nested[-1].within
    outer = composed.get(within)
    n_outer = len(nested[0].parts) if outer is None or nested[0] is first else outer.n_fine
    to_outer = np.arange(n_outer) if outer is None else outer.aggregates
    rows = []
    for unit in range(n_outer):
        start = first.parts[unit] if isinstance(first, NestedTransfer) else first
        then = step.parts[max(to_outer[unit], 0)] if isinstance(step, NestedTransfer) else step
        rows.append(then if start is None else start.compose(then))
    return NestedTransfer.of(within, rows)


def is_joint(term: Term, index: int, transfers: Mapping[str, Any]) -> bool:
    """Return True if a factor and the next one of a term are moved as one: an outer axis that stays, and the axis inside it."""
    outer, inner = (*term[index : index + 2], None, None)[:2]
    if not isinstance(outer, str) or not isinstance(inner, str):
        return False
    nested = transfers.get(inner)
    return isinstance(nested, NestedTransfer) and nested.within == outer and outer not in transfers


def find_outer(dims: Dims, transfers: Mapping[str, Any]) -> str | None:
    """Return an outer axis of a tensor that must be moved one outer unit at a time, or None."""
    for term, _ in dims.values():
        for axis in _list_apart(term, transfers):
            return axis
    return None


def _list_apart(term: Term, transfers: Mapping[str, Any]) -> list[str]:
    """Return the outer axes of nested axes in a term that do not stand beside them."""
    found = []
    for index, factor in enumerate(term):
        if not isinstance(factor, str):
            found += [axis for part in factor for axis in _list_apart(part, transfers)]
        elif isinstance(nested := transfers.get(factor), NestedTransfer) and not (
            index and is_joint(term, index - 1, transfers)
        ):
            found.append(nested.within)
    return found


def move_each_outer_unit(
    tensor: Tensor,
    dims: Dims,
    transfers: Mapping[str, Any],
    sizes: Mapping[str, int],
    move: MoveTensor,
    *,
    down: bool | None,
) -> Tensor:
    """Move a tensor with the transfers inside each outer unit, and after that, or going up before it, the outer axis itself.

    Parameters
    ----------
    tensor : Tensor
    dims : dict
        Terms of the dimensions that run over axes of ``transfers`` or over their outer axes.
    transfers : dict of str to Transfer
        One of them is nested in an axis that `find_outer` returns.
    sizes : dict of str to int
        Sizes of the axes that no transfer concerns.
    move : callable ``(tensor, dims, transfers, sizes) -> tensor``
    down : bool or None
        Whether fine sizes become coarse ones, or coarse sizes fine ones. None if fine sizes stay.
    """
    outer = find_outer(dims, transfers)
    assert outer is not None
    inside = {axis: t for axis, t in transfers.items() if axis != outer}
    alone = {outer: transfers[outer]} if outer in transfers else {}
    coarse_sizes = {**sizes, **{axis: t.n_coarse for axis, t in inside.items()}}
    fine_sizes = {**sizes, **{axis: t.n_fine for axis, t in inside.items()}}
    before = coarse_sizes if down is False else fine_sizes
    after = coarse_sizes if down else fine_sizes
    if alone and down is False:
        tensor = move(tensor, dims, alone, before)
    dim, place = next((dim, term.index(outer)) for dim, (term, _) in dims.items() if outer in term)
    term, rest = dims[dim][0], _drop_factor(dims, dim, place)
    others = [(factor,) for i, factor in enumerate(term) if i != place]
    rows = tensor.movedim(dim, 0).unflatten(0, [-1 if f == outer else term_size((f,), before) for f in term])
    moved = []
    for unit, part in enumerate(rows.movedim(place, 0)):
        part = part.flatten(0, len(others) - 1).movedim(0, dim) if others else part
        part = move(part, rest, _choose_parts(inside, outer, unit), sizes)
        moved.append(part.movedim(dim, 0).unflatten(0, [term_size(f, after) for f in others]) if others else part)
    tensor = torch.stack(moved, place).flatten(0, len(term) - 1).movedim(0, dim)
    return move(tensor, dims, alone, after) if alone and down is not False else tensor


def _choose_parts(transfers: Mapping[str, Any], outer: str, unit: int) -> dict[str, Any]:
    """Return transfers with those inside one outer unit in the place of nested ones."""
    return {
        axis: t.parts[unit] if isinstance(t, NestedTransfer) and t.within == outer else t
        for axis, t in transfers.items()
    }


def _drop_factor(dims: Dims, dim: int, place: int) -> Dims:
    """Return the dimensions of a part of a tensor without one factor. A dimension that had this factor alone is gone."""
    out: Dims = {}
    for d, (term, summed) in dims.items():
        if d != dim:
            out[d - (d > dim and len(dims[dim][0]) == 1)] = (term, summed)
        elif len(term) > 1:
            out[d] = (term[:place] + term[place + 1 :], summed)
    return out
