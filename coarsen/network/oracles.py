"""Oracles: tests that a coarse network computes what it should, for any model, on the user's machine.

*Duplicate unit*: parameters are prolonged from coarse ones, and merged units are alike. The coarse network must then give the
network's own outputs. *Dead unit*: the weights of a unit are zero. The network without that unit must give the same outputs.
Both compare the forward pass of the network itself with the recorded one. Shapes that fit are no proof.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import fixed_seed, max_relative_error, relative_error
from netgraph.coarsen.network.finite_values import find_nonfinite_outputs
from netgraph.coarsen.network.precision import HalfWatch, bound_roundoff, find_half, list_graphs, widen_casts
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.recorded_constants import prolong_tables
from netgraph.coarsen.network.recording_proof import MAX_PROVEN, prove_recording
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.partition.target_size import choose_n_coarse
from netgraph.coarsen.transfer.nested_transfer import NestedTransfer
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.recording.forward.expert_routing import batch_experts
from netgraph.recording.forward.named_outputs import collect_chosen
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import disable_fused_attention
from netgraph.tracing.recordable import check_input_tensors
from netgraph.tracing.unit_spec import Axis, UnitSpec
from netgraph.utils.module_state import set_training_mode, swap_held_tensors, swap_state
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.seeds import make_generator, make_random

Progress = Callable[[str, int, int], None]
WIDE_TOLERANCE = 1e-4  # above it, a network that casts to half precision by name is compared in that precision
UNMOVED = "it says nothing: no output moves when the parameters of these units change. Give inputs on which the outputs depend on them"
ALONE = "no two units can merge"
MAX_DOUBLE = 300_000_000  # larger networks are compared in their own precision


@dataclass(frozen=True)
class Verdict:
    """Result of an oracle.

    Parameters
    ----------
    oracle : {"duplicate", "dead", "finite"}
        ``"finite"`` is a verdict on the network itself, whose outputs are not finite.
    axes : tuple of str
        Axes whose units were merged or left out.
    error : float or None
        Largest relative difference of outputs (2-norm). None if the oracle does not apply.
    note : str, default ""
        The reason why it does not apply.
    roundoff : float, default 0.0
        Error that roundoff alone may cause, where the networks could be compared in a half precision only.

    Examples
    --------
    >>> from netgraph.coarsen import Verdict
    >>> Verdict("dead", ("fc1",), 1e-16)
    Verdict(oracle='dead', axes=('fc1',), error=1e-16, note='', roundoff=0.0)
    """

    oracle: str
    axes: tuple[str, ...]
    error: float | None
    note: str = ""
    roundoff: float = 0.0

    def passes(self, tolerance: float) -> bool:
        """Return True if the error is within a tolerance or the roundoff, or if the oracle does not apply."""
        return self.oracle != "finite" and (self.error is None or self.error <= max(tolerance, self.roundoff))


def check_duplicate_units(
    model: nn.Module,
    spec: UnitSpec,
    example: Any,
    axes: Iterable[Axis],
    *,
    seed: int = 0,
    double: bool = True,
    training: bool = False,
) -> Verdict:
    """Clone units in random pairs, merge them back, and compare outputs and parameters.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    spec : UnitSpec
        Trace of the network.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    axes : iterable of Axis
        Merged together.
    seed : int, default 0
        Seed of the weights and of the pairs of units.
    double : bool, default True
        Compare in double precision if the network runs in it. Then a wrong rule is not taken for roundoff, and roundoff is not
        taken for a wrong rule.
    training : bool, default False
        Compare in training mode. The network must draw no random numbers there.

    Returns
    -------
    Verdict
    """
    random = make_random(seed)
    transfers = {}
    for axis in axes:
        k = choose_n_coarse(axis, 0.5)
        if k < axis.size:
            transfers[axis.name] = _draw_transfer(spec, axis, partial(_permute_evenly, axis.size, k, random))
    names = tuple(transfers)
    if not transfers:
        return Verdict("duplicate", tuple(a.name for a in axes), None, ALONE)
    error, roundoff = _measure_difference(model, spec, transfers, example, seed, double, training)
    if error == 0 and not _outputs_move(model, spec, transfers, example, seed):
        return Verdict("duplicate", names, None, UNMOVED)
    note = "the network's own outputs are not numbers on this example" if error is None else ""
    return Verdict("duplicate", names, error, note, roundoff)


def check_dead_units(
    model: nn.Module,
    spec: UnitSpec,
    example: Any,
    axes: Iterable[Axis],
    *,
    seed: int = 0,
    double: bool = True,
    training: bool = False,
) -> Verdict:
    """Zero one unit of each axis, leave it out, and compare outputs. Parameters are those of `check_duplicate_units`."""
    random = make_random(seed)
    axes = list(axes)
    removable = [axis for axis in axes if axis.equal is None and axis.size > 1]
    if not removable:
        reason = next((axis.equal for axis in axes if axis.equal), "one unit")
        return Verdict("dead", tuple(a.name for a in axes), None, f"a zero unit still counts: {reason}")
    transfers = {}
    for axis in removable:
        transfers[axis.name] = _draw_transfer(spec, axis, partial(_leave_one_out, axis.size, random))
    error, roundoff = _measure_difference(model, spec, transfers, example, seed, double, training)
    if error is None:
        return Verdict(
            "dead",
            tuple(transfers),
            None,
            "the network itself is not finite with a zero unit, because it divides by a norm",
        )
    if error == 0 and not _outputs_move(model, spec, transfers, example, seed):
        return Verdict("dead", tuple(transfers), None, UNMOVED)
    return Verdict("dead", tuple(transfers), error, roundoff=roundoff)


def _draw_transfer(spec: UnitSpec, axis: Axis, draw: Callable[[], NDArray[np.int64]]) -> Transfer:
    """Return a transfer with drawn aggregates, others in each unit of the outer axis if there is one.

    Channels of groups that may merge themselves are merged alike, as `MergePlan` does.
    """
    if axis.within is None or (spec.axes[axis.within].inner == axis.name and spec.axes[axis.within].kept is None):
        return Transfer(draw())
    return NestedTransfer.of(axis.within, [draw() for _ in range(spec.axes[axis.within].size)])


def _permute_evenly(n: int, k: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return aggregates of n units in k groups of almost one size, drawn at random."""
    return random.permutation(np.arange(n) % k)


