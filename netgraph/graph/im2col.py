"""The matrix that the weights of a layer multiply: sampled patches of its input as rows (im2col).

A convolution is a linear map of patches (Chellapilla, Puri, Simard, "High performance convolutional neural networks for
document processing", 2006, section 4.1). Neighbouring patches carry much the same information. Only a random sample of positions
is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from netgraph.rules.operators import LINEAR

Places = tuple[Tensor, ...]  # for each place its index in the batch, then its index along each spatial dimension


def count_places(arguments: Sequence[Any], function: Callable[..., Any]) -> int:
    """Return the number of positions of the output of a layer. Nothing is computed."""
    on_meta = [value.to("meta") if isinstance(value, Tensor) else value for value in arguments]
    output: Tensor = function(*on_meta)
    return output.numel() // output.shape[-1 if function is LINEAR else 1]


def draw_places(output: Tensor, function: Callable[..., Any], n: int, random: torch.Generator) -> Places:
    """Sample at most ``n`` positions of the output of a layer, without repetition.

    Parameters
    ----------
    output : Tensor
        (batch, out, ...) of a convolution, (batch, ..., out) of a linear layer.
    function : operator
        The layer's ATen operator.
    n : int
    random : torch.Generator

    Returns
    -------
    tuple of Tensor
        One index array for each dimension but that of the channels.
    """
    sizes = output.shape[:-1] if function is LINEAR else (output.shape[0], *output.shape[2:])
    total = math.prod(sizes)
    flat = torch.arange(total) if total <= n else torch.randperm(total, generator=random)[:n].sort().values
    return torch.unravel_index(flat.to(output.device), sizes)


def take_places(tensor: Tensor, function: Callable[..., Any], places: Places) -> Tensor:
    """Return the entries at positions of the output of a layer, or of a tensor of the same shape, (n, out)."""
    return (tensor if function is LINEAR else tensor.movedim(1, -1))[places]


def build_columns(arguments: Sequence[Any], function: Callable[..., Any], places: Places) -> Tensor:
    """Return the inputs of the weights at positions, (n, groups, d), with d in the order of ``weight.flatten(1)``."""
    x, weight = arguments[:2]
    if function is LINEAR:
        return take_places(x, function, places)[:, None]
    dims = weight.ndim - 2
    stride, padding, dilation = (_per_dimension(arguments, i, dims) for i in (3, 4, 5))
    first, last = int(places[0].min()), int(places[0].max()) + 1  # of the batch
    padded = functional.pad(x[first:last], [p for p in reversed(padding) for _ in range(2)]).movedim(
        1, -1
    )  # (batch, ..., c)
    reach = (range(0, k * d, d) for k, d in zip(weight.shape[2:], dilation, strict=True))
    offsets = torch.tensor(list(itertools.product(*reach)), device=x.device)  # (pixels, dims)
    index = [places[i + 1][:, None] * stride[i] + offsets[:, i] for i in range(dims)]  # (n, pixels)
    patches: Tensor = padded[(places[0][:, None] - first, *index)]  # (n, pixels, c)
    grouped: Tensor = patches.unflatten(2, (count_groups(arguments, function), -1))
    return grouped.permute(0, 2, 3, 1).flatten(2)


def count_groups(arguments: Sequence[Any], function: Callable[..., Any]) -> int:
    """Return the number of channel groups of a layer."""
    return int(arguments[6]) if function is not LINEAR and len(arguments) > 6 else 1


def _per_dimension(arguments: Sequence[Any], index: int, dims: int) -> list[int]:
    """Return stride, padding or dilation for each spatial dimension. Recorded calls leave out defaults."""
    value = list(arguments[index]) if len(arguments) > index else [0 if index == 4 else 1]
    return value * dims if len(value) == 1 else value
