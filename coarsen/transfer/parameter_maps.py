"""Moving the parameters of a whole network between levels.

Parameters and corrections are primal, gradients and momentum dual (docs/transfers.md)::

    inject    W_c = R_out W P_in          state down
    prolong   E   = P_out E_c R_in        correction up          inject(prolong(E)) = E
    restrict  G_c = P_out' G R_in'        gradient down          = prolong'
    distribute  G = R_out' G_c P_in'      momentum up            = inject'   restrict(distribute(G)) = G

Second moments are squared duals: the same two maps with squared entries, which never make them negative.

Dimensions are worked two at a time in one pass over the numbers (`netgraph.coarsen.transfer.kernels`); on other devices, and
for integers and complex numbers, one by one, as a scatter or a gather. No matrix is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.coarsen.transfer import kernels as onepass
from netgraph.coarsen.transfer.kernels import IDENTITY, IndexMap
from netgraph.coarsen.transfer.transfer import HALVES, Transfer
from netgraph.errors import NetgraphError
from netgraph.tracing.unit_spec import Join, Term, UnitSpec, term_axes, term_size

WIDE = 64  # numbers in a row from which copying whole rows pays
Transfers = Mapping[str, Transfer]
Move = Callable[[Any, bool, Tensor, int], Tensor]


def inject(
    spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor], *, out: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Take parameters down: averaged along outgoing axes, added up along incoming ones.

    Parameters
    ----------
    spec : UnitSpec
        With the sizes of the fine level.
    transfers : dict of str to Transfer
        For each axis that shrinks.
    state : dict of str to Tensor
        Fine parameters and buffers by name.
    out : dict of str to Tensor, optional
        Tensors by name that the result is written to: to touch new memory takes as long as the sums.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    NetgraphError
        A tensor of ``out`` has not the shape of its result.
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
    """Take corrections up: copied along outgoing axes, shared out along incoming ones; ``out`` as for `inject`."""
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
    """Take gradients down: the transpose of `prolong`; ``squared`` takes second moments."""

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
    """Take gradient-like state up: the transpose of `inject`; ``squared`` takes second moments."""

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return t.copy(x, d) if summed else (t.share_sq if squared else t.share)(x, d)

    return _map_state(spec, transfers, state, move, down=False, shares=False, power=2 if squared else 1, out=out)


def scale_units(
    spec: UnitSpec, factors: Mapping[str, tuple[Tensor, Tensor]], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return parameters whose units are multiplied, where an axis is outgoing and where it is incoming.

    Parameters
    ----------
    spec : UnitSpec
    factors : dict of str to (Tensor, Tensor)
        By axis, for outgoing and for incoming dimensions, (n,) each.
    state : dict of str to Tensor

    Returns
    -------
    dict of str to Tensor
    """

    def move(pair: tuple[Tensor, Tensor], summed: bool, x: Tensor, d: int) -> Tensor:
        return x * pair[summed].to(x).reshape(-1, *[1] * (x.ndim - 1 - d))

    return _map_each_dim(spec, factors, state, move)


