"""Match units again during training: units that have become alike merge, and units that have become different separate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.nested_transfer import (
    compose_transfers,
    count_coarse,
    list_aggregates,
    list_weights,
    make_transfer,
)
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.fas.levels.maps import HierarchyMaps, Maps


def check_rematch(maps: Maps) -> None:
    """Refuse levels that cannot be built again.

    Raises
    ------
    NetgraphError
        The levels are not a hierarchy, the hierarchy was read from a file, or it has levels of other directions.
    """
    if not isinstance(maps, HierarchyMaps) or maps.hierarchy.inputs is None:
        raise NetgraphError(
            "adapt.rematch builds the hierarchy again from the trained weights. It needs one that build_hierarchy made in this "
            "process, not a loaded one. Set it to 0."
        )
    if maps.hierarchy.direction_labels:
        raise NetgraphError(
            "adapt.rematch builds levels of merged units again, and this hierarchy has levels of other directions "
            f"({', '.join(way for way in maps.hierarchy.direction_labels if way)}). Set it to 0."
        )


def rebuild_levels(maps: HierarchyMaps) -> HierarchyMaps | str:
    """Return levels built from the finest network as it is now, or in words why there are fewer of them than before."""
    hierarchy, inputs = maps.hierarchy, maps.hierarchy.inputs
    assert inputs is not None  # by check_rematch
    try:
        rebuilt = build_hierarchy(
            hierarchy.levels[0].model, inputs.example, options=hierarchy.options, data=inputs.data, loss=inputs.loss,
            spec=inputs.spec,
        )  # fmt: skip
    except NothingToMergeError as error:
        return str(error)
    if len(rebuilt.levels) < len(maps.hierarchy.levels):
        return f"{len(rebuilt.levels)} levels can be made now, not {len(maps.hierarchy.levels)}"
    return HierarchyMaps(rebuilt)


def read_aggregates(maps: HierarchyMaps) -> list[dict[str, Tensor]]:
    """Return the aggregates of each level by axis."""
    return [
        {axis: torch.from_numpy(list_aggregates(t)) for axis, t in level.transfers.items()}
        for level in maps.hierarchy.levels
    ]


def read_weights(maps: HierarchyMaps) -> list[dict[str, Tensor]]:
    """Return the weights of the units of each level by axis, of those axes whose means are weighted."""
    weights = [{axis: list_weights(t) for axis, t in level.transfers.items()} for level in maps.hierarchy.levels]
    return [{axis: torch.from_numpy(w) for axis, w in step.items() if w is not None} for step in weights]


def compute_signatures(maps: Maps) -> list[str]:
    """Return a signature of each coarse level: its direction and a digest of its aggregates.

    Levels that are not a hierarchy have none.
    """
    if not isinstance(maps, HierarchyMaps):
        return []
    return [
        f"{level.describe_step(above)} {_hash_aggregates(level)}" for above, level in pairwise(maps.hierarchy.levels)
    ]


def _hash_aggregates(level: Level) -> str:
    """Return a digest of the aggregates of units and blocks."""
    digest = hashlib.sha256()
    for name, contents in _list_contents(level):
        digest.update(name.encode() + contents)
    return digest.hexdigest()[:8]


def digest_axes(level: Level) -> dict[str, str]:
    """Return a digest of the aggregates of each axis and chain of blocks."""
    return {name: hashlib.sha256(contents).hexdigest()[:8] for name, contents in _list_contents(level)}


def _list_contents(level: Level) -> Iterator[tuple[str, bytes]]:
    """Yield the aggregates of each axis and chain of blocks, and the weights of their units, as bytes."""
    merged = {**level.transfers, **{step.chain.name: step.transfer for step in level.chains}}
    for name in sorted(merged):
        weights = list_weights(merged[name])
        aggregates = list_aggregates(merged[name]).astype("<i8").tobytes()
        yield name, aggregates if weights is None else aggregates + weights.astype("<f8").tobytes()


def restore_levels(
    maps: HierarchyMaps, aggregates: Sequence[Mapping[str, Tensor]], weights: Sequence[Mapping[str, Tensor]]
) -> HierarchyMaps:
    """Return levels with these aggregates and weights of units. Their parameters are written afterwards."""
    finest = maps.hierarchy.levels[0]
    levels, composed = [finest], dict[str, Transfer]()  # from the finest level to the last one in the list
    for step, weighted in zip(aggregates[1:], weights[1:], strict=True):
        known = {axis: tensor.numpy() for axis, tensor in weighted.items()}
        transfers = {
            axis: make_transfer(labels.numpy(), finest.spec.axes[axis].within, known.get(axis))
            for axis, labels in step.items()
        }
        composed = compose_transfers(composed, transfers)
        spec = finest.spec.with_sizes(count_coarse(finest.spec, composed))
        network = coarse_network(finest.model, finest.spec, composed)
        levels.append(Level(network, spec, transfers, flops=spec.flops))
    return HierarchyMaps(replace(maps.hierarchy, levels=levels))
