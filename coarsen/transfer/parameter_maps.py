"""Maps of all parameters of a network between two levels.

Parameters and corrections are primal, gradients and momentum are dual::

    inject      W_c = R_out W P_in        parameters down
    prolong     E   = P_out E_c R_in      corrections up         inject(prolong(E)) = E
    restrict    G_c = P_out' G R_in'      gradients down         = prolong'
    distribute  G   = R_out' G_c P_in'    momentum up            = inject'     restrict(distribute(G)) = G

Second moments are squared duals. They are moved by the same two maps with squared entries, so they never become negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.coarsen.transfer.kernels import IDENTITY, IndexMap, Shape, copy_to_members, sum_into_aggregates
from netgraph.coarsen.transfer.nested_transfer import Dims, NestedTransfer, find_outer, is_joint, move_each_outer_unit
from netgraph.coarsen.transfer.transfer import HALVES, Transfer
from netgraph.errors import NetgraphError
from netgraph.tracing.unit_spec import Join, Term, UnitSpec, term_axes, term_size

# No matrix is formed. A dimension may be a product of axes, or axes laid end to end, so the map of a dimension is composed
# from the transfers of its axes: an `IndexMap` (`_build_index_map`). Floats on the CPU are moved two dimensions at a time by
# the compiled kernels. Everything else is moved one dimension at a time by torch, as a scatter or a gather (`_map_dim`).
WIDE = 64  # from this many numbers in a row it pays to copy whole rows
Transfers = Mapping[str, Transfer]
Move = Callable[[Any, bool, Tensor, int], Tensor]


def inject(
    spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor], *, out: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Take parameters down: average along outgoing axes, add up along incoming axes.

    Parameters
    ----------
    spec : UnitSpec
        Axes of each parameter, with the sizes of the fine level.
    transfers : dict of str to Transfer
        Transfer of each axis that shrinks.
    state : dict of str to Tensor
        Fine parameters and buffers by name.
    out : dict of str to Tensor, optional
        Tensors by name that take the result. Touching new memory costs as much time as the sums.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    NetgraphError
        A tensor of ``out`` has another shape than its result.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4, bias=False), torch.nn.Linear(4, 1, bias=False))
    >>> spec = ng.trace(model, torch.ones(1, 2))
    >>> transfers = {"0": ng.Transfer(np.array([0, 0, 1, 1]))}
    >>> state = {"0.weight": torch.arange(8.0).reshape(4, 2), "1.weight": torch.ones(1, 4)}
    >>> coarse = inject(spec, transfers, state)
    >>> coarse["0.weight"].tolist(), coarse["1.weight"].tolist()
    ([[1.0, 2.0], [5.0, 6.0]], [[2.0, 2.0]])
    """
    return _map_state(
        spec,
        transfers,
        state,
        lambda t, summed, x, d: t.total(x, d) if summed else t.average(x, d),
        down=True,
        shares=False,
        out=out,
    )


def prolong(
    spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor], *, out: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Take corrections up: copy along outgoing axes, share along incoming axes.

    Parameters
    ----------
    spec : UnitSpec
        Axes of each parameter, with the sizes of the fine level.
    transfers : dict of str to Transfer
        Transfer of each axis that shrinks.
    state : dict of str to Tensor
        Coarse corrections by name.
    out : dict of str to Tensor, optional
        Tensors by name that take the result. Touching new memory costs as much time as the sums.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    NetgraphError
        A tensor of ``out`` has another shape than its result.
    """
    return _map_state(
        spec,
        transfers,
        state,
        lambda t, summed, x, d: t.share(x, d) if summed else t.copy(x, d),
        down=False,
        shares=True,
        out=out,
    )


def restrict(
    spec: UnitSpec,
    transfers: Transfers,
    state: Mapping[str, Tensor],
    *,
    squared: bool = False,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Take gradients down, by the transpose of `prolong`.

    Parameters
    ----------
    spec : UnitSpec
        Axes of each parameter, with the sizes of the fine level.
    transfers : dict of str to Transfer
        Transfer of each axis that shrinks.
    state : dict of str to Tensor
        Fine gradients by name.
    squared : bool, default False
        Use squared entries, as second moments of gradients need.
    out : dict of str to Tensor, optional
        Tensors by name that take the result. Touching new memory costs as much time as the sums.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    NetgraphError
        A tensor of ``out`` has another shape than its result.
    """

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return (t.average_sq if squared else t.average)(x, d) if summed else t.total(x, d)

    return _map_state(spec, transfers, state, move, down=True, shares=True, power=2 if squared else 1, out=out)


