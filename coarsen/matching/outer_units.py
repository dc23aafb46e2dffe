"""The units of an axis inside one unit of its outer axis: their parameters, their measures and the numbers of their aggregates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netgraph.coarsen.transfer.nested_transfer import NestedTransfer
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.tracing.unit_spec import Term, UnitSpec, term_size


def restrict_to_units(
    spec: UnitSpec, state: Mapping[str, Tensor], axis: str, outer: str
) -> tuple[UnitSpec, list[dict[str, Tensor]]]:
    """Return the spec of a network with one unit of the outer axis, and for each unit the parameters that read an axis.

    Parameters
    ----------
    spec : UnitSpec
    state : dict of str to Tensor
        Tensors in the shapes of parameters. Those that it lacks are left out.
    axis, outer : str
    """
    parts: list[dict[str, Tensor]] = [{} for _ in range(spec.axes[outer].size)]
    for name in dict.fromkeys(name for name, _ in spec.readers(axis) if name in state):
        tensors = [state[name].detach()]
        for dim, term in enumerate(spec.parameters[name]):
            if outer in term:
                tensors = _split_dim(tensors, dim, term, outer, spec)
        for part, tensor in zip(parts, tensors, strict=True):
            part[name] = tensor
    return spec.with_sizes({outer: 1}), parts


def _split_dim(tensors: list[Tensor], dim: int, term: Term, outer: str, spec: UnitSpec) -> list[Tensor]:
    """Return for each outer unit its part of a tensor along one dimension."""
    place, sizes = term.index(outer), [term_size((factor,), spec.sizes) for factor in term]
    units = range(spec.axes[outer].size)
    whole = tensors * (len(units) if len(tensors) == 1 else 1)
    return [
        tensor.unflatten(dim, sizes).narrow(dim + place, unit, 1).flatten(dim, dim + len(term) - 1)
        if len(term) > 1
        else tensor.narrow(dim, unit, 1)
        for unit, tensor in zip(units, whole, strict=True)
    ]


def split_measured(measured: Mapping[str, Tensor], spec: UnitSpec, outer: str, unit: int) -> dict[str, Tensor]:
    """Return the measures of units inside one outer unit. Measures have a row for each pair, or one for each inner unit."""
    out = {}
    for axis, rows in measured.items():
        pairs = rows.unflatten(0, (spec.axes[outer].size, -1)) if _holds_pairs(rows, spec, axis, outer) else None
        out[axis] = rows if pairs is None else pairs[unit]
    return out


def _holds_pairs(rows: Tensor, spec: UnitSpec, axis: str, outer: str) -> bool:
    """Return True if a measure has one row for each unit of an axis in each outer unit."""
    return spec.axes[axis].within == outer and len(rows) == spec.axes[axis].size * spec.axes[outer].size


def split_composed(composed: Mapping[str, Transfer], axis: str, outer: str, n_outer: int) -> list[Transfer | None]:
    """Return the transfer from the finest units of an axis to those of a level, in each outer unit of the level."""
    transfer = composed.get(axis)
    if not isinstance(transfer, NestedTransfer):
        return [transfer] * n_outer
    to_outer = composed[outer].aggregates if outer in composed else np.arange(n_outer)
    _, first = np.unique(to_outer[to_outer >= 0], return_index=True)
    members = np.flatnonzero(to_outer >= 0)[first]
    return [transfer.parts[int(member)] for member in members]


def split_aggregates(aggregates: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return aggregates of which the largest have been split until there are ``n``."""
    out, count = aggregates.copy(), int(aggregates.max()) + 1
    while count < n:
        largest = int(np.bincount(out[out >= 0]).argmax())
        out[np.flatnonzero(out == largest)[-1]] = count
        count += 1
    return out
