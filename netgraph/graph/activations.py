"""Activations of the units of a network on calibration data, for affinities that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from netgraph.graph.expert_activations import collect_expert_activations
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.recording.graph_module import GraphNetwork
from netgraph.rules.operators import LAYER_OVERLOADS, LINEAR
from netgraph.tracing.unit_spec import UnitSpec

MAX_SAMPLES = 4096  # activations of each unit that are kept


def collect_activations(network: GraphNetwork, spec: UnitSpec, batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return the activations of each axis' units, as linear layers and convolutions read them, and the outputs of experts.

    Parameters
    ----------
    network : GraphNetwork
        The network to run.
    spec : UnitSpec
        Its spec, with the sizes of this network.
    batches : sequence
        Inputs of calibration data.

    Returns
    -------
    dict of str to Tensor of shape (n_units, samples)
        By axis, at most `MAX_SAMPLES` samples.
    """
    activations: dict[str, list[Tensor]] = {}
    for stop in network.walk(batches, LAYER_OVERLOADS):
        name = stop.names[1]
        if name is None:
            continue
        for axis in sorted(spec.sums.get((name, 1), ())):
            for arguments in stop.arguments:
                dim = arguments[0].ndim - 1 if stop.function is LINEAR else 1
                activations.setdefault(axis, []).extend(
                    iter_unit_rows(arguments[0], dim, spec.parameters[name][1], axis, spec.sizes)
                )
    found = {axis: _subsample_columns(torch.cat(parts, 1)) for axis, parts in activations.items()}
    if not spec.experts:
        return found
    return {**collect_expert_activations(network, spec, batches[0], MAX_SAMPLES), **found}


def _subsample_columns(matrix: Tensor) -> Tensor:
    """Return at most `MAX_SAMPLES` columns of a matrix, evenly spaced."""
    return matrix[:, :: -(-matrix.shape[1] // MAX_SAMPLES)]
