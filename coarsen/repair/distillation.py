"""Short training of a coarse network towards the outputs of the fine one, on inputs without labels.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, here with the squared error of outputs. A few hundred
inputs are soon memorized. Each is therefore mixed with another, and the target is the fine network's output for the mixture::

    x    = w x_i + (1 - w) x_j            w uniform in [0, 1], j another input of the batch
    loss = |f_c(x) - f(x)|² / |f(x)|²

Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018. Beyer et al., "Knowledge distillation: A good teacher is
patient and consistent", CVPR 2022, section 3. Inputs that include other types than floating point, such as tokens, stay unmixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.network.functional_error import have_equal_rows
from netgraph.recording.forward.named_outputs import collect_chosen
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.seeds import make_generator

LR = 1e-3  # decays to 0 along a cosine


def tune_network(
    fine: GraphNetwork,
    coarse: GraphNetwork,
    data: Any,
    *,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    outputs: Sequence[str] = (),
) -> None:
    """Train a coarse network in place towards the outputs of a fine one, by Adam.

    Both networks are in evaluation mode: batch norm keeps its statistics, and dropout is off.

    Parameters
    ----------
    fine, coarse : GraphNetwork
    data : Tensor, tuple or dict
        Inputs, nested like the traced example.
    steps : int
    batch : int, default 64
    seed : int, default 0
        Order of the inputs and of their mixtures.
    outputs : sequence of str, default ()
        Names of the outputs to train towards. By default all.
    """
    optimizer = torch.optim.Adam([p for p in coarse.parameters() if p.requires_grad], lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for args, kwargs in draw_mixtures(data, steps, batch, make_generator(seed)):
        with torch.no_grad():
            targets = collect_chosen(fine(*args, **kwargs), outputs)
        pairs = zip(collect_chosen(coarse(*args, **kwargs), outputs), targets, strict=True)
        losses = [
            (x - y).square().mean() / y.square().mean().clamp_min(1e-12) for x, y in pairs if y.is_floating_point()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()


def draw_mixtures(data: Any, steps: int, batch: int, random: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """Yield positional and keyword inputs of every step.

    An epoch takes each input once, except for a rest that does not fill a batch. Inputs without equally many rows, such as the
    nodes and edges of a graph, are taken whole.
    """
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(data), leaves)
    if not have_equal_rows(leaves):
        yield from (unflatten_tree(structure, leaves) for _ in range(steps))
        return
    can_mix = all(leaf.is_floating_point() for leaf in leaves)
    batch, order = min(batch, len(leaves[0])), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(leaves[0]), generator=random)
        rows, order = order[:batch], order[batch:]
        tensors = [leaf[rows] for leaf in leaves]
        if can_mix:
            share, other = torch.rand(batch, generator=random), torch.randperm(batch, generator=random)
            tensors = [_mix_rows(leaf, share.to(leaf), other) for leaf in tensors]
        yield unflatten_tree(structure, tensors)


def _mix_rows(rows: Tensor, share: Tensor, other: Tensor) -> Tensor:
    """Return ``share`` of each row plus the rest of another row."""
    share = share.reshape(-1, *[1] * (rows.ndim - 1))
    return share * rows + (1 - share) * rows[other]
