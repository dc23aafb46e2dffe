"""Bases inside heads: what rotates within a head and changes nothing, and how merged heads are brought to one basis.

Scores are (Q x)' (K y) and values O V y, so an orthogonal T before Q and K, and another before V and after O, cancels. Two
heads that compute the same may differ by such rotations, and the mean of their weights is then another head. Before
heads merge, each is rotated towards the mean of those before it in its aggregate (orthogonal Procrustes, Schönemann,
Psychometrika 31, 1966)::

    T = argmin |M - T W|² = U V'       M W' = U S V',   M the mean so far,   W = [Q_1 .. Q_c  K] or [V  O_1' .. O_c']

c counts the query heads of a group. Rotary positions turn pairs of numbers; rotations that commute with them turn the same
pairs, and T is one angle for each. What positions leave alone is rotated by itself. Where queries or keys are normed
within heads (Henry et al., Findings of EMNLP 2020), gains know their numbers apart: they stay, values rotate.
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
from netgraph.coarsen.network.oracles import first_row, max_relative_error, run_coarse
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.transfer.transfer import HALVES, Transfer
from netgraph.recording.recorder import preserve_attributes
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.module_state import set_training_mode

if TYPE_CHECKING:
    pass

SAME = 1e-3  # relative difference of outputs that single precision leaves in deep networks
LEAST = 1e-9  # share of a head's square that a rotation must bring nearer: copies stay bit for bit what they are


@dataclass(frozen=True)
class HeadRotation:
    """A rotation of each head's inner basis.

    Parameters
    ----------
    axis : str
    place : int
        Which of the axis' attentions.
    heads : Heads
    attending : Tensor of shape (n, size, size)
        Of queries and keys.
    moving : Tensor of shape (n, size, size)
        Of values and what reads them.
    """

    axis: str
    place: int
    heads: Heads
    attending: Tensor
    moving: Tensor

    @property
    def is_identity(self) -> bool:
        """Whether every head stays as it is."""
        return all(bool((t == torch.eye(t.shape[1], dtype=t.dtype)).all()) for t in (self.attending, self.moving))

    def rotate(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters in the new bases; what they compute stays."""
        out = dict(state)
        for part, turns in (
            (self.heads.query, self.attending),
            (self.heads.key, self.attending),
            (self.heads.value, self.moving),
            (self.heads.out, self.moving),
        ):
            for name, dim in ((part.weight, part.dim), (part.bias, 0)):
                if name is not None:
                    out[name] = _rotate_rows(out[name], dim, part.index, turns)
        return out


def _rotate_rows(tensor: Tensor, dim: int, index: Index, turns: Tensor) -> Tensor:
    rows = tensor.detach().movedim(dim, 0).clone()
    places = torch.from_numpy(index).to(tensor.device)
    found = rows[places].to(torch.float32 if tensor.dtype in HALVES else tensor.dtype)
    found = found.flatten(3) if rows.ndim > 1 else found[..., None]
    turned = turns.to(found)[:, None] @ found  # (n, 1, size, size) @ (n, copies, size, width)
    rows[places] = turned.reshape(*places.shape, *rows.shape[1:]).to(tensor.dtype)
    return rows.movedim(0, dim)


def find_rotations(
    spec: UnitSpec, transfers: Mapping[str, Transfer], state: Mapping[str, Tensor]
) -> list[HeadRotation]:
    """Return the rotations after which heads that merge have one basis, none for heads that do not merge.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine level.
    transfers : dict of str to Transfer
    state : dict of str to Tensor
        Fine parameters.
    """
    found = []
    for axis, transfer in transfers.items():
        for place, heads in enumerate(find_heads(spec, axis)):
            if _belong_to_units(heads, transfer.n_fine):
                attending, moving = _find_head_rotations(heads, transfer.aggregates, state)
                found.append(HeadRotation(axis, place, heads, attending, moving))
    return [turns for turns in found if not turns.is_identity]


