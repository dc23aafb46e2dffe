"""Minibatches of inputs and targets in a random order, augmented, or mixed two by two.

A few hundred inputs without labels are soon memorized. Each is therefore mixed with another::

    x = w x_i + (1 - w) x_j            w uniform in [0, 1], j another input of the batch

Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018. Inputs that include other types than floating point, such as tokens,
stay unmixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from netgraph.utils.pytree import build_structure, have_equal_rows, normalize_example, unflatten_tree

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Batch(NamedTuple):
    """One minibatch: positional inputs, keyword inputs, and targets where there are some."""

    args: Any
    kwargs: Any
    targets: Tensor | None = None


def draw_batches(
    data: Any,
    steps: int,
    batch: int,
    random: torch.Generator,
    *,
    targets: Tensor | None = None,
    mix: bool = False,
    augment: Augment | None = None,
) -> Iterator[Batch]:
    """Yield the minibatch of every step.

    An epoch takes each input once, except for a rest that does not fill a batch. Inputs without equally many rows, such as the
    nodes and edges of a graph, are taken whole.

    Parameters
    ----------
    data : Tensor, tuple or dict
        Inputs, nested like the traced example.
    steps : int
    batch : int
        Rows of a minibatch, or all where there are fewer.
    random : torch.Generator
    targets : Tensor, optional
        One for each row.
    mix : bool, default False
        Mix inputs of floating point. Mixtures have no targets.
    augment : callable ``(inputs, generator) -> inputs``, optional
        Changes the first input.
    """
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(data), leaves)
    if not have_equal_rows(leaves):
        args, kwargs = unflatten_tree(structure, leaves)
        yield from (Batch(args, kwargs, targets) for _ in range(steps))
        return
    mix = mix and all(leaf.is_floating_point() for leaf in leaves)
    batch, order = min(batch, len(leaves[0])), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(leaves[0]), generator=random)
        rows, order = order[:batch], order[batch:]
        tensors = [leaf[rows] for leaf in leaves]
        if augment is not None:
            tensors[0] = augment(tensors[0], random)
        if mix:
            share, other = torch.rand(batch, generator=random), torch.randperm(batch, generator=random)
            tensors = [_mix_rows(leaf, share.to(leaf), other) for leaf in tensors]
        args, kwargs = unflatten_tree(structure, tensors)
        yield Batch(args, kwargs, None if mix or targets is None else targets[rows])


def _mix_rows(rows: Tensor, share: Tensor, other: Tensor) -> Tensor:
    """Return ``share`` of each row plus the rest of another row."""
    share = share.reshape(-1, *[1] * (rows.ndim - 1))
    return share * rows + (1 - share) * rows[other]