def _leave_one_out(n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return aggregates of n units without one of them, which is drawn."""
    return Transfer.selection(np.delete(np.arange(n), random.integers(n)), n).aggregates


def verify(
    model: nn.Module, spec: UnitSpec, example: Any, *, seed: int = 0, progress: Progress | None = None
) -> list[Verdict]:
    """Run both oracles on every axis of a network separately, and on all axes together.

    Before that, the recorded graph runs against the network itself, in both modes and with gradients of all parameters. Whether the
    network answers with numbers at all is asked in evaluation mode alone: training names a loss that is not finite at its first step.

    Parameters
    ----------
    model : torch.nn.Module
        The network. Its parameters stay as they are.
    spec : UnitSpec
        Trace of the network.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    seed : int, default 0
        Seed of the weights and of the pairs of units.
    progress : callable (axis, done, total), optional
        Called before the oracles of an axis run.

    Returns
    -------
    list of Verdict
        Two for each axis, and two for all axes together. A single one that fails if the network's own outputs are not finite.

    Raises
    ------
    TraceError
        The recorded graph and the network differ.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> example = torch.zeros(1, 4)
    >>> verdicts = ng.verify(model, ng.trace(model, example), example)
    >>> [(verdict.oracle, verdict.axes, verdict.error < 1e-10) for verdict in verdicts[:2]]
    [('duplicate', ('0',), True), ('dead', ('0',), True)]
    """
    check_example(model, example)  # shapes, on which it was traced, do not show a wrong precision
    problem = find_nonfinite_outputs(model, example)
    if problem is not None:
        return [Verdict("finite", (), None, problem)]
    if sum(p.numel() for p in model.parameters()) <= MAX_PROVEN:
        prove_recording(model, spec, example, seed=seed, probe=True)
    verdicts = []
    groups = [*([axis] for axis in spec.free), spec.free]
    for index, axes in enumerate(groups):
        if progress is not None:
            progress(axes[0].name if len(axes) == 1 else "all", index, len(groups))
        for oracle in (check_duplicate_units, check_dead_units):
            verdicts.append(oracle(model, spec, example, axes, seed=seed))
    return verdicts


def _measure_difference(
    model: nn.Module,
    spec: UnitSpec,
    transfers: Mapping[str, Transfer],
    example: Any,
    seed: int,
    double: bool,
    training: bool,
) -> tuple[float | None, float]:
    """Return the largest relative difference, None if the network's own outputs are not numbers, and its roundoff."""
    with preserve_attributes(model):
        set_training_mode(model, training=False)
        state = probe_state(model, example, seed)
        half = find_half(state.values(), list_graphs(spec))
        set_training_mode(model, training=training)
        if double and sum(t.numel() for t in state.values()) < MAX_DOUBLE:
            with contextlib.suppress(RuntimeError, NetgraphError):  # a cast inside meets double weights
                error, decides = _compare_in_double(model, spec, transfers, example, state, seed, half, training)
                if decides:
                    return error, 0.0
        error = _compare_networks(model, spec, transfers, example, state, seed, training=training)
        return error, bound_roundoff(half, 0.0)


def _outputs_move(model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], example: Any, seed: int) -> bool:
    """Return True if the network answers otherwise with other numbers in the parameters of the merged axes.

    If it does not, an error of zero says nothing, as in a spiking network that never fires.
    """
    args, kwargs = normalize_example(example)
    generator = make_generator(seed)
    with preserve_attributes(model):
        set_training_mode(model, training=False)
        state = probe_state(model, example, seed)
        moved = dict(state)
        for name in {name for axis in transfers for name, _ in spec.readers(axis)}:
            if state[name].is_floating_point():
                noise = torch.randn(state[name].shape, generator=generator).to(state[name])
                moved[name] = state[name] * (1 + 0.02 * noise)
        answers = []
        for tensors in (state, moved):
            copies = {name: tensor.clone() for name, tensor in tensors.items()}
            with torch.no_grad(), fixed_seed(seed), preserve_attributes(model), swap_state(model, copies):
                answers.append(model(*args, **kwargs))
    return max_relative_error(answers[0], answers[1], spec.outputs) > 0


