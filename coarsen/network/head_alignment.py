"""Rotations of the inner basis of attention heads, and how heads that merge are brought to one basis.

Scores are (Q x)' (K y) and values are O V y. An orthogonal T before Q and K therefore cancels, and so does another before V
and after O. Two heads that compute the same may differ by such rotations, and the mean of their weights is then a different
head. Before heads merge, each is rotated towards the mean of those before it in its aggregate (orthogonal Procrustes,
Schönemann, Psychometrika 31, 1966)::

    T = argmin |M - T W|² = U V'       M W' = U S V',   M the mean up to here,   W = [Q_1 .. Q_c  K] or [V  O_1' .. O_c']

c is the number of query heads in a group. Rotary positions turn pairs of dimensions. Only rotations of the same pairs commute
with them, and T is then one angle for each pair. Dimensions without positions are rotated separately. If queries or keys are
normed within heads (Henry et al., Findings of EMNLP 2020), the gains tell the dimensions apart: queries and keys stay as
they are, and only values rotate.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraph.affinity.head_circuits import gather_head_rows, split_rotary_pairs
from netgraph.analysis.attention_heads import Heads, HeadSlice, Index, find_heads
from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.network.oracles import first_row, run_coarse
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.transfer import HALVES, Transfer
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.seeds import make_generator

if TYPE_CHECKING:
    pass

TOLERANCE = 1e-3  # relative difference of outputs due to single precision in deep networks
MIN_GAIN = 1e-9  # share of |W|² by which a rotation must reduce the distance: copies stay bit for bit the same


@dataclass(frozen=True)
class HeadRotation:
    """A rotation of the inner basis of each head of an axis.

    Parameters
    ----------
    axis : str
    place : int
        Index among the attentions of the axis.
    heads : Heads
    query_key : Tensor of shape (n, size, size)
        Rotations of queries and keys.
    value_out : Tensor of shape (n, size, size)
        Rotations of values and of the layers that read them.
    """

    axis: str
    place: int
    heads: Heads
    query_key: Tensor
    value_out: Tensor

    @property
    def is_identity(self) -> bool:
        """True if every head stays as it is."""
        return all(bool((t == torch.eye(t.shape[1], dtype=t.dtype)).all()) for t in (self.query_key, self.value_out))

    def rotate(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters in the new bases. The function of the network stays the same."""
        out = dict(state)
        for part, rotations in (
            (self.heads.query, self.query_key),
            (self.heads.key, self.query_key),
            (self.heads.value, self.value_out),
            (self.heads.out, self.value_out),
        ):
            for name, dim in ((part.weight, part.dim), (part.bias, 0)):
                if name is not None:
                    out[name] = _rotate_rows(out[name], dim, part.index, rotations)
        return out


def _rotate_rows(tensor: Tensor, dim: int, index: Index, rotations: Tensor) -> Tensor:
    """Rotate the rows of each head along one dimension of a tensor."""
    rows = tensor.detach().movedim(dim, 0).clone()
    index_tensor = torch.from_numpy(index).to(tensor.device)
    values = rows[index_tensor].to(torch.float32 if tensor.dtype in HALVES else tensor.dtype)
    values = values.flatten(3) if rows.ndim > 1 else values[..., None]
    rotated = rotations.to(values)[:, None] @ values  # (n, 1, size, size) @ (n, copies, size, width)
    rows[index_tensor] = rotated.reshape(*index_tensor.shape, *rows.shape[1:]).to(tensor.dtype)
    return rows.movedim(0, dim)


def find_rotations(
    spec: UnitSpec, transfers: Mapping[str, Transfer], state: Mapping[str, Tensor]
) -> list[HeadRotation]:
    """Find the rotations that bring heads that merge to one basis.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine level.
    transfers : dict of str to Transfer
    state : dict of str to Tensor
        Fine parameters.

    Returns
    -------
    list of HeadRotation
        Without those that rotate nothing.
    """
    rotations = []
    for axis, transfer in transfers.items():
        for place, heads in enumerate(find_heads(spec, axis)):
            if _belong_to_units(heads, transfer.n_fine):
                query_key, value_out = _find_head_rotations(heads, transfer.aggregates, state)
                rotations.append(HeadRotation(axis, place, heads, query_key, value_out))
    return [rotation for rotation in rotations if not rotation.is_identity]


