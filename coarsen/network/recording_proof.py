"""The recorded graph against the network itself, by numbers: outputs in both modes, and gradients of all parameters.

`netgraph.tracing.recording_check` proves without arithmetic that a recording holds under other conditions. Here the recorded graph
and the network run with the same parameters and random state, on other inputs than those of the recording. It shows what no second
recording can: an operator that the recorded graph calls otherwise, or a backward that a recording replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import collect_tensors, fixed_seed, max_relative_error, relative_error
from netgraph.coarsen.network.precision import bound_roundoff, find_half, list_graphs
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.environment.torch_internals import TensorMode
from netgraph.errors import GuardError, TraceError
from netgraph.recording.faithful_calls import CHECKPOINT_NAME, HOOK_NAME
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import run_step
from netgraph.recording.recorder import disable_fused_attention
from netgraph.rules.operator_call import operator_name, source_line
from netgraph.tracing.other_examples import detach_example, draw_numbers, fill_example, repeat_entries, resize_example
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.module_state import set_training_mode, swap_state
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import normalize_example
from netgraph.utils.seeds import make_generator

TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
MAX_FLOPS = 30_000_000  # larger networks are compared by numbers on request only
MAX_PARAMETERS = 2_000_000
MAX_PROVEN = 300_000_000  # parameters of the largest network that is compared on request
ATEN = torch.ops.aten
OTHER_BACKWARDS = {  # calls that a recording loses and what to write instead
    HOOK_NAME: "The network calls register_hook{line} on a tensor, and a recording has no hooks. Write what the hook does as operators, "
    "such as h * 2 - h.detach() for a gradient that is doubled.",
    CHECKPOINT_NAME: "The network recomputes a block by torch.utils.checkpoint{line}, whose inputs have no gradient. The parameters of the "
    "block then get none either, and never train. Give use_reentrant=False.",
}


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one run of a network: the tensors of its result, and the gradients of its parameters."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]


def is_cheap_to_prove(model: nn.Module, spec: UnitSpec) -> bool:
    """Return True if a network is so small that running it a few times costs little."""
    return spec.flops <= MAX_FLOPS and sum(p.numel() for p in model.parameters()) <= MAX_PARAMETERS


def prove_recording(model: nn.Module, spec: UnitSpec, example: Any, *, seed: int = 0, probe: bool = False) -> None:
    """Run the recorded graph against the network itself, in evaluation and in training mode.

    Parameters
    ----------
    model : torch.nn.Module
        The network. It stays as it is.
    spec : UnitSpec
        Trace of the network.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them. The runs have other numbers and another batch size, where the network takes them.
    seed : int, default 0
        Seed of the numbers and of what the networks draw.
    probe : bool, default False
        Compare on weights that are large enough to show a difference, instead of the network's own.

    Raises
    ------
    TraceError
        They differ. The message names the first operator where they part, or the parameter whose gradient differs.
    """
    with preserve_attributes(model):
        set_training_mode(model, training=False)
        state = probe_state(model, example, seed) if probe else traced_state(model)
        network = coarse_network(model, spec, {}, state={name: tensor.clone() for name, tensor in state.items()})
        for training in (False, True):
            if ("train" if training else "eval") not in spec.unrecorded:
                _Comparison(model, network, spec, state, training, seed).compare(example)


@dataclass(frozen=True)
class _Comparison:
    """The network and its recorded graph in one mode."""

    model: nn.Module
    network: GraphNetwork
    spec: UnitSpec
    state: Mapping[str, Tensor]
    training: bool
    seed: int

    def compare(self, example: Any) -> None:
        """Compare on the first example on which both run."""
        numbers = (draw_numbers, repeat_entries)
        plain = detach_example(example)  # a network may ask whether its input has a gradient
        others = chain(resize_example(plain, self.spec, numbers), fill_example(plain, numbers), [example])
        for other in others:
            try:
                expected = self._run(self.model, other)
            except Exception:  # the network itself may refuse other sizes or numbers, in many ways
                continue
            if not all(bool(torch.isfinite(t).all()) for t in expected.outputs if t.is_floating_point()):
                continue
            try:
                found = self._run(self.network, other)
            except GuardError:  # other numbers lead to another decision, which the recorded graph refuses by itself
                continue
            except Exception as error:
                raise TraceError(
                    f"the recorded graph {self._mode} does not run: {type(error).__name__}: {str(error)[:200]}"
                ) from error
            try:
                self._judge(expected, found, other)
            except TraceError:
                self._refuse_own_randomness(expected, other)
                raise
            return

    @property
    def _mode(self) -> str:
        return "in training mode" if self.training else "in evaluation mode"

    def _run(self, model: nn.Module, example: Any) -> _Outcome:
        """Run one of the two with a copy of the parameters, and return outputs and gradients."""
        args, kwargs = normalize_example(example)
        names = {name for name, p in self.model.named_parameters() if p.requires_grad}
        state = {
            n: t.detach().clone().requires_grad_(n in names and t.is_floating_point()) for n, t in self.state.items()
        }
        with (
            preserve_attributes(model)
            if model is self.model
            else nullcontext(),  # a recorded graph keeps no attributes
            fixed_seed(self.seed),
            swap_state(model, state),
            disable_fused_attention(),
            torch.enable_grad(),
        ):
            set_training_mode(model, training=self.training)
            outputs = collect_tensors(model(*args, **kwargs))
            return _Outcome(
                [t.detach() for t in outputs], _take_gradients(outputs, {n: state[n] for n in names}, self.seed)
            )

    def _judge(self, expected: _Outcome, found: _Outcome, example: Any) -> None:
        """Raise if outputs or gradients differ."""
        half = find_half(self.state.values(), list_graphs(self.spec))
        tolerance = bound_roundoff(half, TOLERANCE)
        error = max_relative_error(expected.outputs, found.outputs) if expected.outputs else 0.0
        if not error <= tolerance:
            raise TraceError(
                f"the recorded graph {self._mode} differs from the network by {error:.2g} of its outputs' norm"
                f"{self._find_operator(example)}. {self._advise()}"
            )
        for name, gradient in expected.gradients.items():
            error = _compare_gradients(gradient, found.gradients[name])
            if not error <= max(GRADIENT_TOLERANCE, 4 * tolerance):
                raise TraceError(
                    f"the gradient of {name} {self._mode} differs between the recorded graph and the network by {error:.2g} of its "
                    f"norm. {self._advise()}"
                )

    def _refuse_own_randomness(self, expected: _Outcome, example: Any) -> None:
        """Raise if the network differs from itself, and not the recorded graph from the network."""
        for _ in range(5):
            again = self._run(self.model, example)
            if expected.outputs and not max_relative_error(expected.outputs, again.outputs) <= TOLERANCE:
                raise TraceError(
                    f"two runs of the network {self._mode} on one example differ, with the same seeds of PyTorch, NumPy and Python: it "
                    "draws from a random generator of its own, or remembers earlier runs. Take that out of forward."
                )

    def _advise(self) -> str:
        """Return the likely cause and its mend."""
        if self.spec.functions:
            name, line = next(iter(self.spec.functions.items()))
            if name in OTHER_BACKWARDS:
                return OTHER_BACKWARDS[name].format(line=line)
            return (
                f"The network calls {name}{line}, an autograd.Function with a backward of its own, and a recording takes the backward "
                "of its operators instead. Write it with operators that have this backward, such as x + (f(x) - x).detach() for a "
                "straight-through f."
            )
        if self.spec.gradients is not None:
            return f"The network takes a gradient in its own forward{self.spec.gradients.rstrip()}."
        return "The operator is recorded wrongly. Please report the network."

    def _find_operator(self, example: Any) -> str:
        """Return `` at OPERATOR at file:line`` of the first call where both part, or nothing."""
        try:
            mine = self._trace_operators(self.model, example)
            theirs = self._trace_operators(self.network, example)
        except Exception:  # the search is a help only
            return ""
        nodes = {node.name: node for node in self.spec.plans["train" if self.training else "eval"].graph.nodes}
        for (function, value, _), (other, found, step) in zip(mine, theirs, strict=False):
            if function is not other or not _are_close(value, found):
                node = nodes.get(step)
                return "" if node is None else f", first at {operator_name(node.target)}{source_line(node)}"
        return ""

    def _trace_operators(self, model: nn.Module, example: Any) -> list[tuple[Any, Any, str]]:
        """Return the operators below autograd that a run calls: each with a digest of its result, and the recorded step."""
        args, kwargs = normalize_example(example)
        state = {name: tensor.detach().clone() for name, tensor in self.state.items()}
        with (
            torch.no_grad(),
            preserve_attributes(model),
            fixed_seed(self.seed),
            swap_state(model, state),
            disable_fused_attention(),
        ):
            set_training_mode(model, training=self.training)
            if model is not self.network:
                with _OperatorLog() as log:
                    model(*args, **kwargs)
                return list(log.calls)
            return self._trace_steps(args, kwargs)

    def _trace_steps(self, args: Any, kwargs: Any) -> list[tuple[Any, Any, str]]:
        """Do the same for the recorded graph, step by step."""
        interpreter, slots = self.network.start_steps("train" if self.training else "eval", args, kwargs)
        names = {index: name for name, index in interpreter.slots.items()}
        with _OperatorLog() as log:
            for step in interpreter.steps:
                log.step = names[step.index]
                run_step(step, slots)
        return list(log.calls)


class _OperatorLog(TensorMode):  # type: ignore[misc]  # a private class of torch
    """Lists the operators that run in a block, with a digest of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, str]] = []
        self.step = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (ATEN.detach.default, ATEN.alias.default):
            self.calls.append((func, _digest(result), self.step))
        return result


