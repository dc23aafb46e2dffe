"""Tuning: a short training of a coarse network towards the fine one's outputs, on inputs without labels.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, with the squared error of outputs. A few hundred
inputs are soon known by heart, so each is mixed with another, and the fine network answers the mixture::

    x    = w x_i + (1 - w) x_j            w uniform in [0, 1], j another input of the batch
    loss = |f_c(x) - f(x)|² / |f(x)|²

Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Beyer et al., "Knowledge distillation: A good teacher is
patient and consistent", CVPR 2022, section 3. Inputs of which some are no floating-point numbers, as tokens, stay unmixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.network.oracles import collect_tensors
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree

LR = 1e-3  # falls to 0 as a cosine


def tune_network(
    fine: GraphNetwork, coarse: GraphNetwork, data: Any, *, steps: int, batch: int = 64, seed: int = 0
) -> None:
    """Train a coarse network in place towards a fine one's outputs, by Adam.

    Batch norm keeps its statistics, and dropout is off, as both networks are in evaluation mode.

    Parameters
    ----------
    fine, coarse : GraphNetwork
    data : Tensor, tuple or dict
        Inputs, nested as the traced example.
    steps, batch : int
    seed : int
        Of the order of the inputs and of their mixing.
    """
    optimizer = torch.optim.Adam([p for p in coarse.parameters() if p.requires_grad], lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for args, kwargs in draw_mixtures(data, steps, batch, torch.Generator().manual_seed(seed)):
        with torch.no_grad():
            wanted = collect_tensors(fine(*args, **kwargs))
        pairs = zip(collect_tensors(coarse(*args, **kwargs)), wanted, strict=True)
        losses = [
            (x - y).square().mean() / y.square().mean().clamp_min(1e-12) for x, y in pairs if y.is_floating_point()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()


def draw_mixtures(data: Any, steps: int, batch: int, random: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """Yield positional and named inputs of every step; a round takes each input once, but for a rest that fills no batch."""
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(data), leaves)
    mixing = all(leaf.is_floating_point() for leaf in leaves)
    batch, order = min(batch, len(leaves[0])), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(leaves[0]), generator=random)
        rows, order = order[:batch], order[batch:]
        drawn = [leaf[rows] for leaf in leaves]
        if mixing:
            share, other = torch.rand(batch, generator=random), torch.randperm(batch, generator=random)
            drawn = [_mix_rows(leaf, share.to(leaf), other) for leaf in drawn]
        yield unflatten_tree(structure, drawn)


def _mix_rows(rows: Tensor, share: Tensor, other: Tensor) -> Tensor:
    share = share.reshape(-1, *[1] * (rows.ndim - 1))
    return share * rows + (1 - share) * rows[other]