def _find_head_rotations(heads: Heads, aggregates: Index, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rotations of queries and keys, and those of values and output."""
    query, key, value, out = (_stack_rows(part, state) for part in (heads.query, heads.key, heads.value, heads.out))
    if heads.key.index.shape[1] == 1:
        # The bias of a key adds a constant to all scores of a query, and softmax ignores it. Rotary positions break that.
        still = slice(None) if heads.mates is None else split_rotary_pairs(heads.mates)[2]
        key[:, still, state[heads.key.weight].shape[1 - heads.key.dim] :] = 0
    query_key = (
        _identity_rotations(query)
        if heads.normed
        else _procrustes_rotations(torch.cat([query, key], 2), aggregates, heads.mates)
    )
    return query_key, _procrustes_rotations(torch.cat([value, out], 2), aggregates, None)


def _identity_rotations(rows: Tensor) -> Tensor:
    """Return an identity (size, size) for each head of rows (n, size, width)."""
    return torch.eye(rows.shape[1], dtype=rows.dtype).repeat(len(rows), 1, 1)


def _stack_rows(part: HeadSlice, state: Mapping[str, Tensor]) -> Tensor:
    """Return the rows of each head, those of all copies side by side, (n, size, copies · width), in double precision."""
    return gather_head_rows(part, state).double().transpose(1, 2).flatten(2)


def _procrustes_rotations(rows: Tensor, aggregates: Index, mates: Index | None) -> Tensor:
    """Return for each head the rotation (size, size) towards the mean of the heads before it in its aggregate."""
    rotations = _identity_rotations(rows)
    for k in range(int(aggregates.max(initial=-1)) + 1):
        members = np.flatnonzero(aggregates == k)
        total = rows[members[0]].clone() if len(members) else rows.new_zeros(0)
        for count, i in enumerate(members[1:].tolist(), 1):
            rotation = procrustes(total / count, rows[i], mates)
            before, after = (float((total / count - t).square().sum()) for t in (rows[i], rotation @ rows[i]))
            rotations[i] = rotation if before - after > MIN_GAIN * float(rows[i].square().sum()) else rotations[i]
            total += rotations[i] @ rows[i]
    return rotations


def procrustes(wanted: Tensor, rows: Tensor, mates: Index | None = None) -> Tensor:
    """Return the orthogonal T (size, size) that minimizes |wanted - T rows|.

    Parameters
    ----------
    wanted, rows : Tensor of shape (size, width)
    mates : int array of shape (size,), optional
        Pairs of dimensions that rotary positions turn. T commutes with these turns.

    Returns
    -------
    Tensor of shape (size, size)
    """
    cross = wanted @ rows.T
    if mates is None:
        return _polar_factor(cross)
    first, second, unpaired = split_rotary_pairs(mates)
    turn = torch.zeros_like(cross)
    turn[np.ix_(unpaired, unpaired)] = _polar_factor(cross[np.ix_(unpaired, unpaired)])
    # For a pair, <T, cross> = cos a (c_11 + c_22) + sin a (c_21 - c_12). The best angle makes (cos a, sin a) parallel to the two sums.
    cos = cross[first, first] + cross[second, second]
    sin = cross[second, first] - cross[first, second]
    length = torch.hypot(cos, sin)
    cos, sin = (
        torch.where(length > 0, x / length.clamp_min(1e-300), default) for x, default in ((cos, 1.0), (sin, 0.0))
    )
    turn[first, first], turn[second, second] = cos, cos
    turn[second, first], turn[first, second] = sin, -sin
    return turn


def _polar_factor(cross: Tensor) -> Tensor:
    """Return the orthogonal factor nearest to a square matrix. It is the identity for a zero matrix."""
    size = cross.shape[0]
    # A singular matrix has no unique polar factor. A small multiple of the identity picks the one nearest to no rotation.
    tilt = 1e-12 * torch.linalg.matrix_norm(cross) if size else 0.0
    u, _, vh = torch.linalg.svd(cross + tilt * torch.eye(size, dtype=cross.dtype))
    return torch.mm(u, vh)


def apply_rotations(rotations: Iterable[HeadRotation], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters after several rotations."""
    rotated = dict(state)
    for rotation in rotations:
        rotated = rotation.rotate(rotated)
    return rotated


def lift_rotations(
    rotations: Iterable[HeadRotation], spec: UnitSpec, transfers: Mapping[str, Transfer]
) -> list[HeadRotation]:
    """Return rotations of the heads of a coarse level as rotations in the finest network.

    Each fine head takes the rotation of its aggregate.

    Parameters
    ----------
    rotations : iterable of HeadRotation
    spec : UnitSpec
        Of the finest network.
    transfers : dict of str to Transfer
        From its units to those of the coarse level.
    """
    lifted = []
    for rotation in rotations:
        if rotation.axis not in transfers:
            lifted.append(rotation)
            continue
        members = torch.from_numpy(transfers[rotation.axis].aggregates)
        query_key, value_out = (
            torch.where(members[:, None, None] < 0, torch.eye(t.shape[1], dtype=t.dtype), t[members])
            for t in (rotation.query_key, rotation.value_out)
        )
        heads = find_heads(spec, rotation.axis)[rotation.place]
        lifted.append(HeadRotation(rotation.axis, rotation.place, heads, query_key, value_out))
    return lifted


def rotate_to_one_basis(
    model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], rotating: Container[str]
) -> nn.Module:
    """Return a network of the same function in which heads that merge have one basis.

    Parameters
    ----------
    model : torch.nn.Module
    spec : UnitSpec
        Of ``model``.
    transfers : dict of str to Transfer
    rotating : container of str
        Axes whose heads may rotate (`find_rotatable_axes`).

    Returns
    -------
    torch.nn.Module
        The model itself if no head rotates.
    """
    chosen = {axis: t for axis, t in transfers.items() if axis in rotating}
    return rotate_network(model, spec, find_rotations(spec, chosen, traced_state(model))) if chosen else model