def _compare_in_double(
    model: nn.Module,
    spec: UnitSpec,
    transfers: Mapping[str, Transfer],
    example: Any,
    state: Mapping[str, Tensor],
    seed: int,
    half: torch.dtype | None,
    training: bool,
) -> tuple[float | None, bool]:
    """Return the largest relative difference in double precision, and whether it decides: no half precision made it."""
    double_state = {name: cast_to_double(tensor) for name, tensor in state.items()}
    wide = find_half(state.values()) is not None
    with contextlib.nullcontext(HalfWatch()) if half is None else HalfWatch() as watch:
        error = _compare_networks(
            model, spec, transfers, cast_to_double(example), double_state, seed, wide=wide, training=training
        )
    return error, error is None or error <= WIDE_TOLERANCE or not watch.saw_half


def cast_to_double(value: Any) -> Any:
    """Return a nested value with its real and complex tensors in double precision."""
    if isinstance(value, Tensor):
        return (
            value.to(torch.complex128) if value.is_complex() else value.double() if value.is_floating_point() else value
        )
    if isinstance(value, (list, tuple)):
        return type(value)(cast_to_double(v) for v in value)
    return {k: cast_to_double(v) for k, v in value.items()} if hasattr(value, "items") else value


def _compare_networks(
    model: nn.Module,
    spec: UnitSpec,
    transfers: Mapping[str, Transfer],
    example: Any,
    state: Mapping[str, Tensor],
    seed: int,
    *,
    wide: bool = False,
    training: bool = False,
) -> float | None:
    """Return the largest relative difference of outputs, and of parameters that go up and down again.

    None if the network's own outputs are not numbers. ``wide`` replaces the recording's casts to a half precision.
    """
    # Prolonged parameters are exactly alike on the units of an aggregate. The fine network with these parameters must
    # compute the same as the coarse network. R P = I: injecting them again must give the coarse parameters.
    coarse = inject(spec, transfers, state)
    fine = prolong(spec, transfers, coarse)
    copy = {name: tensor.clone() for name, tensor in coarse.items()} if training else coarse  # training counts batches
    network = coarse_network(model, spec, transfers, state=copy).train(training)
    if wide:
        network = widen_casts(network)
    args, kwargs = normalize_example(example)
    with (
        torch.no_grad(),
        fixed_seed(seed),
        preserve_attributes(model),
        batch_experts(model),
        swap_state(model, {name: tensor.clone() for name, tensor in fine.items()} if training else fine),
        swap_held_tensors(model, prolong_tables(spec, transfers)),
        disable_fused_attention(),
    ):
        expected = model(*args, **kwargs)
    with fixed_seed(seed):
        results = run_coarse(network, example)
    if any(bool(torch.isnan(t).any()) for t in collect_chosen(expected, spec.outputs) if t.is_floating_point()):
        return None
    round_trip = inject(spec, transfers, fine)
    drift = max((relative_error(coarse[name], round_trip[name]) for name in coarse), default=0.0)
    return max(max_relative_error(expected, results, spec.outputs), drift)


