"""The functional error: the distance between the outputs of a coarse and a fine network on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.coarsen.network.head_alignment import rotate_to_one_basis
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.recording.forward.named_outputs import collect_chosen
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import disable_fused_attention
from netgraph.tracing.recordable import check_input_tensors
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.pytree import have_equal_rows as have_equal_rows


def split_batches(data: Any, size: int) -> list[Any]:
    """Split inputs, nested like the example, into batches along their first dimension.

    Inputs without equally many rows stay one batch.
    """
    check_input_tensors(data)
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(data), leaves)
    if not leaves:
        raise NetgraphError(
            "the inputs hold no tensor. Give a tensor, a tuple of arguments, or a dict of keyword arguments."
        )
    parts = [leaf.split(size) if have_equal_rows(leaves) else (leaf,) for leaf in leaves]
    pieces = zip(*parts, strict=True)
    nested = [unflatten_tree(structure, list(piece)) for piece in pieces]
    return [kwargs if kwargs else args for args, kwargs in nested]


def compute_outputs(network: nn.Module, batches: Sequence[Any], chosen: Sequence[str] = ()) -> list[list[Tensor]]:
    """Return the output tensors of a network in evaluation mode, batch by batch, or those with the chosen names."""
    training = network.training
    set_training_mode(network, training=False)
    try:
        with torch.no_grad(), disable_fused_attention():
            return [collect_chosen(_call_network(network, batch), chosen) for batch in batches]
    finally:
        set_training_mode(network, training=training)


def _call_network(network: nn.Module, batch: Any) -> Any:
    """Call a network on a batch that is a tensor, a tuple or a dict."""
    args, kwargs = normalize_example(batch)
    return network(*args, **kwargs)


def function_error(expected: Sequence[Sequence[Tensor]], actual: Sequence[Sequence[Tensor]]) -> float:
    """Return |actual - expected| / |expected| over all floating-point outputs of all batches.

    Parameters
    ----------
    expected, actual : sequence of sequence of Tensor
        Outputs of the fine and the coarse network, by batch. Images of a coarse network that has a lower resolution are compared
        with averaged fine ones.

    Returns
    -------
    float
        A ratio of 2-norms. Infinite if an output is not finite.
    """
    pairs = [
        (_match_resolution(a, b).double(), b.double())
        for x, y in zip(expected, actual, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    off = sum(float((a - b).square().sum()) for a, b in pairs)
    error = (off / max(sum(float(a.square().sum()) for a, _ in pairs), 1e-300)) ** 0.5
    return float(error) if error == error else float("inf")


def _match_resolution(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return fine images averaged to the resolution of coarse ones, and other outputs as they are."""
    if fine.shape == coarse.shape or fine.ndim != 4:
        return fine
    return functional.adaptive_avg_pool2d(fine, (coarse.shape[2], coarse.shape[3]))


@dataclass(frozen=True)
class FunctionErrorJudge:
    """Measures the error of the outputs if one axis merges, with all other axes as they are on this level.

    Parameters
    ----------
    model : torch.nn.Module
        The finest network.
    spec : UnitSpec
        Of ``model``.
    composed : dict of str to Transfer
        From the units of ``model`` to those of this level.
    batches : list
        Calibration data.
    expected : list of list of Tensor
        Outputs of the finest network.
    repair : callable ``(model, transfers, network) -> None``, optional
        Repairs the network before its outputs are compared.
    rotating : container of str
        Axes whose heads are brought to one basis before they merge.
    """

    model: nn.Module
    spec: UnitSpec
    composed: Mapping[str, Transfer]
    batches: Sequence[Any]
    expected: Sequence[Sequence[Tensor]]
    repair: Callable[[nn.Module, Mapping[str, Transfer], GraphNetwork], Any] | None = None
    rotating: Container[str] = ()

    def __call__(self, axis: str, transfer: Transfer) -> float:
        """Return the relative error of the network in which this axis alone is smaller."""
        transfers = compose_transfers(self.composed, {axis: transfer})
        model = rotate_to_one_basis(self.model, self.spec, {axis: transfers[axis]}, self.rotating)
        network = coarse_network(model, self.spec, transfers).eval()
        if self.repair is not None:
            self.repair(model, transfers, network)
        return function_error(self.expected, compute_outputs(network, self.batches, self.spec.outputs))