def rotate_network(model: nn.Module, spec: UnitSpec, rotations: list[HeadRotation]) -> nn.Module:
    """Return the recorded graph of a network with rotated heads, or the network itself if none rotates."""
    return (
        coarse_network(model, spec, {}, state=apply_rotations(rotations, traced_state(model))) if rotations else model
    )


def find_rotatable_axes(
    model: nn.Module, spec: UnitSpec, example: Any, axes: Iterable[str], *, seed: int = 0
) -> set[str]:
    """Return the axes whose heads may rotate.

    The graph shows that for some axes (`netgraph.analysis.head_rotation`). For the others the network is run with random rotations:
    an operator between a projection and the product of queries and keys may treat dimensions differently in a way that the
    search for heads did not see. All such axes are tested together, and one by one if an output changes.
    """
    head_axes = [axis for axis in axes if spec.axes[axis].kind == "head"]
    heads = {
        axis: [h for h in find_heads(spec, axis) if _belong_to_units(h, spec.axes[axis].size)] for axis in head_axes
    }
    safe = {axis for axis, attentions in heads.items() if attentions and all(h.can_rotate for h in attentions)}
    rotations = {
        axis: _draw_rotations(spec, axis, seed) for axis, attentions in heads.items() if attentions and axis not in safe
    }
    if not rotations:
        return safe
    with preserve_attributes(model):
        set_training_mode(model, training=False)
        state = probe_state(model, example, seed)
    if _preserves_outputs(
        model, spec, example, state, [t for rotation_list in rotations.values() for t in rotation_list]
    ):
        return safe | set(rotations)
    return safe | {
        axis
        for axis, rotation_list in rotations.items()
        if _preserves_outputs(model, spec, example, state, rotation_list)
    }


def _draw_rotations(spec: UnitSpec, axis: str, seed: int) -> list[HeadRotation]:
    """Return a random rotation of every head of an axis. Attentions with shared keys or values are left out."""
    random, rotations = make_generator(seed), []
    for place, heads in enumerate(find_heads(spec, axis)):
        if _belong_to_units(heads, spec.axes[axis].size):
            (n, _, inner), size = heads.query.index.shape, heads.value.index.shape[2]
            aims = (torch.randn(n, k, 2 * k, generator=random, dtype=torch.float64) for k in (inner, size))
            query_key, value_out = (
                torch.stack([procrustes(x[:, :k], x[:, k:], mates) for x in aim])
                for aim, k, mates in zip(aims, (inner, size), (heads.mates, None), strict=True)
            )
            query_key = _identity_rotations(query_key) if heads.normed else query_key
            rotations.append(HeadRotation(axis, place, heads, query_key, value_out))
    return rotations


def _preserves_outputs(
    model: nn.Module, spec: UnitSpec, example: Any, state: Mapping[str, Tensor], rotations: list[HeadRotation]
) -> bool:
    """Return True if rotations leave the outputs on the first row of the example unchanged."""
    row = first_row(example)
    results = [
        run_coarse(coarse_network(model, spec, {}, state=tensors).eval(), row)
        for tensors in (state, apply_rotations(rotations, state))
    ]
    return max_relative_error(*results) < TOLERANCE


def _belong_to_units(heads: Heads, n: int) -> bool:
    """Return True if each unit has its own queries, keys and values, and none of their dimensions have merged."""
    return heads.complete and all(len(part.index) == n for part in (heads.query, heads.key, heads.value, heads.out))
