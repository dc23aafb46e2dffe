"""The order in which units can be left out, if the layers that read them are refitted: the optimal brain surgeon, unit by unit.

A layer with the weights W reads the columns C. Without the columns c of a unit, the best weights of the other columns lose::

    loss of a unit = tr(W_c [(A^-1)_cc]^-1 W_c')            A = C' C + s I of centred columns, as a share of |C W'|²
    W    <- W - W_c [(A^-1)_cc]^-1 (A^-1)_c                 the refit
    A^-1 <- A^-1 - (A^-1)_c' [(A^-1)_cc]^-1 (A^-1)_c        A without the columns

The unit of the least loss goes first, then the next, until none is left. Losses are added up over all layers that mix the units. A
depthwise convolution and a batch norm keep units apart, so they lose nothing. Hassibi and Stork, "Second order derivatives for network
pruning: Optimal brain surgeon", NeurIPS 1993. For the columns of a layer: Frantar and Alistarh, "Optimal brain compression", NeurIPS
2022, and Kurtic, Frantar and Alistarh, "ZipLM", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from netgraph.errors import NetgraphError
from netgraph.graph.im2col import build_columns, count_groups, draw_places
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operators import LAYER_OVERLOADS
from netgraph.tracing.unit_spec import UnitSpec, term_axes

STRENGTH = 1e-3  # of the ridge, a share of the mean square of the columns
MOST_COLUMNS = 5792  # of a layer: their products have 256 MB
CHUNK = 4096  # rows whose columns are made at a time
SHRINK_AT = 0.75  # share of the columns that are left, at which the others leave memory


class Reader(NamedTuple):
    """A layer that mixes the units of an axis.

    Parameters
    ----------
    gram : Tensor of shape (d, d)
        Products of its centred columns, as a share of the squares of its outputs.
    weight : Tensor of shape (o, d)
    columns : Tensor of shape (n, k)
        The columns of each unit.
    """

    gram: Tensor
    weight: Tensor
    columns: Tensor


def measure_surgery(network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return the losses of `eliminate_units` by axis, for all axes whose units a linear layer or an ungrouped convolution mixes.

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        Its spec, with the sizes of this network.
    batches : sequence
        Inputs of calibration data.

    Raises
    ------
    NetgraphError
        A layer has too many columns.
    """
    readers: dict[str, list[Reader]] = {}
    for stop in network.walk(batches, LAYER_OVERLOADS):
        for axis, reader in _find_readers(stop, spec):
            readers.setdefault(axis, []).append(reader)
    return {axis: eliminate_units(found) for axis, found in readers.items()}


def eliminate_units(readers: Sequence[Reader]) -> Tensor:
    """Return for each unit the loss without it and without all units that went before it, (n,). It rises in the order of leaving."""
    remainders = [_Remainder(reader) for reader in readers]
    left = torch.arange(len(readers[0].columns))
    losses, spent = torch.zeros(len(left), dtype=torch.float64), 0.0
    while len(left):
        costs = torch.stack([remainder.price(left) for remainder in remainders]).sum(0)
        place = int(costs.argmin())
        unit, spent = int(left[place]), spent + max(float(costs[place]), 0.0)
        losses[unit] = spent
        left = torch.cat([left[:place], left[place + 1 :]])
        for remainder in remainders:
            remainder.leave_out(unit)
    return losses


class _Remainder:
    """What is left of a layer without the columns of some units: its refitted weights and A^-1."""

    def __init__(self, reader: Reader) -> None:
        matrix, W = reader.gram.clone(), reader.weight
        diagonal = matrix.diagonal()
        diagonal += (STRENGTH * diagonal.mean()).clamp_min(1e-30)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        # losses depend on W' W alone, and a triangle of d rows has the same
        self.weight = torch.linalg.qr(W, mode="r").R if len(W) > W.shape[1] else W.clone()
        self.columns = reader.columns
        self.gone = torch.zeros(len(matrix), dtype=torch.bool)

    def price(self, units: Tensor) -> Tensor:
        """Return the loss of leaving out each of these units next."""
        c = self.columns[units]  # (m, k)
        parts = self.weight[:, c].permute(1, 2, 0)  # (m, k, o)
        if c.shape[1] == 1:
            return parts.square().sum((1, 2)) / self.inverse.diagonal()[c[:, 0]]
        blocks = self.inverse[c[:, :, None], c[:, None, :]]  # (m, k, k)
        solved: Tensor = torch.linalg.solve(blocks, parts)
        return (parts * solved).sum((1, 2))

    def leave_out(self, unit: int) -> None:
        """Refit the weights without the columns of a unit, in place."""
        c, W, A = self.columns[unit], self.weight, self.inverse
        rows = torch.linalg.solve(A[c][:, c], A[c])  # (k, d)
        W.addmm_(W[:, c], rows, alpha=-1)
        A.addmm_(A[:, c], rows, alpha=-1)
        self.gone[c] = True
        if self.gone.double().mean() > 1 - SHRINK_AT:
            self._shrink()

    def _shrink(self) -> None:
        """Take what has gone out of memory."""
        kept = ~self.gone
        self.weight, self.inverse = self.weight[:, kept].contiguous(), self.inverse[kept][:, kept].contiguous()
        self.columns = (kept.cumsum(0) - 1)[self.columns]  # those of units that are left stay right
        self.gone = self.gone[kept]


def _find_readers(stop: CallSite, spec: UnitSpec) -> Iterator[tuple[str, Reader]]:
    """Yield the axes whose units a layer mixes, and the layer as their reader."""
    name, weight = stop.names[1], stop.arguments[0][1]
    if name is None or count_groups(stop.arguments[0], stop.function) > 1:
        return
    term = spec.parameters[name][1]
    axes = [axis for axis in dict.fromkeys(term_axes(term)) if axis in {free.name for free in spec.free}]
    if not axes:
        return
    wide = weight.detach().flatten(1).double()
    if wide.shape[1] > MOST_COLUMNS:
        raise NetgraphError(
            f"importance 'surgeon' inverts the products of the columns of {name!r}, and {wide.shape[1]:,} columns are more than "
            f"{MOST_COLUMNS:,}. Choose fisher or taylor."
        )
    gram, places = _sum_products(stop, wide), torch.arange(wide.shape[1]).reshape(weight.shape[1:])
    for axis in axes:
        parts = [*iter_unit_rows(places, 0, term, axis, spec.sizes)]
        yield axis, Reader(gram, wide, torch.cat(parts, 1).to(gram.device))


def _sum_products(stop: CallSite, wide: Tensor) -> Tensor:
    """Return the products of the centred columns of a layer, as a share of the squares of its outputs. Rows are random positions."""
    d, random = wide.shape[1], torch.Generator().manual_seed(0)
    most = -(-max(32 * d, 32_768) // len(stop.arguments))  # rows of each batch, as many as a fit has
    gram, total, n = wide.new_zeros(d, d), wide.new_zeros(d), 0
    for arguments in stop.arguments:
        places = draw_places(stop.function(*arguments), stop.function, most, random)
        for index in torch.arange(len(places[0])).split(CHUNK):
            C = build_columns(arguments, stop.function, tuple(p[index] for p in places))[:, 0].double()
            gram.addmm_(C.T, C)
            total, n = total + C.sum(0), n + len(C)
    gram.addr_(total, total, alpha=-1 / n)
    return gram / ((wide @ gram) * wide).sum().clamp_min(1e-30)