def _find_head_rotations(heads: Heads, aggregates: Index, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rotations of queries and keys, and of values and what reads them."""
    query, key, value, out = (_stack_rows(part, state) for part in (heads.query, heads.key, heads.value, heads.out))
    if heads.key.index.shape[1] == 1:  # a key's bias adds the same to all scores of a query, unless positions turn it
        still = slice(None) if heads.mates is None else split_rotary_pairs(heads.mates)[2]
        key[:, still, state[heads.key.weight].shape[1 - heads.key.dim] :] = 0
    attending = (
        _identity_rotations(query)
        if heads.normed
        else _procrustes_rotations(torch.cat([query, key], 2), aggregates, heads.mates)
    )
    return attending, _procrustes_rotations(torch.cat([value, out], 2), aggregates, None)


def _identity_rotations(rows: Tensor) -> Tensor:
    """Return for each head (n, size, width) the rotation that changes nothing, (n, size, size)."""
    return torch.eye(rows.shape[1], dtype=rows.dtype).repeat(len(rows), 1, 1)


def _stack_rows(part: HeadSlice, state: Mapping[str, Tensor]) -> Tensor:
    """Return each head's rows, those of all copies side by side, (n, size, copies · width), in double precision."""
    return gather_head_rows(part, state).double().transpose(1, 2).flatten(2)


def _procrustes_rotations(rows: Tensor, aggregates: Index, mates: Index | None) -> Tensor:
    """Return for each head the rotation (size, size) towards the mean of those before it in its aggregate."""
    turns = _identity_rotations(rows)
    for k in range(int(aggregates.max(initial=-1)) + 1):
        members = np.flatnonzero(aggregates == k)
        total = rows[members[0]].clone() if len(members) else rows.new_zeros(0)
        for count, i in enumerate(members[1:].tolist(), 1):
            turn = procrustes(total / count, rows[i], mates)
            before, after = (float((total / count - t).square().sum()) for t in (rows[i], turn @ rows[i]))
            turns[i] = turn if before - after > LEAST * float(rows[i].square().sum()) else turns[i]
            total += turns[i] @ rows[i]
    return turns


def procrustes(wanted: Tensor, rows: Tensor, mates: Index | None = None) -> Tensor:
    """Return the orthogonal T (size, size) for which T rows is nearest to what is wanted, both (size, width).

    Parameters
    ----------
    wanted, rows : Tensor
    mates : int array of shape (size,), optional
        Pairs that rotary positions turn; T commutes with these turns.
    """
    cross = wanted @ rows.T
    if mates is None:
        return _polar_factor(cross)
    first, second, alone = split_rotary_pairs(mates)
    turn = torch.zeros_like(cross)
    turn[np.ix_(alone, alone)] = _polar_factor(cross[np.ix_(alone, alone)])
    cos = cross[first, first] + cross[second, second]
    sin = cross[second, first] - cross[first, second]
    length = torch.hypot(cos, sin)
    cos, sin = (torch.where(length > 0, x / length.clamp_min(1e-300), rest) for x, rest in ((cos, 1.0), (sin, 0.0)))
    turn[first, first], turn[second, second] = cos, cos
    turn[second, first], turn[first, second] = sin, -sin
    return turn


def _polar_factor(cross: Tensor) -> Tensor:
    """Return the orthogonal factor nearest to a square matrix; the identity where the matrix says nothing."""
    size = cross.shape[0]
    tilt = 1e-12 * torch.linalg.matrix_norm(cross) if size else 0.0
    u, _, vh = torch.linalg.svd(cross + tilt * torch.eye(size, dtype=cross.dtype))
    return torch.mm(u, vh)


def apply_rotations(turns: Iterable[HeadRotation], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters after several rotations."""
    found = dict(state)
    for turn in turns:
        found = turn.rotate(found)
    return found


def lift_rotations(turns: Iterable[HeadRotation], spec: UnitSpec, whole: Mapping[str, Transfer]) -> list[HeadRotation]:
    """Return rotations of a coarse level's heads as those of the finest network's: each head takes its aggregate's.

    Parameters
    ----------
    turns : iterable of Turns
    spec : UnitSpec
        Of the finest network.
    whole : dict of str to Transfer
        From its units to the coarse level's.
    """
    found = []
    for turn in turns:
        if turn.axis not in whole:
            found.append(turn)
            continue
        members = torch.from_numpy(whole[turn.axis].aggregates)
        attending, moving = (
            torch.where(members[:, None, None] < 0, torch.eye(t.shape[1], dtype=t.dtype), t[members])
            for t in (turn.attending, turn.moving)
        )
        found.append(HeadRotation(turn.axis, turn.place, find_heads(spec, turn.axis)[turn.place], attending, moving))
    return found


def rotate_to_one_basis(
    model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], rotating: Container[str]
) -> nn.Module:
    """Return a network of the same function whose heads that merge have one basis: itself where they have.

    Parameters
    ----------
    model : torch.nn.Module
    spec : UnitSpec
        Of it.
    transfers : dict of str to Transfer
    rotating : container of str
        Axes whose heads may rotate (`find_rotatable_axes`).
    """
    chosen = {axis: t for axis, t in transfers.items() if axis in rotating}
    return rotate_network(model, spec, find_rotations(spec, chosen, traced_state(model))) if chosen else model


def rotate_network(model: nn.Module, spec: UnitSpec, turns: list[HeadRotation]) -> nn.Module:
    """Return a network's recorded graph with rotated heads, the network itself where none rotates."""
    return coarse_network(model, spec, {}, state=apply_rotations(turns, traced_state(model))) if turns else model


def find_rotatable_axes(
    model: nn.Module, spec: UnitSpec, example: Any, axes: Iterable[str], *, seed: int = 0
) -> set[str]:
    """Return the axes whose heads may rotate: where the graph shows it, or random rotations change no output.

    An operator between a projection and the product of queries and keys may know one number from another in a way that
    the search for heads did not see. Where `netgraph.analysis.head_rotation` does not rule that out, the network runs on weights that
    tell: for all such axes at once, and one by one where that changes something.
    """
    whole = [axis for axis in axes if spec.axes[axis].kind == "head"]
    heads = {axis: [h for h in find_heads(spec, axis) if _belong_to_units(h, spec.axes[axis].size)] for axis in whole}
    shown = {axis for axis, found in heads.items() if found and all(h.confined for h in found)}
    rotations = {
        axis: _draw_rotations(spec, axis, seed) for axis, found in heads.items() if found and axis not in shown
    }
    if not rotations:
        return shown
    with preserve_attributes(model):
        set_training_mode(model, training=False)
        state = probe_state(model, example, seed)
    if _preserves_outputs(model, spec, example, state, [t for turns in rotations.values() for t in turns]):
        return shown | set(rotations)
    return shown | {axis for axis, turns in rotations.items() if _preserves_outputs(model, spec, example, state, turns)}


def _draw_rotations(spec: UnitSpec, axis: str, seed: int) -> list[HeadRotation]:
    """Return a random rotation of every head of an axis; none where units share keys or values."""
    random, found = torch.Generator().manual_seed(seed), []
    for place, heads in enumerate(find_heads(spec, axis)):
        if _belong_to_units(heads, spec.axes[axis].size):
            (n, _, inner), size = heads.query.index.shape, heads.value.index.shape[2]
            aims = (torch.randn(n, k, 2 * k, generator=random, dtype=torch.float64) for k in (inner, size))
            attending, moving = (
                torch.stack([procrustes(x[:, :k], x[:, k:], mates) for x in aim])
                for aim, k, mates in zip(aims, (inner, size), (heads.mates, None), strict=True)
            )
            found.append(
                HeadRotation(axis, place, heads, _identity_rotations(attending) if heads.normed else attending, moving)
            )
    return found


def _preserves_outputs(
    model: nn.Module, spec: UnitSpec, example: Any, state: Mapping[str, Tensor], turns: list[HeadRotation]
) -> bool:
    """Tell whether rotations leave the outputs on the example's first row as they are."""
    row = first_row(example)
    found = [
        run_coarse(coarse_network(model, spec, {}, state=tensors).eval(), row)
        for tensors in (state, apply_rotations(turns, state))
    ]
    return max_relative_error(*found) < SAME


def _belong_to_units(heads: Heads, n: int) -> bool:
    """Tell whether each unit has queries, keys and values of its own, none of whose numbers have merged."""
    return heads.whole and all(len(part.index) == n for part in (heads.query, heads.key, heads.value, heads.out))
