"""Bring the heads of a whole hierarchy to one basis, level by level.

The rotations are those of `netgraph.coarsen.network.head_alignment`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from netgraph.coarsen.network.head_alignment import apply_rotations, find_rotatable_axes, find_rotations, lift_rotations
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer

if TYPE_CHECKING:
    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy


def align(hierarchy: Hierarchy, example: Any) -> int:
    """Bring heads of the finest network that merge to one basis, in place.

    The function of the network stays the same. `netgraph.build_hierarchy` averages heads in one basis already. Align the network
    before its own parameters are injected, as FAS does.

    Parameters
    ----------
    hierarchy : Hierarchy
        Parameters of its level 0 are written to.
    example : Tensor, tuple or dict
        Inputs as `netgraph.build_hierarchy` took them.

    Returns
    -------
    int
        Number of attentions that rotated.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31, 1966.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.coarsen import align
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    >>> example = torch.randn(2, 5, 16)
    >>> hierarchy = ng.build_hierarchy(model, example)
    >>> align(hierarchy, example)
    1
    """
    first = hierarchy.levels[0]
    merged = {axis for level in hierarchy.levels for axis in level.transfers}
    rotating = find_rotatable_axes(first.model, first.spec, example, merged)
    composed: dict[str, Transfer] = {}
    state, rotated_attentions = traced_state(first.model), set[tuple[str, int]]()
    for finer, level in itertools.pairwise(hierarchy.levels):
        chosen = {axis: t for axis, t in level.transfers.items() if axis in rotating}
        rotations = find_rotations(finer.spec, chosen, inject(first.spec, composed, state))
        state = apply_rotations(lift_rotations(rotations, first.spec, composed), state)
        rotated_attentions.update((rotation.axis, rotation.place) for rotation in rotations)
        composed = compose_transfers(composed, level.transfers)
    with torch.no_grad():
        for name, tensor in traced_state(first.model).items():
            tensor.copy_(state[name])
    return len(rotated_attentions)
