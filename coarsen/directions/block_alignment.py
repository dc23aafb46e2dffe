"""Which unit inside a block answers to which inside another: blocks of a pair are averaged unit by unit.

Units inside a block may be numbered in any order, and two blocks of a trained network number theirs as chance had it. The
second block's are put in the order of the first's in which their weights agree most::

    order = argmax  sum_W <A_W, order(B_W)> / (|A_W| |B_W|)        over the tensors W that run over the units

one axis after the other, the others standing still: weight matching (Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023,
algorithm 1), each step an assignment problem. Blocks compute the same afterwards; only their mean is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from netgraph.analysis.residual_chains import Chain
from netgraph.coarsen.directions.depth import ChainCoarsening, Orders
from netgraph.coarsen.transfer.parameter_maps import coarse_positions, inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.tracing.unit_spec import UnitSpec, term_axes

MOST = 4096  # units of an axis; an assignment takes their third power
PASSES = 2  # an axis is matched again when its neighbours have found their order
LEAST = 1e-9  # of agreement gained: blocks that are numbered alike stay bit for bit what they are


def align_blocks(spec: UnitSpec, state: Mapping[str, Tensor], step: ChainCoarsening) -> ChainCoarsening:
    """Return a shortening whose blocks' inner units are put in the order of the first block of each aggregate.

    Parameters
    ----------
    spec : UnitSpec
        Of the network in which the blocks have not merged yet.
    state : dict of str to Tensor
        Its parameters.
    step : Shortening

    Returns
    -------
    Shortening
        Axes of more than `MOST` units keep their order.
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
    own = {name: state[name] for name in names if state[name].is_floating_point()}
    turned, found = dict(own), dict[str, NDArray[np.int64]]()
    twins = _find_inner_axes(spec, chain, blocks)
    for _ in range(PASSES):
        for axis, twin in twins.items():
            order = _match_units(spec, chain, blocks, (twin, axis), {**state, **turned})
            found[axis] = order if axis not in found else found[axis][order]
            turned = inject(spec, _orders_to_transfers(found), own)
    transfers = _orders_to_transfers({axis: order for axis, order in found.items() if (np.diff(order) != 1).any()})
    orders: Orders = {}
    for name in names:
        for dim, term in enumerate(spec.parameters[name]):
            if any(axis in transfers for axis in term_axes(term)):
                orders.setdefault(name, {})[dim] = np.argsort(coarse_positions(spec, transfers, name, dim))
    return orders


def _orders_to_transfers(orders: Mapping[str, NDArray[np.int64]]) -> dict[str, Transfer]:
    return {axis: Transfer(np.argsort(order)) for axis, order in orders.items()}


def _find_inner_axes(spec: UnitSpec, chain: Chain, blocks: tuple[str, str]) -> dict[str, str]:
    """Return the free axes that nothing outside the second block runs over, and their twins in the first."""
    first, other = ([list(_list_axes(spec, f"{block}.{name}")) for name in chain.names] for block in blocks)
    twins = {b: a for own, alike in zip(first, other, strict=True) for a, b in zip(own, alike, strict=True) if a != b}
    outside = {
        axis for name in spec.parameters if not name.startswith(f"{blocks[1]}.") for axis in _list_axes(spec, name)
    }
    sizes = {axis: spec.axes[axis].size for axis in twins if axis not in outside and spec.axes[axis].kept is None}
    return {axis: twins[axis] for axis, size in sizes.items() if 1 < size <= MOST}


def _list_axes(spec: UnitSpec, name: str) -> Iterator[str]:
    return (axis for term in spec.parameters.get(name, ()) for axis in term_axes(term))


def _match_units(
    spec: UnitSpec, chain: Chain, blocks: tuple[str, str], axes: tuple[str, str], state: Mapping[str, Tensor]
) -> NDArray[np.int64]:
    """Return which unit of the second block comes to each place, as it is where that agrees as much."""
    agreement = np.zeros((spec.axes[axes[0]].size,) * 2)
    for name in chain.names:
        a, b = (
            list(_iterate_rows(spec, f"{block}.{name}", axis, state)) for block, axis in zip(blocks, axes, strict=True)
        )
        for x, y in zip(a, b, strict=True):
            agreement += (x @ y.T / (x.norm() * y.norm()).clamp_min(1e-300)).numpy()
    _, order = linear_sum_assignment(agreement, maximize=True)
    here = np.arange(len(order))
    gain = agreement[here, order].sum() - agreement.trace()
    return order if gain > LEAST * len(order) else here


def _iterate_rows(spec: UnitSpec, name: str, axis: str, state: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield a weight's numbers unit by unit, (n, d); norms and biases are left out, whose numbers are alike by being positive."""
    if name in state and state[name].ndim > 1:
        for dim, term in enumerate(spec.parameters.get(name, ())):
            yield from iter_unit_rows(state[name].detach().double().cpu(), dim, term, axis, spec.sizes)
