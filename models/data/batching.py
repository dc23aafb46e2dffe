"""Batches of a resident data set; texts of like length share a batch, cut to a power of two tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from netgraph.models.data.datasets import Dataset, DataSplit

SHORTEST = 16


def batch_rows(
    data: Dataset, split: DataSplit, *, batch: int, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Return the rows of every batch, shuffled by a generator, in order without one.

    Their number depends on the split alone. Texts are put in buckets by their length.
    """
    n = len(split)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    if data.padding is None:
        return list(order.split(batch))
    edges = bucket_lengths(split.inputs, data.padding)[order]
    found = [part for edge in edges.unique() for part in order[edges == edge].split(batch)]
    if generator is None:
        return found
    return [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]


def bucket_lengths(tokens: Tensor, padding: int) -> Tensor:
    """Return for every text (n, length) the length that its batch is cut to: a power of two, or the whole."""
    lengths = (tokens != padding).sum(1).clamp_min(SHORTEST)
    edges = 2 ** torch.arange(SHORTEST.bit_length() - 1, 32)
    return edges[torch.searchsorted(edges, lengths)].clamp_max(tokens.shape[1])


def mean_cost(data: Dataset, example: Tensor, cost: Callable[[Tensor], float]) -> float:
    """Return the mean cost of inputs over the training split of texts, whose batches are of several lengths.

    Parameters
    ----------
    data : Dataset
        With ``padding``.
    example : Tensor
        Inputs as the network takes them.
    cost : callable ``(inputs) -> float``
        Of the example, cut to one of these lengths.
    """
    edges, rows = bucket_lengths(data.train.inputs, data.padding or 0).unique(return_counts=True)
    costs = [cost(example[:, :edge]) for edge in edges.tolist()]
    return float(sum(n * c for n, c in zip(rows.tolist(), costs, strict=True))) / len(data.train)


def trim_padding(data: Dataset, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return a batch without the columns that are padding in every text of its bucket."""
    if data.padding is None:
        return inputs, targets
    edge = int(bucket_lengths(inputs, data.padding).max())
    return inputs[:, :edge], targets[:, :edge] if targets.ndim > 1 else targets
