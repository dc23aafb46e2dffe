"""Moving the parameters of a whole network between levels.

Parameters and corrections are primal, gradients and momentum dual (docs/transfers.md)::

    inject    W_c = R_out W P_in          state down
    prolong   E   = P_out E_c R_in        correction up          inject(prolong(E)) = E
    restrict  G_c = P_out' G R_in'        gradient down          = prolong'

Every dimension is worked by itself, as a scatter or a gather; no matrix is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from netgraph.coarsen.transfer import Transfer
from netgraph.spec import Join, Term, UnitSpec, term_axes, term_size

Transfers = Mapping[str, Transfer]
Move = Callable[[Transfer, bool, Tensor, int], Tensor]


def inject(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take parameters down: averaged along outgoing axes, added up along incoming ones.

    Parameters
    ----------
    spec : UnitSpec
        With the sizes of the fine level.
    transfers : dict of str to Transfer
        For each axis that shrinks.
    state : dict of str to Tensor
        Fine parameters and buffers by name.

    Returns
    -------
    dict of str to Tensor
    """
    return _moved(
        spec, transfers, state, lambda t, summed, x, d: t.total(x, d) if summed else t.average(x, d), down=True
    )


def prolong(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take corrections up: copied along outgoing axes, shared out along incoming ones."""
    return _moved(spec, transfers, state, lambda t, summed, x, d: t.share(x, d) if summed else t.copy(x, d), down=False)


def restrict(spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take gradients down: the transpose of `prolong`."""
    return _moved(
        spec, transfers, state, lambda t, summed, x, d: t.average(x, d) if summed else t.total(x, d), down=True
    )


def _moved(
    spec: UnitSpec, transfers: Transfers, state: Mapping[str, Tensor], move: Move, *, down: bool
) -> dict[str, Tensor]:
    sizes = {**spec.sizes, **({} if down else {axis: t.n_coarse for axis, t in transfers.items()})}
    out = {}
    for name, tensor in state.items():
        for dim, term in enumerate(spec.parameters.get(name, ())):
            if any(axis in transfers for axis in term_axes(term)):
                summed = spec.sums.get((name, dim), frozenset())
                tensor = _along(tensor, dim, term, transfers, summed, sizes, move)
        out[name] = tensor if tensor is not state[name] else tensor.clone()
    return out


def _along(
    tensor: Tensor,
    dim: int,
    term: Term,
    transfers: Transfers,
    summed: frozenset[str],
    sizes: Mapping[str, int],
    move: Move,
) -> Tensor:
    """Move one dimension: factor by factor of a product, part by part of a concatenation."""
    if not term:
        return tensor
    if len(term) == 1:
        return _along_factor(tensor, dim, term[0], transfers, summed, sizes, move)
    factors = [term_size((factor,), sizes) for factor in term]
    tensor = tensor.unflatten(dim, factors)
    for i, factor in enumerate(term):
        tensor = _along_factor(tensor, dim + i, factor, transfers, summed, sizes, move)
    return tensor.flatten(dim, dim + len(term) - 1)


def _along_factor(
    tensor: Tensor,
    dim: int,
    factor: str | Join,
    transfers: Transfers,
    summed: frozenset[str],
    sizes: Mapping[str, int],
    move: Move,
) -> Tensor:
    if isinstance(factor, str):
        transfer = transfers.get(factor)
        return tensor if transfer is None else move(transfer, factor in summed, tensor, dim)
    parts = tensor.split([term_size(part, sizes) for part in factor], dim)
    moved = [_along(p, dim, term, transfers, summed, sizes, move) for p, term in zip(parts, factor, strict=True)]
    return torch.cat(moved, dim)


def prolonged(spec: UnitSpec, transfers: Transfers, name: str, dim: int) -> Tensor:
    """Return P of one dimension of a parameter as a dense matrix (fine, coarse), products and parts included."""
    term = spec.parameters[name][dim]
    sizes = {**spec.sizes, **{axis: t.n_coarse for axis, t in transfers.items()}}
    identity = torch.eye(term_size(term, sizes), dtype=torch.float64)
    return _along(identity, 0, term, transfers, frozenset(), sizes, lambda t, summed, x, d: t.copy(x, d))
