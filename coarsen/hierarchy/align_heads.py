"""Bring the heads of every level to one basis."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from netgraph.coarsen.network.head_alignment import apply_rotations, find_rotatable_axes, find_rotations, lift_rotations
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer

if TYPE_CHECKING:
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy


def align(hierarchy: Hierarchy, example: Any) -> int:
    """Bring heads of the finest network that merge to one basis, in place; return the number of attentions that rotated.

    What the network computes stays. `netgraph.build_hierarchy` averages heads so; whoever injects the network's own
    parameters, as FAS does, aligns it first.
    """
    first = hierarchy.levels[0]
    merged = {axis for level in hierarchy.levels for axis in level.transfers}
    rotating = find_rotatable_axes(first.model, first.spec, example, merged)
    whole: dict[str, Transfer] = {}
    state, turned = traced_state(first.model), set[tuple[str, int]]()
    for finer, level in itertools.pairwise(hierarchy.levels):
        chosen = {axis: t for axis, t in level.transfers.items() if axis in rotating}
        turns = find_rotations(finer.spec, chosen, inject(first.spec, whole, state))
        state = apply_rotations(lift_rotations(turns, first.spec, whole), state)
        turned.update((turn.axis, turn.place) for turn in turns)
        whole |= {a: whole[a].compose(t) if a in whole else t for a, t in level.transfers.items()}
    with torch.no_grad():
        for name, tensor in traced_state(first.model).items():
            tensor.copy_(state[name])
    return len(turned)
