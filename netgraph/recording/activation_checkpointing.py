"""Activation checkpointing: keep what lies between segments of a network, and run each segment again in the backward pass.

Chen et al., "Training deep nets with sublinear memory cost", arXiv:1604.06174, 2016, section 4: of n operators about sqrt(n)
segments are made, by `torch.utils.checkpoint`, which draws the same random numbers again. Gradients stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import SWITCH, Interpreter, Step, find_reads, run_step
from netgraph.rules.operators import NORM


def recompute_activations(network: nn.Module) -> None:
    """Have a network run its activations again in the backward pass, from its next training step on.

    Parameters
    ----------
    network : GraphNetwork or a module with an attribute ``recompute``
        Such as a transformer of `netgraph.models`, which runs its blocks again.

    Raises
    ------
    NetgraphError
        It writes in place or counts batches, which a second run would do twice; or it is neither of both.
    """
    if not isinstance(network, GraphNetwork):
        if not hasattr(network, "recompute"):
            _refuse_norms(network)
            raise NetgraphError(
                f"a {type(network).__name__} has no attribute recompute; give a coarse level, a transformer of netgraph.models, "
                "or wrap its blocks in torch.utils.checkpoint"
            )
        network.recompute = True  # type: ignore[assignment]  # no tensor
        return
    found = next((name for step in network.steps("train").steps if (name := _describe_side_effect(step))), None)
    if found is not None:
        raise NetgraphError(
            f"{found} cannot run twice with one result; train this level without recomputing activations"
        )
    network.run_train = _run_in_segments


def _refuse_norms(network: nn.Module) -> None:
    """Say of a network with batch norms what no level of it can do, rather than what is wrong with this one."""
    norm = next((name for name, module in network.named_modules() if isinstance(module, _BatchNorm)), None)
    if norm is not None:
        raise NetgraphError(
            f"batch norm {norm} counts each batch in its statistics, and a second run would count it twice, here and on coarser levels; "
            "train without recomputing activations, on smaller minibatches where memory is short (smoothing.accumulate adds them up)"
        )


def _describe_side_effect(step: Step) -> str | None:
    """Return the name of an operator that a second run would change something with."""
    schema = getattr(step.function, "_schema", None)
    if step.function is NORM:
        return "batch norm, which counts each batch in its statistics,"
    if schema is None or not schema.is_mutable or schema.name == "aten::detach_":
        return None
    return f"{schema.name}, which writes in place,"


def _run_in_segments(steps: Interpreter, find: Callable[[str], Any], *inputs: Any) -> list[Any]:
    """Return what ``steps`` returns, its activations kept between segments only."""
    if not torch.is_grad_enabled():
        return steps(find, *inputs)
    env = steps.begun(find, inputs)
    for segment, reads, makes in split_segments(steps):
        made = checkpoint(_make_runner(segment, reads, makes, len(env)), *(env[i] for i in reads), use_reentrant=False)
        for index, value in zip(makes, made, strict=True):
            env[index] = value
        for step in segment:
            for index in step.done:
                env[index] = None
    return steps.answered(env)


def _make_runner(segment: Sequence[Step], reads: Sequence[int], makes: Sequence[int], size: int) -> Callable[..., Any]:
    def run(*values: Any) -> tuple[Any, ...]:
        env: list[Any] = [None] * size
        for index, value in zip(reads, values, strict=True):
            env[index] = value
        for step in segment:
            run_step(step, env)
        return tuple(env[i] for i in makes)

    return run


def split_segments(steps: Interpreter) -> list[tuple[list[Step], list[int], list[int]]]:
    """Cut steps into about sqrt(n) segments; return each with the results it reads from before, and makes for later."""
    length = math.isqrt(max(len(steps.steps) - 1, 0)) + 1
    parts: list[list[Step]] = [[]]
    gradients = True
    for step in steps.steps:
        if len(parts[-1]) >= length and gradients:  # no cut where the network switches gradients off
            parts.append([])
        parts[-1].append(step)
        if step.function is SWITCH:
            gradients = bool(step.args[0])
    return [(part, *_find_border(part, steps)) for part in parts]


def _find_border(part: Sequence[Step], steps: Interpreter) -> tuple[list[int], list[int]]:
    made = {step.index for step in part}
    gone = {index for step in part for index in step.done}
    reads = {index for step in part for index in find_reads(step)} - made
    unread = made - {index for step in steps.steps for index in find_reads(step)} - set(steps.answers)
    return sorted(reads), sorted(made - gone - unread)