def check_coarse_network(coarse: GraphNetwork, example: Any) -> None:
    """Run a coarse network on the example. No network is returned to a user before it has run.

    One row is enough if all inputs have one batch of free size. If one row fails, the whole example must run.

    Raises
    ------
    NetgraphError
        The network does not run: a rule of netgraph is wrong.
    """
    training = coarse.training
    coarse.eval()
    try:
        row = first_row(example)
        if row is not example:
            with contextlib.suppress(NetgraphError):
                run_coarse(coarse, row)
                return
        run_coarse(coarse, example)
    finally:
        coarse.train(training)


def check_example(model: nn.Module, example: Any) -> None:
    """Run the network itself after its coarse network has failed, to tell a wrong example from a wrong rule.

    Raises
    ------
    NetgraphError
        The network does not run on the example either.
    """
    check_input_tensors(example)
    args, kwargs = normalize_example(example)
    try:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.no_grad(), preserve_attributes(model), swap_state(model, buffers):
            model(*args, **kwargs)
    except Exception as error:  # operators raise many kinds
        raise NetgraphError(
            f"the network itself does not run on the example ({type(error).__name__}: {str(error)[:200]}). Give inputs of "
            "the shapes and types that it takes, as in --input 2x3x224x224 or ids=2x16:int64."
        ) from error


def first_row(example: Any) -> Any:
    """Return the first row of every tensor of an example.

    An example with different numbers of rows is returned whole.
    """
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(example), leaves)
    rows = {leaf.shape[0] if leaf.ndim > 1 else 0 for leaf in leaves}
    if len(rows) != 1 or rows.pop() < 2:
        return example
    args, kwargs = unflatten_tree(structure, [leaf[:1] for leaf in leaves])
    return kwargs if kwargs else args


def run_coarse(coarse: GraphNetwork, example: Any) -> Any:
    """Return the result of a coarse network.

    Raises
    ------
    NetgraphError
        An operator fails, for example because of sizes that do not fit.
    """
    args, kwargs = normalize_example(example)
    try:
        with torch.no_grad():
            return coarse(*args, **kwargs)
    except NetgraphError:
        raise
    except Exception as error:  # operators raise many kinds
        raise NetgraphError(
            f"the coarse network does not run ({type(error).__name__}: {str(error)[:200]}). A rule of netgraph is wrong. "
            "Please report the network. Until it is fixed, --keep the axis."
        ) from error
