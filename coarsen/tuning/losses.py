"""Losses of a small network: towards labels, and towards the outputs, the layers and the relations of its original.

    labels      cross-entropy, or the squared error of values
    knowledge   Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, section 2:
                T² KL(softmax(t / T) | softmax(s / T)) for classes, else |s - t|² / |t|²
    hint        Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015, eq. 3: |s - R t|² / |R t|² of hidden layers. R is the
                restriction of the hierarchy, so no regressor is needed. Without a hierarchy it is |W s - t|² / |t|², W a regressor.
    relational  Park et al., "Relational knowledge distillation", CVPR 2019, eq. 5 and 6: the Huber loss between the distances of
                the rows of a batch, each divided by their mean

Here s are numbers of the small network and t those of the original. Squared errors are relative, so that their weights mean the same
in every network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from netgraph.errors import NetgraphError

IGNORED = -100  # target of a token that counts in no loss, as in torch.nn.CrossEntropyLoss
SMALLEST = 1e-12  # of a mean square that is divided by


class Answer(NamedTuple):
    """Outputs of a network, and the outputs of chosen layers, (rows, units)."""

    outputs: list[Tensor]
    layers: Mapping[str, Tensor]


def relative_square(actual: Tensor, expected: Tensor) -> Tensor:
    """Return |actual - expected|² / |expected|²."""
    actual, expected = _widen(actual), _widen(expected)
    return (actual - expected).square().mean() / expected.square().mean().clamp_min(SMALLEST)


def label_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy in nats for whole numbers as targets, and the relative squared error for others."""
    if targets.is_floating_point():
        if not have_same_order(output.shape, targets.shape):
            raise NetgraphError(
                f"the network answers {tuple(output.shape)} for targets of {tuple(targets.shape)}. Give targets of the answer's shape."
            )
        return relative_square(output.reshape(targets.shape), targets)
    rows = place_classes_last(output, targets).flatten(0, -2)
    return functional.cross_entropy(_widen(rows), targets.flatten().long(), ignore_index=IGNORED)


def have_same_order(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return True if a view of one shape as the other keeps each number in its place.

    One of them must be the other with neighbouring dimensions as one, or with dimensions of size 1. (4, 1, 2, 3) and (4, 6) are, and
    (4, 2, 3) and (4, 3, 2) are not, although they have equally many numbers.
    """
    strides = [set(accumulate(reversed([n for n in shape if n != 1]), mul)) for shape in (one, other)]
    return prod(one) == prod(other) and (strides[0] <= strides[1] or strides[1] <= strides[0])


def place_classes_last(output: Tensor, targets: Tensor | None) -> Tensor:
    """Return an output with its classes along the last dimension. They may be along the second, as those of the pixels of images.

    Raises
    ------
    NetgraphError
        No dimension fits the targets.
    """
    if targets is None:
        return output.movedim(1, -1) if output.ndim > 3 else output
    fits_last = (
        output.shape[:-1] == targets.shape and output.ndim < 4
    )  # images have their classes along the second, if both fit
    if output.ndim > 1 and not fits_last and output.movedim(1, -1).shape[:-1] == targets.shape:
        return output.movedim(1, -1)
    if output.ndim < 2 or not have_same_order(output.shape[:-1], targets.shape):
        raise NetgraphError(
            f"the network answers {tuple(output.shape)} for classes of {tuple(targets.shape)}. Give one class, a whole number, for each row "
            "of its answer."
        )
    return output


def knowledge_loss(
    outputs: Sequence[Tensor], expected: Sequence[Tensor], *, temperature: float | None, targets: Tensor | None = None
) -> Tensor:
    """Return the distance to the outputs of the original.

    Parameters
    ----------
    outputs, expected : sequence of Tensor
        Of the small network and of the original.
    temperature : float or None
        The first output has classes, which are compared at this temperature. None compares all outputs by their squared errors.
    targets : Tensor, optional
        Classes. Rows whose class is -100 do not count.
    """
    if [x.shape for x in outputs] != [y.shape for y in expected]:
        raise NetgraphError(
            f"the network answers {[tuple(x.shape) for x in outputs]}, and the original {[tuple(y.shape) for y in expected]}. Give an "
            "original of the same answer, choose outputs that both have, or leave out the loss knowledge."
        )
    pairs = [pair for pair in zip(outputs, expected, strict=True) if pair[1].is_floating_point()]
    losses = []
    if temperature is not None and pairs:
        losses.append(divergence(*pairs[0], temperature, targets))
        pairs = pairs[1:]
    return torch.stack([*losses, *(relative_square(x, y) for x, y in pairs)]).sum()


def divergence(output: Tensor, expected: Tensor, temperature: float, targets: Tensor | None) -> Tensor:
    """Return T² KL(softmax(expected / T) | softmax(output / T)), the mean over rows that count."""
    classes = targets if targets is not None and not targets.is_floating_point() else None
    rows, goal = (place_classes_last(x, classes).flatten(0, -2) for x in (output, expected))
    if classes is not None:
        counted = (classes != IGNORED).flatten()
        rows, goal = rows[counted], goal[counted]
    log_rows, log_goal = ((_widen(x) / temperature).log_softmax(-1) for x in (rows, goal))
    total = functional.kl_div(log_rows, log_goal, reduction="sum", log_target=True)
    return temperature**2 * total / max(len(rows), 1)


def hint_loss(layers: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over layers of the relative squared errors of their outputs."""
    for name, target in expected.items():
        if name not in layers or layers[name].shape != target.shape:
            shape = tuple(layers[name].shape) if name in layers else "nothing"
            raise NetgraphError(
                f"the layer {name} gives {shape}, and its hint is {tuple(target.shape)}. Choose other layers with layers=, or give the "
                "hierarchy that the network came from."
            )
    return torch.stack([relative_square(layers[name], target) for name, target in expected.items()]).mean()


def relational_loss(output: Tensor, expected: Tensor) -> Tensor:
    """Return the Huber loss between the distances of the rows, each divided by their mean.

    Raises
    ------
    NetgraphError
        There are fewer than two rows.
    """
    if not output.ndim or not expected.ndim or len(output) != len(expected) or len(output) < 2:
        raise NetgraphError(
            f"the loss relational compares rows, and the outputs are {tuple(output.shape)} and {tuple(expected.shape)}. Give two rows or "
            "more, or another loss."
        )
    actual, wanted = (torch.pdist(_widen(x[..., None].flatten(1))) for x in (output, expected))
    return functional.smooth_l1_loss(
        actual / actual.mean().clamp_min(SMALLEST), wanted / wanted.mean().clamp_min(SMALLEST)
    )


def _widen(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision at least."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
