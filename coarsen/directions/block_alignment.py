"""Match the units inside one block to those inside another, before the blocks are averaged unit by unit.

Units inside a block may be numbered in any order, and two blocks of a trained network have unrelated orders. The units of the
second block are put in the order in which their weights agree most with those of the first::

    order = argmax  sum_W <A_W, order(B_W)> / (|A_W| |B_W|)        over the tensors W that run over the units

The axes are solved one after the other, with the others fixed. This is weight matching (Ainsworth, Hayase, Srinivasa, "Git
Re-Basin", ICLR 2023, algorithm 1), and each step is an assignment problem. The blocks compute the same as before. Only their
mean changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from netgraph.analysis.residual_chains import Chain
from netgraph.coarsen.directions.depth import ChainCoarsening, Orders
from netgraph.coarsen.transfer.parameter_maps import coarse_positions, inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.tracing.unit_spec import UnitSpec, term_axes

MAX_UNITS = 4096  # of an axis: the time of an assignment grows with the third power
PASSES = 2  # an axis is matched again after its neighbours have changed their order
MIN_GAIN = 1e-9  # of agreement: blocks that are numbered alike stay bit for bit the same


def align_blocks(spec: UnitSpec, state: Mapping[str, Tensor], step: ChainCoarsening) -> ChainCoarsening:
    """Put the inner units of all blocks in the order of the first block of each aggregate.

    Parameters
    ----------
    spec : UnitSpec
        Of the network in which the blocks have not merged yet.
    state : dict of str to Tensor
        Its parameters.
    step : ChainCoarsening

    Returns
    -------
    ChainCoarsening
        With its `orders`. Axes of more than `MAX_UNITS` units keep their order.
    """
    orders: Orders = {}
    for kept in step.kept:
        first, *others = step.members(kept)
        for other in others:
            orders |= _find_orders(spec, state, step.chain, (first, other))
    return replace(step, orders=orders)


def _find_orders(spec: UnitSpec, state: Mapping[str, Tensor], chain: Chain, blocks: tuple[str, str]) -> Orders:
    """Return for each parameter of the second block the order of its dimensions that run over inner units."""
    names = {f"{blocks[1]}.{name}" for name in chain.names}
    params = {name: state[name] for name in names if state[name].is_floating_point() or state[name].is_complex()}
    permuted, axis_orders = dict(params), dict[str, NDArray[np.int64]]()
    twins = _find_inner_axes(spec, chain, blocks)
    for _ in range(PASSES):
        for axis, twin in twins.items():
            order = _match_units(spec, chain, blocks, (twin, axis), {**state, **permuted})
            axis_orders[axis] = order if axis not in axis_orders else axis_orders[axis][order]
            permuted = inject(spec, _orders_to_transfers(axis_orders), params)
    transfers = _orders_to_transfers(
        {axis: order for axis, order in axis_orders.items() if (np.diff(order) != 1).any()}
    )
    orders: Orders = {}
    for name in names:
        for dim, term in enumerate(spec.parameters[name]):
            if any(axis in transfers for axis in term_axes(term)):
                # `coarse_positions` says where each entry goes. Its inverse says which entry comes to each position.
                orders.setdefault(name, {})[dim] = np.argsort(coarse_positions(spec, transfers, name, dim))
    return orders


def _orders_to_transfers(orders: Mapping[str, NDArray[np.int64]]) -> dict[str, Transfer]:
    """Return the orders of axes as transfers that permute units."""
    return {axis: Transfer(np.argsort(order)) for axis, order in orders.items()}


def _find_inner_axes(spec: UnitSpec, chain: Chain, blocks: tuple[str, str]) -> dict[str, str]:
    """Map the free axes that only the second block runs over to the corresponding axes of the first block."""
    first, other = ([list(_list_axes(spec, f"{block}.{name}")) for name in chain.names] for block in blocks)
    twins = {
        axis: first_axis
        for first_axes, other_axes in zip(first, other, strict=True)
        for first_axis, axis in zip(first_axes, other_axes, strict=True)
        if first_axis != axis
    }
    outside = {
        axis for name in spec.parameters if not name.startswith(f"{blocks[1]}.") for axis in _list_axes(spec, name)
    }
    sizes = {axis: spec.axes[axis].size for axis in twins if axis not in outside and spec.axes[axis].kept is None}
    return {axis: twins[axis] for axis, size in sizes.items() if 1 < size <= MAX_UNITS}


def _list_axes(spec: UnitSpec, name: str) -> Iterator[str]:
    """Yield the axes that a parameter runs over."""
    return (axis for term in spec.parameters.get(name, ()) for axis in term_axes(term))


def _match_units(
    spec: UnitSpec, chain: Chain, blocks: tuple[str, str], axes: tuple[str, str], state: Mapping[str, Tensor]
) -> NDArray[np.int64]:
    """Return the unit of the second block for each position, or the present order if it agrees as well."""
    agreement = np.zeros((spec.axes[axes[0]].size,) * 2)
    for name in chain.names:
        first_rows, second_rows = (
            list(_iterate_rows(spec, f"{block}.{name}", axis, state)) for block, axis in zip(blocks, axes, strict=True)
        )
        for x, y in zip(first_rows, second_rows, strict=True):
            agreement += (x @ y.T / (x.norm() * y.norm()).clamp_min(1e-300)).numpy()
    _, order = linear_sum_assignment(agreement, maximize=True)
    unchanged = np.arange(len(order))
    gain = agreement[unchanged, order].sum() - agreement.trace()
    return order if gain > MIN_GAIN * len(order) else unchanged


def _iterate_rows(spec: UnitSpec, name: str, axis: str, state: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield the weights of a parameter unit by unit, (n, d).

    Norms and biases are left out: their entries would agree because they are positive.
    """
    if name in state and state[name].ndim > 1:
        for dim, term in enumerate(spec.parameters.get(name, ())):
            tensor = state[name].detach().cpu()
            numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            yield from iter_unit_rows(numbers.double(), dim, term, axis, spec.sizes)
