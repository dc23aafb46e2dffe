"""Space as a direction of coarsening: the same network on an input of lower resolution.

The coarse network takes the fine input, averages squares of pixels, and applies the kernels as they are. With half as many
pixels a side, every feature map is a quarter as large, and so is the work. This suits networks that are convolutional up to a
pooling over all of space, and networks that answer an image for an image: the coarse network answers at its own resolution, and
``Problem(restrict=...)`` gives it targets of that resolution. A network that flattens its last feature maps into a linear layer
has weights for each position, and is refused. Parameters move between the levels unchanged. The statistics of batch norms
differ. They are estimated again by ``repair="norms"`` or by training. Haber, Ruthotto, Holtham, Jun, "Learning across scales",
AAAI 2018, section 3. Ahamed, Zakariaei, Haber, Eliasof, "Multiscale training of convolutional neural networks", TMLR 2026.
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
    """Return images (n, channels, height, width) at a resolution ``factor`` times lower, and other tensors unchanged."""
    return functional.avg_pool2d(inputs, factor) if _is_image(inputs) else inputs


def _is_image(inputs: Tensor) -> bool:
    """Return True for a floating-point tensor of four dimensions."""
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
        Divisor of the resolution.

    Returns
    -------
    UnitSpec

    Raises
    ------
    NetgraphError
        No input is an image, a side is not divisible by ``factor``, the network does not run at that resolution, or its outputs
        have neither the same shapes as before nor sides that are ``factor`` times smaller.
    """
    leaves: list[Tensor] = []
    build_structure(normalize_example(example), leaves)
    images = [leaf for leaf in leaves if _is_image(leaf)]
    if not images:
        raise NetgraphError("space coarsens images (n, channels, height, width), but no input is one. Leave space out.")
    for image in images:
        if any(side % factor for side in image.shape[2:]):
            raise NetgraphError(
                f"an input of {image.shape[2]} x {image.shape[3]} cannot be averaged {factor} times lower. Give sides that "
                f"{factor} divides, or fewer steps of space."
            )
    sides = " x ".join(str(side // factor) for side in images[0].shape[2:])
    try:
        lower = partial(average_pixels, factor=factor)
        spec = trace(
            _allow_any_size(model),
            example,
            before=lower,
            inside_heads=bool(fine.inside_heads),
            prove=False,
            outputs=fine.outputs,
        )
        spec = spec.with_limits_of(fine)
    except TraceError as error:
        raise NetgraphError(
            f"the network does not run at {sides} ({error}). Space needs a network that is convolutional up to a pooling "
            "over all of space. Leave space out."
        ) from error
    for fine_shape, shape in zip(list_output_shapes(fine), list_output_shapes(spec), strict=True):
        if shape not in (fine_shape, _shrink(fine_shape, factor)):
            raise NetgraphError(
                f"at {sides} the network answers {shape} in place of {fine_shape}. Space needs outputs of a fixed size, or "
                f"images with sides {factor} times smaller. Leave space out."
            )
    return spec


def _shrink(shape: tuple[int, ...], factor: int) -> tuple[int, ...] | None:
    """Return the shape of images (n, channels, height, width) at a resolution ``factor`` times lower, or None for no images."""
    if len(shape) != 4 or any(side % factor for side in shape[2:]):
        return None
    return (*shape[:2], shape[2] // factor, shape[3] // factor)


def list_output_shapes(spec: UnitSpec) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that a network returns."""
    output = next(node for node in reversed(spec.plans["eval"].graph.nodes) if node.op == "output")
    return [tuple(node.meta["val"].shape) for node in output.args[0] if isinstance(node, torch.fx.Node)]


def _allow_any_size(model: nn.Module) -> nn.Module:
    """Return a network that takes inputs of any size. A recorded network accepts only those of its example."""
    return model.with_free_sizes() if isinstance(model, GraphNetwork) else model
