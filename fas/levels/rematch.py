"""Matching again while training: units that have become alike merge, those that have parted no longer do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.fas.levels.maps import HierarchyMaps, Maps


def check_rematch(maps: Maps) -> None:
    """Refuse levels that nobody can make again.

    Raises
    ------
    NetgraphError
        They are no hierarchy, or one that was read from a file.
    """
    if not isinstance(maps, HierarchyMaps) or maps.hierarchy.inputs is None:
        raise NetgraphError(
            "adapt.rematch makes the hierarchy again from the trained weights, which needs one of build_hierarchy in "
            "this process, not a loaded one; set it to 0"
        )
    if maps.hierarchy.direction_labels:
        raise NetgraphError(
            "adapt.rematch makes levels of merged units again, and this hierarchy has levels of other directions "
            f"({', '.join(way for way in maps.hierarchy.direction_labels if way)}); set it to 0"
        )


def rebuild_levels(maps: HierarchyMaps) -> HierarchyMaps | str:
    """Return the levels made again from the finest network as it is now, or in words why there are fewer of them."""
    hierarchy, inputs = maps.hierarchy, maps.hierarchy.inputs
    assert inputs is not None  # by check_rematch
    try:
        found = build_hierarchy(
            hierarchy.levels[0].model, inputs.example, options=hierarchy.options, data=inputs.data, loss=inputs.loss,
            spec=inputs.spec,
        )  # fmt: skip
    except NothingToMergeError as error:
        return str(error)
    if len(found.levels) < len(maps.hierarchy.levels):
        return f"{len(found.levels)} levels can be made now, not {len(maps.hierarchy.levels)}"
    return HierarchyMaps(found)


def read_aggregates(maps: HierarchyMaps) -> list[dict[str, Tensor]]:
    """Return the aggregates between levels, by axis."""
    return [
        {axis: torch.from_numpy(t.aggregates) for axis, t in level.transfers.items()} for level in maps.hierarchy.levels
    ]


def compute_signatures(maps: Maps) -> list[str]:
    """Return of each coarse level how it came from the one above, with a digest of its aggregates; nothing of levels of your own."""
    if not isinstance(maps, HierarchyMaps):
        return []
    return [
        f"{level.describe_step(above)} {_hash_aggregates(level)}" for above, level in pairwise(maps.hierarchy.levels)
    ]


def _hash_aggregates(level: Level) -> str:
    merged = {**level.transfers, **{step.chain.name: step.transfer for step in level.chains}}
    digest = hashlib.sha256()
    for name in sorted(merged):
        digest.update(name.encode() + merged[name].aggregates.astype("<i8").tobytes())
    return digest.hexdigest()[:8]


def restore_levels(maps: HierarchyMaps, aggregates: Sequence[Mapping[str, Tensor]]) -> HierarchyMaps:
    """Return levels with other aggregates; what their parameters are comes later."""
    finest = maps.hierarchy.levels[0]
    levels, whole = [finest], dict[str, Transfer]()
    for step in aggregates[1:]:
        transfers = {axis: Transfer(found.numpy()) for axis, found in step.items()}
        whole = {**whole, **{a: whole[a].compose(t) if a in whole else t for a, t in transfers.items()}}
        spec = finest.spec.with_sizes({axis: t.n_coarse for axis, t in whole.items()})
        levels.append(Level(coarse_network(finest.model, finest.spec, whole), spec, transfers, flops=spec.flops))
    return HierarchyMaps(replace(maps.hierarchy, levels=levels))
