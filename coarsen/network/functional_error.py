"""The functional error: the distance between the outputs of a coarse and a fine network on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.coarsen.network.head_alignment import rotate_to_one_basis
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.nested_transfer import compose_transfers
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError, describe_error
from netgraph.recording.forward.named_outputs import collect_chosen
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import disable_fused_attention
from netgraph.recording.shared_steps import SharedSteps
from netgraph.tracing.recordable import check_input_tensors
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.pytree import build_structure, normalize_example, split_rows
from netgraph.utils.pytree import have_equal_rows as have_equal_rows

ROOM = 2**25  # most numbers in the outputs of one batch, 128 MiB of float32
KEPT = 2**26  # most numbers in outputs that are kept to compare others with


def explain_inputs(error: Exception, inputs: str) -> NetgraphError:
    """Return the error of a network that does not run on some inputs, with what to do."""
    advice = "Give inputs that nest like the example."
    if isinstance(error, IndexError):
        advice = (
            "Tokens have numbers beyond its vocabulary, or a row has more of them than it has positions. Give the tokenizer of the network, "
            "or shorter rows (--input, example= in Python)."
        )
    elif "dtype" in str(error):
        advice = "Give inputs of the dtype that it takes, or the network in that of the inputs."
    return NetgraphError(f"the network does not run on {inputs} ({describe_error(error)}). {advice}")


def split_batches(data: Any, size: int) -> list[Any]:
    """Split inputs, nested like the example, into batches along their first dimension.

    Inputs without equally many rows stay one batch.
    """
    check_input_tensors(data)
    leaves: list[Tensor] = []
    build_structure(normalize_example(data), leaves)
    if not leaves:
        raise NetgraphError(
            "the inputs hold no tensor. Give a tensor, a tuple of arguments, or a dict of keyword arguments."
        )
    return split_rows(data, size)


def choose_batch(network: nn.Module, data: Any, most: int, chosen: Sequence[str] = ()) -> int:
    """Return how many rows make a batch: at most ``most``, and so few that their outputs have `ROOM` numbers at most.

    A language model answers each token with a number for each word, which is thousands of times what it takes.
    """
    first = split_batches(data, min(most, 2))[0]
    numbers = sum(output.numel() for output in compute_outputs(network, [first], chosen)[0])
    return min(most, max(2 * ROOM // max(numbers, 1), 1))


def compute_outputs(network: nn.Module, batches: Sequence[Any], chosen: Sequence[str] = ()) -> list[list[Tensor]]:
    """Return the output tensors of a network in evaluation mode, batch by batch, or those with the chosen names."""
    return list(iterate_outputs(network, batches, chosen))


def iterate_outputs(network: nn.Module, batches: Sequence[Any], chosen: Sequence[str] = ()) -> Iterator[list[Tensor]]:
    """Yield what `compute_outputs` returns. The outputs of one batch at a time are in memory."""
    for batch in batches:
        training = network.training
        set_training_mode(network, training=False)
        try:
            with torch.no_grad(), disable_fused_attention():
                outputs = collect_chosen(_call_network(network, batch), chosen)
        finally:
            set_training_mode(network, training=training)
        yield outputs


@dataclass(frozen=True)
class ExpectedOutputs:
    """The outputs of a network on some batches: kept where they are small, and else computed again whenever they are read.

    Parameters
    ----------
    network : torch.nn.Module
    batches : sequence
    chosen : sequence of str
        Names of the outputs that matter, by default all.
    kept : list of list of Tensor, optional
    """

    network: nn.Module
    batches: Sequence[Any]
    chosen: Sequence[str]
    kept: list[list[Tensor]] | None

    @classmethod
    def of(cls, network: nn.Module, batches: Sequence[Any], chosen: Sequence[str] = ()) -> ExpectedOutputs:
        """Run the network on the first batch, and on the others if all outputs have `KEPT` numbers at most."""
        first = compute_outputs(network, batches[:1], chosen)
        if sum(output.numel() for output in first[0]) * len(batches) > KEPT:
            return cls(network, batches, chosen, None)
        return cls(network, batches, chosen, [*first, *iterate_outputs(network, batches[1:], chosen)])

    def __iter__(self) -> Iterator[list[Tensor]]:
        return iter(self.kept) if self.kept is not None else iterate_outputs(self.network, self.batches, self.chosen)


def _call_network(network: nn.Module, batch: Any) -> Any:
    """Call a network on a batch that is a tensor, a tuple or a dict."""
    args, kwargs = normalize_example(batch)
    return network(*args, **kwargs)


def function_error(expected: Iterable[Sequence[Tensor]], actual: Iterable[Sequence[Tensor]]) -> float:
    """Return |actual - expected| / |expected| over all floating-point outputs of all batches.

    Parameters
    ----------
    expected, actual : iterable of sequence of Tensor
        Outputs of the fine and the coarse network, by batch. Images of a coarse network that has a lower resolution are compared
        with averaged fine ones.

    Returns
    -------
    float
        A ratio of 2-norms. Infinite if an output is not finite.
    """
    off = whole = 0.0
    for x, y in zip(expected, actual, strict=True):
        for fine, coarse in zip(x, y, strict=True):
            a, b = _match_resolution(fine, coarse).double(), coarse.double()
            off, whole = off + float((a - b).square().sum()), whole + float(a.square().sum())
    error = (off / max(whole, 1e-300)) ** 0.5
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
    expected : iterable of list of Tensor
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
    expected: Iterable[Sequence[Tensor]]
    repair: Callable[[nn.Module, Mapping[str, Transfer], GraphNetwork], Any] | None = None
    rotating: Container[str] = ()

    def __call__(self, axis: str, transfer: Transfer) -> float:
        """Return the relative error of the network in which this axis alone is smaller."""
        transfers = compose_transfers(self.composed, {axis: transfer})
        return self.measure(transfers, {axis: transfers[axis]})

    def measure(
        self, transfers: Mapping[str, Transfer], turned: Mapping[str, Transfer] = MappingProxyType({})
    ) -> float:
        """Return the relative error of the network with some transfers.

        Parameters
        ----------
        transfers : dict of str to Transfer
        turned : dict of str to Transfer, default {}
            Those of axes whose heads come to one basis.
        """
        model = rotate_to_one_basis(self.model, self.spec, turned, self.rotating)
        network = coarse_network(model, _keep_evaluation(self.spec), transfers, has_layers=False).eval()
        if self.repair is not None:
            self.repair(model, transfers, network)
        with disable_fused_attention():
            results = (collect_chosen(r, self.spec.outputs) for r in self._shared_steps.iterate_results(network))
            return function_error(self.expected, results)

    @cached_property
    def _shared_steps(self) -> SharedSteps:
        """The steps of the network of this level, with which those of each candidate begin."""
        base = coarse_network(self.model, _keep_evaluation(self.spec), self.composed, has_layers=False).eval()
        return SharedSteps(base, self.batches)


def _keep_evaluation(spec: UnitSpec) -> UnitSpec:
    """Return a trace without the graph of training, which a network that is only judged never runs."""
    return replace(spec, plans={mode: plan for mode, plan in spec.plans.items() if mode == "eval"})
