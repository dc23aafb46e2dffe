"""Space as a direction of coarsening: the same network on an input of lower resolution.

The coarse network takes the fine input, averages squares of pixels, and goes on with the kernels as they are: on half as many
points a side every feature map is a quarter, and so is the work. That is what a network does that is convolutional
up to a pooling over all of space; one that flattens its last feature maps into a linear layer has weights for each place,
and is refused. Parameters go between the levels as they are; what a batch norm has seen differs, and is estimated anew
by ``repair="norms"`` or by training. Haber, Ruthotto, Holtham, Jun, "Learning across scales", AAAI 2018, section 3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.errors import NetgraphError, TraceError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.tracer import trace
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.pytree import build_structure, normalize_example


def average_pixels(inputs: Tensor, factor: int) -> Tensor:
    """Return images (n, channels, height, width) of a resolution ``factor`` times lower; other tensors as they are."""
    return functional.avg_pool2d(inputs, factor) if _is_image(inputs) else inputs


def _is_image(inputs: Tensor) -> bool:
    return inputs.ndim == 4 and inputs.is_floating_point()


def trace_at_resolution(model: nn.Module, example: Any, fine: UnitSpec, factor: int) -> UnitSpec:
    """Trace a network on an input of lower resolution, the averaging included.

    Parameters
    ----------
    model : torch.nn.Module
    example : Tensor, tuple or dict
        Inputs of full resolution.
    fine : UnitSpec
        The trace at full resolution.
    factor : int
        How many times lower.

    Raises
    ------
    NetgraphError
        No input is an image, a side is not divisible, or the network does not run at that resolution or answers otherwise.
    """
    leaves: list[Tensor] = []
    build_structure(normalize_example(example), leaves)
    images = [leaf for leaf in leaves if _is_image(leaf)]
    if not images:
        raise NetgraphError("space coarsens images (n, channels, height, width), and no input is one; leave space out")
    for image in images:
        if any(side % factor for side in image.shape[2:]):
            raise NetgraphError(
                f"an input of {image.shape[2]} x {image.shape[3]} cannot be averaged {factor} times lower; give sides that "
                f"{factor} divides, or fewer steps of space"
            )
    sides = " x ".join(str(side // factor) for side in images[0].shape[2:])
    try:
        lower = partial(average_pixels, factor=factor)
        spec = trace(_allow_any_size(model), example, before=lower, inside_heads=bool(fine.inside_heads))
    except TraceError as error:
        raise NetgraphError(
            f"the network does not run at {sides} ({error}); space is for networks that are convolutional up to a "
            "pooling over all of space: leave it out"
        ) from error
    if _output_shapes(spec) != _output_shapes(fine):
        raise NetgraphError(
            f"at {sides} the network answers {_output_shapes(spec)} in place of {_output_shapes(fine)}; space is for networks whose answer "
            "does not grow with the input: leave it out"
        )
    return spec


def _output_shapes(spec: UnitSpec) -> list[tuple[int, ...]]:
    output = next(node for node in reversed(spec.plans["eval"].graph.nodes) if node.op == "output")
    return [tuple(node.meta["val"].shape) for node in output.args[0] if isinstance(node, torch.fx.Node)]


def _allow_any_size(model: nn.Module) -> nn.Module:
    """Return a network that takes inputs of any size; a recorded one was made for those of its example."""
    return model.with_free_sizes() if isinstance(model, GraphNetwork) else model
