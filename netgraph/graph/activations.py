"""What the units of a network answer on calibration data, for affinities that ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.recording.graph_module import GraphNetwork
from netgraph.rules.operators import LAYER_OVERLOADS, LINEAR
from netgraph.tracing.unit_spec import UnitSpec

SEEN = 4096  # activations of a unit that are kept


def collect_activations(network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return what the units of each axis answer, (n_units, samples), as linear layers and convolutions read them.

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        With the network's sizes.
    batches : list
    """
    found: dict[str, list[Tensor]] = {}
    for stop in network.walk(batches, LAYER_OVERLOADS):
        name = stop.names[1]
        if name is None:
            continue
        for axis in sorted(spec.sums.get((name, 1), ())):
            for arguments in stop.arguments:
                dim = arguments[0].ndim - 1 if stop.function is LINEAR else 1
                found.setdefault(axis, []).extend(
                    iter_unit_rows(arguments[0], dim, spec.parameters[name][1], axis, spec.sizes)
                )
    return {axis: _subsample_columns(torch.cat(parts, 1)) for axis, parts in found.items()}


def _subsample_columns(matrix: Tensor) -> Tensor:
    return matrix[:, :: -(-matrix.shape[1] // SEEN)]