def inject_first_members(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take parameters down as `inject` does, but along outgoing axes an aggregate takes its first member's in place of the mean."""

    def move(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
        return t.total(x, d) if summed else t.first(x, d)

    return _map_each_dim(spec, transfers, state, move)


def _map_each_dim(
    spec: UnitSpec, by_axis: Mapping[str, Any], state: Mapping[str, Tensor], move: Move
) -> dict[str, Tensor]:
    """Work every dimension of every tensor in turn, whatever an axis has."""
    out = {}
    for name, tensor in state.items():
        for dim, term in enumerate(spec.parameters.get(name, ())):
            summed = spec.sums.get((name, dim), frozenset())
            tensor = _map_dim(tensor, dim, term, by_axis, summed, spec.sizes, move)
        out[name] = tensor
    return out


def zero_sum_part(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return fine tensors less their mean over each aggregate along incoming axes; zero where no such axis merges.

    Added to a prolonged network they change nothing that it computes, because merged units give the same numbers, and
    make copies differ: the split weights W / 2 + D and W / 2 - D of Net2Net with noise (Chen et al., ICLR 2016).
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
            mean = _map_dim(rest, dim, spec.parameters[name][dim], merged, summed, spec.sizes, _copy_mean)
            rest = rest - mean
        out[name] = rest
    return out


def _copy_mean(t: Transfer, summed: bool, x: Tensor, d: int) -> Tensor:
    return t.copy(t.average(x, d), d)


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
    """Move each tensor; axes that are summed over are divided by sizes ** power if ``shares``, all others if not."""
    fine = spec.sizes  # once: where there are many small tensors, a look at all axes for each would show
    sizes = {**fine, **({} if down else {axis: t.n_coarse for axis, t in transfers.items()})}
    moved, ways = {}, dict[Any, IndexMap]()
    for name, tensor in state.items():
        into = None if out is None else out.get(name)
        dims = {
            dim: (term, spec.sums.get((name, dim), frozenset()))
            for dim, term in enumerate(spec.parameters.get(name, ()))
            if any(axis in transfers for axis in term_axes(term))
        }
        if dims and tensor.device.type == "cpu" and tensor.is_floating_point():
            for key in dims.values():
                if key not in ways:
                    ways[key] = _build_index_map(*key, transfers, fine, shares, power)
            tensor = _map_with_kernels(tensor, {dim: ways[key] for dim, key in dims.items()}, down, into)
        else:
            for dim, (term, summed) in dims.items():
                tensor = _map_dim(tensor, dim, term, transfers, summed, sizes, move)
        moved[name] = _write_result(name, tensor, into, state[name])
    return moved


def _write_result(name: str, tensor: Tensor, into: Tensor | None, given: Tensor) -> Tensor:
    """Return what was moved, in the place that was asked for and never in the tensor that was given."""
    if into is None:
        return tensor.clone() if tensor is given else tensor
    if into is tensor:
        return tensor
    if into.shape != tensor.shape:
        raise NetgraphError(
            f"out[{name!r}] has shape {tuple(into.shape)} and the result {tuple(tensor.shape)}; "
            "give tensors of the level that is written to"
        )
    with torch.no_grad():
        return into.copy_(tensor)


def _build_index_map(
    term: Term, summed: frozenset[str], transfers: Transfers, sizes: Mapping[str, int], shares: bool, power: int
) -> IndexMap:
    """Return the aggregates of a whole dimension: products of factors, concatenations of parts."""
    if len(term) == 1 and isinstance(term[0], str) and term[0] in transfers:
        return transfers[term[0]].ways[power if (term[0] in summed) == shares else 0]
    aggregates, scale = np.zeros(1, dtype=np.int64), np.ones(1)
    for factor in term:
        if not isinstance(factor, str):
            way = _concatenate_maps(
                [_build_index_map(part, summed, transfers, sizes, shares, power) for part in factor]
            )
        elif factor in transfers:
            way = transfers[factor].ways[power if (factor in summed) == shares else 0]
        else:
            way = IndexMap(np.arange(sizes[factor]), np.ones(sizes[factor]))
        both = aggregates[:, None] * len(way.scale) + way.aggregates
        kept = (aggregates[:, None] >= 0) & (way.aggregates >= 0)
        aggregates, scale = np.where(kept, both, -1).ravel(), np.outer(scale, way.scale).ravel()
    return IndexMap(aggregates, scale)


def coarse_positions(spec: UnitSpec, transfers: Transfers, name: str, dim: int) -> NDArray[np.int64]:
    """Return where each number along a whole dimension of a parameter goes, products and parts included, (n,)."""
    return _build_index_map(spec.parameters[name][dim], frozenset(), transfers, spec.sizes, False, 0).aggregates


def _concatenate_maps(ways: list[IndexMap]) -> IndexMap:
    starts = np.cumsum([0] + [len(way.scale) for way in ways])
    parts = [np.where(w.aggregates >= 0, w.aggregates + at, -1) for w, at in zip(ways, starts, strict=False)]
    return IndexMap(np.concatenate(parts), np.concatenate([way.scale for way in ways]))


def _map_with_kernels(tensor: Tensor, ways: Mapping[int, IndexMap], down: bool, into: Tensor | None) -> Tensor:
    """Move two dimensions at a time, the last of them into the memory given; halves by way of single precision."""
    work = tensor.detach().float() if tensor.dtype in HALVES else tensor.detach()
    left, go = sorted(ways), onepass.sum_into_aggregates if down else onepass.copy_to_members
    while left:
        shape = list(work.shape)
        first, second, flat = _choose_kernel_shape(shape, left[:2], ways)
        for dim in left[:2]:
            shape[dim] = len(ways[dim].scale) if down else len(ways[dim].aggregates)
        left = left[2:]
        if not left and _can_write_into(into, shape, work, tensor):
            assert into is not None
            go(work.contiguous().numpy(), flat, first, second, into.detach().numpy())
            return into
        found = go(work.contiguous().numpy(), flat, first, second)
        work = torch.from_numpy(found).view(shape)
    return work.to(tensor.dtype)


def _choose_kernel_shape(
    shape: list[int], dims: list[int], ways: Mapping[int, IndexMap]
) -> tuple[IndexMap, IndexMap, onepass.Shape]:
    """Return the ways of one or two dimensions, and the shape in which they are axes 1 and 3."""
    d, e = dims[0], dims[-1]
    inner = prod(shape[e + 1 :])
    if d < e:
        return ways[d], ways[e], (prod(shape[:d]), shape[d], prod(shape[d + 1 : e]), shape[e], inner)
    if inner < WIDE:
        return IDENTITY, ways[d], (1, 1, prod(shape[:d]), shape[d], inner)
    return ways[d], IDENTITY, (prod(shape[:d]), shape[d], 1, 1, inner)


def _can_write_into(into: Tensor | None, shape: list[int], work: Tensor, tensor: Tensor) -> bool:
    """Whether the kernel can write there; ``tensor`` is read while it does."""
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
    """Move one dimension: factor by factor of a product, part by part of a concatenation."""
    if not term:
        return tensor
    if len(term) == 1:
        return _map_factor(tensor, dim, term[0], transfers, summed, sizes, move)
    factors = [term_size((factor,), sizes) for factor in term]
    tensor = tensor.unflatten(dim, factors)
    for i, factor in enumerate(term):
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
    if isinstance(factor, str):
        transfer = transfers.get(factor)
        return tensor if transfer is None else move(transfer, factor in summed, tensor, dim)
    parts = tensor.split([term_size(part, sizes) for part in factor], dim)
    moved = [_map_dim(p, dim, term, transfers, summed, sizes, move) for p, term in zip(parts, factor, strict=True)]
    return torch.cat(moved, dim)


def dense_prolongation(spec: UnitSpec, transfers: Transfers, name: str, dim: int) -> Tensor:
    """Return P of one dimension of a parameter as a dense matrix (fine, coarse), products and parts included."""
    term = spec.parameters[name][dim]
    sizes = {**spec.sizes, **{axis: t.n_coarse for axis, t in transfers.items()}}
    identity = torch.eye(term_size(term, sizes), dtype=torch.float64)
    return _map_dim(identity, 0, term, transfers, frozenset(), sizes, lambda t, summed, x, d: t.copy(x, d))