def distribute(
    spec: UnitSpec,
    transfers: Transfers,
    state: Mapping[str, Tensor],
    *,
    squared: bool = False,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Take momentum and other gradient-like state up, by the transpose of `inject`.

    Parameters
    ----------
    spec : UnitSpec
        Axes of each parameter, with the sizes of the fine level.
    transfers : dict of str to Transfer
        Transfer of each axis that shrinks.
    state : dict of str to Tensor
        Coarse state by name.
    squared : bool, default False
        Use squared entries, as second moments of gradients need.
    out : dict of str to Tensor, optional
        Tensors by name that take the result. Touching new memory costs as much time as the sums.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    NetgraphError
        A tensor of ``out`` has another shape than its result.
    """

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return t.copy(x, d) if summed else (t.share_sq if squared else t.share)(x, d)

    return _map_state(spec, transfers, state, move, down=False, shares=False, power=2 if squared else 1, out=out)


def scale_units(
    spec: UnitSpec, factors: Mapping[str, tuple[Tensor, Tensor]], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Multiply the units of parameters by factors.

    Parameters
    ----------
    spec : UnitSpec
    factors : dict of str to (Tensor, Tensor)
        For each axis the factors of its units in outgoing and in incoming dimensions, (n,) each.
    state : dict of str to Tensor

    Returns
    -------
    dict of str to Tensor
    """

    def move(pair: tuple[Tensor, Tensor], summed: bool, x: Tensor, d: int) -> Tensor:
        return x * pair[summed].to(x).reshape(-1, *[1] * (x.ndim - 1 - d))

    return _map_each_dim(spec, factors, state, move)


def inject_first_members(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take parameters down as `inject` does, with the first member of each aggregate in place of the mean."""

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return t.total(x, d) if summed else t.first(x, d)

    return _map_each_dim(spec, transfers, state, move)


# With S, which selects the first member of each aggregate: S P = I. Both keep the function of the coarse network or the length
# of its gradient, as `prolong` and `distribute` do, but only first members weigh anything.
#
#     prolong_to_first_members      W = P_out W_c S_in        distribute_to_first_members    G = S_out' G_c P_in'


def prolong_to_first_members(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring parameters up: copies of each unit, of which the first has all outgoing weights and the others have zeros."""

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return t.place(x, d) if summed else t.copy(x, d)

    return _map_each_dim(spec, transfers, state, move, down=False)


def distribute_to_first_members(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring gradient-like state up by the transpose of `inject_first_members`. Its entries are their own squares."""

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return t.copy(x, d) if summed else t.place(x, d)

    return _map_each_dim(spec, transfers, state, move, down=False)


def mask_first_members(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return fine tensors of ones between first members alone, and of zeros elsewhere, for coarse tensors."""
    ones = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    return _map_each_dim(spec, transfers, ones, lambda t, summed, x, d: t.place(x, d), down=False)


def _map_each_dim(
    spec: UnitSpec, by_axis: Mapping[str, Any], state: Mapping[str, Tensor], move: Move, *, down: bool = True
) -> dict[str, Tensor]:
    """Map every dimension of every tensor in turn by ``move``. ``by_axis`` holds transfers, or on the way down any value."""
    sizes = spec.sizes if down else {**spec.sizes, **{axis: t.n_coarse for axis, t in by_axis.items()}}
    mapped = {
        name: _map_dims(tensor, _list_dims(spec, name, by_axis), by_axis, sizes, move, down=down)
        for name, tensor in state.items()
    }
    return {name: tensor.clone() if tensor is state[name] else tensor for name, tensor in mapped.items()}


def _map_dims(
    tensor: Tensor,
    dims: Dims,
    by_axis: Mapping[str, Any],
    sizes: Mapping[str, int],
    move: Move,
    *,
    down: bool | None,
) -> Tensor:
    """Map dimensions of a tensor in turn by ``move``. ``sizes`` are those of the axes that are not mapped."""
    if find_outer(dims, by_axis) is not None:
        run = partial(_map_dims, move=move, down=down)
        return move_each_outer_unit(tensor, dims, by_axis, sizes, run, down=down)
    for dim, (term, summed) in dims.items():
        tensor = _map_dim(tensor, dim, term, by_axis, summed, sizes, move)
    return tensor


def _list_dims(spec: UnitSpec, name: str, transfers: Mapping[str, Any]) -> Dims:
    """Return the dimensions of a parameter that run over given axes, or over the outer axes of nested transfers."""
    wanted = {*transfers, *(t.within for t in transfers.values() if isinstance(t, NestedTransfer))}
    return {
        dim: (term, spec.sums.get((name, dim), frozenset()))
        for dim, term in enumerate(spec.parameters.get(name, ()))
        if any(axis in wanted for axis in term_axes(term))
    }


def zero_sum_part(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return fine tensors minus their mean over each aggregate along incoming axes, so that aggregates sum to zero.

    A tensor without such an axis becomes zero. Added to a prolonged network, the result makes copies of a unit differ but
    does not change the output, because the merged units that it weighs are equal. These are the split weights W / 2 + D
    and W / 2 - D of Net2Net with noise (Chen et al., ICLR 2016).
    """
    out = {}
    for name, tensor in state.items():
        dims = {
            dim: summed
            for dim, term in enumerate(spec.parameters.get(name, ()))
            if (summed := spec.sums.get((name, dim), frozenset()) & set(term_axes(term)) & set(transfers))
        }
        rest = tensor if dims else torch.zeros_like(tensor)
        for dim, summed in dims.items():
            merged = {axis: transfers[axis] for axis in summed}
            listed = _list_dims(spec, name, merged)
            chosen = {d: pair for d, pair in listed.items() if d == dim or not summed & set(term_axes(pair[0]))}
            rest = rest - _map_dims(rest, chosen, merged, spec.sizes, _share_sum, down=None)
        out[name] = rest
    return out


def _share_sum(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
    """Share the sum of each aggregate out among its members. With the plain mean, each gets the mean."""
    return t.share(t.total(x, d), d)


def _map_state(
    spec: UnitSpec,
    transfers: Transfers,
    state: Mapping[str, Tensor],
    move: Move,
    *,
    down: bool,
    shares: bool,
    power: int = 1,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Map each tensor. Incoming axes are divided by sizes ** power if ``shares`` is set, outgoing axes otherwise."""
    fine = spec.sizes  # read once, because a property costs time with many small tensors
    maps = dict[Any, IndexMap]()

    def run(
        tensor: Tensor, dims: Dims, transfers: Transfers, sizes: Mapping[str, int], into: Tensor | None = None
    ) -> Tensor:
        if find_outer(dims, transfers) is not None:
            return move_each_outer_unit(tensor, dims, transfers, sizes, run, down=down)
        dims = {d: pair for d, pair in dims.items() if any(axis in transfers for axis in term_axes(pair[0]))}
        if not dims:
            return tensor
        if tensor.device.type == "cpu" and tensor.is_floating_point() and not _have_weights(dims, transfers):
            known = maps if transfers is all_transfers else {}  # a map serves all tensors of one set of transfers
            for key in dims.values():
                if key not in known:
                    known[key] = _build_index_map(*key, transfers, sizes, shares, power)
            return _map_with_kernels(tensor, {dim: known[key] for dim, key in dims.items()}, down, into)
        here = {**sizes, **({} if down else {axis: t.n_coarse for axis, t in transfers.items()})}
        return _map_dims(tensor, dims, transfers, here, move, down=down)

    all_transfers, moved = transfers, {}
    for name, tensor in state.items():
        into = None if out is None else out.get(name)
        moved_tensor = run(tensor, _list_dims(spec, name, transfers), transfers, fine, into)
        moved[name] = _write_result(name, moved_tensor, into, tensor)
    return moved


def _have_weights(dims: Dims, transfers: Transfers) -> bool:
    """Return True if an axis of these dimensions takes weighted means. The kernels scale whole aggregates, and no single units."""
    axes = {axis for term, _ in dims.values() for axis in term_axes(term) if axis in transfers}
    return any(transfers[axis].is_weighted for axis in axes)


def _write_result(name: str, tensor: Tensor, into: Tensor | None, source: Tensor) -> Tensor:
    """Return the result in the memory ``into``, or in new memory, but never in that of ``source``."""
    if into is None:
        return tensor.clone() if tensor is source else tensor
    if into is tensor:
        return tensor
    if into.shape != tensor.shape:
        raise NetgraphError(
            f"out[{name!r}] has shape {tuple(into.shape)}, but the result has shape {tuple(tensor.shape)}. "
            "Give tensors of the level that is written to."
        )
    with torch.no_grad():
        return into.copy_(tensor)


def _build_index_map(
    term: Term, summed: frozenset[str], transfers: Transfers, sizes: Mapping[str, int], shares: bool, power: int
) -> IndexMap:
    """Return the map of a dimension: the Kronecker product of its factors. A factor may be parts laid end to end."""
    if len(term) == 1 and isinstance(term[0], str) and term[0] in transfers:
        return transfers[term[0]].index_maps[power if (term[0] in summed) == shares else 0]
    aggregates, scale = np.zeros(1, dtype=np.int64), np.ones(1)
    for index, factor in enumerate(term):
        if index and is_joint(term, index - 1, transfers):
            continue  # it was taken with the outer axis before it
        if is_joint(term, index, transfers):
            inner: Any = term[index + 1]
            nested: Any = transfers[inner]
            part = nested.joint.index_maps[power if (inner in summed) == shares else 0]
        elif not isinstance(factor, str):
            part = _concatenate_maps(
                [_build_index_map(part_term, summed, transfers, sizes, shares, power) for part_term in factor]
            )
        elif factor in transfers:
            part = transfers[factor].index_maps[power if (factor in summed) == shares else 0]
        else:
            part = IndexMap(np.arange(sizes[factor]), np.ones(sizes[factor]))
        both = aggregates[:, None] * len(part.scale) + part.aggregates
        kept = (aggregates[:, None] >= 0) & (part.aggregates >= 0)
        aggregates, scale = np.where(kept, both, -1).ravel(), np.outer(scale, part.scale).ravel()
    return IndexMap(aggregates, scale)


def coarse_positions(spec: UnitSpec, transfers: Transfers, name: str, dim: int) -> NDArray[np.int64]:
    """Return the coarse position of each entry along a dimension of a parameter, (n,)."""
    return _build_index_map(spec.parameters[name][dim], frozenset(), transfers, spec.sizes, False, 0).aggregates


def _concatenate_maps(maps: list[IndexMap]) -> IndexMap:
    """Return the map of parts laid end to end."""
    starts = np.cumsum([0] + [len(part.scale) for part in maps])
    aggregates = [np.where(m.aggregates >= 0, m.aggregates + start, -1) for m, start in zip(maps, starts, strict=False)]
    return IndexMap(np.concatenate(aggregates), np.concatenate([part.scale for part in maps]))


def _map_with_kernels(tensor: Tensor, maps: Mapping[int, IndexMap], down: bool, into: Tensor | None) -> Tensor:
    """Map two dimensions at a time, the last two into the memory ``into``. Half precision is worked in single."""
    work = tensor.detach().float() if tensor.dtype in HALVES else tensor.detach()
    left, kernel = sorted(maps), sum_into_aggregates if down else copy_to_members
    while left:
        shape = list(work.shape)
        first, second, flat = _choose_kernel_shape(shape, left[:2], maps)
        for dim in left[:2]:
            shape[dim] = len(maps[dim].scale) if down else len(maps[dim].aggregates)
        left = left[2:]
        if not left and _can_write_into(into, shape, work, tensor):
            assert into is not None
            kernel(work.contiguous().numpy(), flat, first, second, into.detach().numpy())
            return into
        moved = kernel(work.contiguous().numpy(), flat, first, second)
        work = torch.from_numpy(moved).view(shape)
    return work.to(tensor.dtype)


def _choose_kernel_shape(
    shape: list[int], dims: list[int], maps: Mapping[int, IndexMap]
) -> tuple[IndexMap, IndexMap, Shape]:
    """Return the maps of one or two dimensions, and the shape in which these are axes 1 and 3."""
    d, e = dims[0], dims[-1]
    inner = prod(shape[e + 1 :])
    if d < e:
        return maps[d], maps[e], (prod(shape[:d]), shape[d], prod(shape[d + 1 : e]), shape[e], inner)
    if inner < WIDE:
        return IDENTITY, maps[d], (1, 1, prod(shape[:d]), shape[d], inner)
    return maps[d], IDENTITY, (prod(shape[:d]), shape[d], 1, 1, inner)


def _can_write_into(into: Tensor | None, shape: list[int], work: Tensor, tensor: Tensor) -> bool:
    """Return True if the kernel can write to ``into`` directly, while it reads ``tensor``."""
    return (
        into is not None
        and list(into.shape) == shape
        and into.dtype == work.dtype
        and into.device == work.device
        and into.is_contiguous()
        and into.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    )


def _map_dim(
    tensor: Tensor,
    dim: int,
    term: Term,
    transfers: Mapping[str, Any],
    summed: frozenset[str],
    sizes: Mapping[str, int],
    move: Move,
) -> Tensor:
    """Map one dimension by torch: factor by factor of a product, part by part of axes laid end to end."""
    if not term:
        return tensor
    if len(term) == 1:
        return _map_factor(tensor, dim, term[0], transfers, summed, sizes, move)
    factors = [term_size((factor,), sizes) for factor in term]
    tensor = tensor.unflatten(dim, factors)
    for i, factor in enumerate(term):
        if is_joint(term, i, transfers):
            name: Any = term[i + 1]
            pairs = move(transfers[name].joint, name in summed, tensor.flatten(dim + i, dim + i + 1), dim + i)
            tensor = pairs.unflatten(dim + i, (len(transfers[name].parts), -1))
        elif not (i and is_joint(term, i - 1, transfers)):
            tensor = _map_factor(tensor, dim + i, factor, transfers, summed, sizes, move)
    return tensor.flatten(dim, dim + len(term) - 1)


def _map_factor(
    tensor: Tensor,
    dim: int,
    factor: str | Join,
    transfers: Mapping[str, Any],
    summed: frozenset[str],
    sizes: Mapping[str, int],
    move: Move,
) -> Tensor:
    """Map one factor of a dimension: an axis, or parts laid end to end."""
    if isinstance(factor, str):
        transfer = transfers.get(factor)
        return tensor if transfer is None else move(transfer, factor in summed, tensor, dim)
    parts = tensor.split([term_size(part, sizes) for part in factor], dim)
    moved = [_map_dim(p, dim, term, transfers, summed, sizes, move) for p, term in zip(parts, factor, strict=True)]
    return torch.cat(moved, dim)


def dense_prolongation(spec: UnitSpec, transfers: Transfers, name: str, dim: int) -> Tensor:
    """Return P of one dimension of a parameter as a dense matrix, (fine, coarse)."""
    term = spec.parameters[name][dim]
    sizes = {**spec.sizes, **{axis: t.n_coarse for axis, t in transfers.items()}}
    identity = torch.eye(term_size(term, sizes), dtype=torch.float64)
    return _map_dim(identity, 0, term, transfers, frozenset(), sizes, lambda t, summed, x, d: t.copy(x, d))
