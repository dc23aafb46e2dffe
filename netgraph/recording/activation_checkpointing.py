"""Activation checkpointing: keep activations between segments of a network only, and run each segment again in the backward pass.

Chen et al., "Training deep nets with sublinear memory cost", arXiv:1604.06174, 2016, section 4. A network of n operators is cut
into about sqrt(n) segments. `torch.utils.checkpoint` restores the random state of a segment, so gradients do not change.
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
from netgraph.recording.forward.autocast import enter_autocast, exit_autocast, leave_open_regions
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import SWITCH, Interpreter, Step, find_reads, run_step
from netgraph.rules.operators import BATCH_NORM


def recompute_activations(network: nn.Module) -> None:
    """Make a network recompute its activations in the backward pass, from the next training step on.

    Parameters
    ----------
    network : GraphNetwork or a module with an attribute ``recompute``
        The transformers of `netgraph.models` have that attribute and run their blocks again.

    Raises
    ------
    NetgraphError
        The network writes in place or counts batches, which a second run would repeat, or it is of neither kind.
    """
    if not isinstance(network, GraphNetwork):
        if not hasattr(network, "recompute"):
            _refuse_norms(network)
            raise NetgraphError(
                f"a {type(network).__name__} has no attribute recompute. Give a coarse level or a transformer of "
                "netgraph.models, or wrap its blocks in torch.utils.checkpoint."
            )
        network.recompute = True  # type: ignore[assignment]  # no tensor
        return
    side_effect = next((name for step in network.steps("train").steps if (name := _describe_side_effect(step))), None)
    if side_effect is not None:
        raise NetgraphError(
            f"{side_effect} cannot run twice with one result. Train this level without recomputing activations."
        )
    network.run_train = _run_in_segments


def _refuse_norms(network: nn.Module) -> None:
    """Raise for a network with batch norms. The message names the limit that holds on all levels."""
    norm = next((name for name, module in network.named_modules() if isinstance(module, _BatchNorm)), None)
    if norm is not None:
        raise NetgraphError(
            f"batch norm {norm} counts each batch in its statistics, and a second run would count it twice, here and on coarser levels. "
            "Train without recomputing activations. If memory is short, use smaller minibatches (smoothing.accumulate adds them up)."
        )


def _describe_side_effect(step: Step) -> str | None:
    """Return the name of an operator that a second run must not repeat, or None."""
    schema = getattr(step.function, "_schema", None)
    if step.function is BATCH_NORM:
        return "batch norm, which counts each batch in its statistics,"
    if schema is None or not schema.is_mutable or schema.name == "aten::detach_":
        return None
    return f"{schema.name}, which writes in place,"


def _run_in_segments(steps: Interpreter, find: Callable[[str], Any], *inputs: Any) -> list[Any]:
    """Return the results of ``steps`` while activations are kept between segments only."""
    if not torch.is_grad_enabled():
        return steps(find, *inputs)
    slots = steps.start_values(find, inputs)
    # Only values that cross a border live in `slots` between segments. `_find_border` lists them: a segment returns the
    # values that later segments read, and a slot is emptied after the segment with its last reader.
    for segment, reads, makes in split_segments(steps):
        results = checkpoint(
            _make_runner(segment, reads, makes, len(slots)), *(slots[i] for i in reads), use_reentrant=False
        )
        for index, value in zip(makes, results, strict=True):
            slots[index] = value
        for step in segment:
            for index in step.freed:
                slots[index] = None
    return steps.collect_results(slots)


def _make_runner(segment: Sequence[Step], reads: Sequence[int], makes: Sequence[int], size: int) -> Callable[..., Any]:
    """Return a function that runs one segment from the values that it reads to the values that later segments read."""

    def run(*values: Any) -> tuple[Any, ...]:
        slots: list[Any] = [None] * size
        for index, value in zip(reads, values, strict=True):
            slots[index] = value
        try:
            for step in segment:
                run_step(step, slots)
        except BaseException:
            leave_open_regions(slots)
            raise
        return tuple(slots[i] for i in makes)

    return run


def split_segments(steps: Interpreter) -> list[tuple[list[Step], list[int], list[int]]]:
    """Cut steps into about sqrt(n) segments.

    Parameters
    ----------
    steps : Interpreter

    Returns
    -------
    list of (list of Step, list of int, list of int)
        The steps of each segment, the slots that it reads from earlier segments, and the slots that it fills for later ones.
    """
    length = math.isqrt(max(len(steps.steps) - 1, 0)) + 1
    parts: list[list[Step]] = [[]]
    gradients, regions = True, 0
    for step in steps.steps:
        if (
            len(parts[-1]) >= length and gradients and not regions
        ):  # no cut inside a no_grad block or an autocast region
            parts.append([])
        parts[-1].append(step)
        if step.function is SWITCH:
            gradients = bool(step.args[0])
        regions += (step.function is enter_autocast) - (step.function is exit_autocast)
    return [(part, *_find_border(part, steps)) for part in parts]


def _find_border(part: Sequence[Step], steps: Interpreter) -> tuple[list[int], list[int]]:
    """Return the slots that a segment reads from outside and those that it fills for later segments."""
    written = {step.index for step in part}
    freed = {index for step in part for index in step.freed}
    reads = {index for step in part for index in find_reads(step)} - written
    unread = written - {index for step in steps.steps for index in find_reads(step)} - set(steps.result_slots)
    return sorted(reads), sorted(written - freed - unread)