def _digest(value: Any) -> Any:
    """Return shapes and norms of the tensors of a result."""
    if isinstance(value, (list, tuple)):
        return [_digest(part) for part in value]
    if not isinstance(value, Tensor):
        return None
    return tuple(value.shape), float(
        value.detach().abs().double().nan_to_num().sum()
    ) if value.dtype != torch.bool else float(value.sum())


def _are_close(a: Any, b: Any) -> bool:
    """Return True if two digests agree up to roundoff."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_are_close(x, y) for x, y in zip(a, b, strict=True))
    if not isinstance(a, tuple) or not isinstance(b, tuple):
        return bool(a == b)
    return bool(a[0] == b[0] and abs(a[1] - b[1]) <= TOLERANCE * (abs(a[1]) + 1e-12))


def _take_gradients(outputs: list[Tensor], parameters: Mapping[str, Tensor], seed: int) -> dict[str, Tensor | None]:
    """Return the gradients of a random combination of the outputs."""
    generator = make_generator(seed)
    losses = [
        (out * torch.randn(out.shape, generator=generator).to(out)).sum()
        for out in outputs
        if out.requires_grad and out.is_floating_point()
    ]
    if not losses:
        return dict.fromkeys(parameters)
    names = [name for name, p in parameters.items() if p.requires_grad]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), [parameters[n] for n in names], allow_unused=True)
    return dict(zip(names, gradients, strict=True))


def _compare_gradients(expected: Tensor | None, found: Tensor | None) -> float:
    """Return the relative difference of two gradients. No gradient is one of zero."""
    if expected is None or found is None:
        other = found if expected is None else expected
        return 0.0 if other is None or not bool(other.any()) else 1.0
    return relative_error(expected, found)
