"""Batches of a data set in memory. Texts of similar length share a batch, which is cut to a power of two tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from netgraph.errors import NetgraphError
from netgraph.models.data.datasets import Dataset, DataSplit

SHORTEST = 16  # tokens of the shortest batch, a power of two


def batch_rows(
    data: Dataset, split: DataSplit, *, batch: int, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Return the rows of every batch, shuffled if there is a generator.

    Texts are put in buckets by their length. The number of batches depends on the split alone.

    Raises
    ------
    NetgraphError
        A batch has no rows.
    """
    if not 1 <= batch < 2**63:
        raise NetgraphError(f"batch must be at least 1, got {batch}.")
    n = len(split)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    if data.padding is None:
        return list(order.split(batch)) if n else []
    lengths = bucket_lengths(split.inputs, data.padding)[order]
    batches = [rows for length in lengths.unique() for rows in order[lengths == length].split(batch)]
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def bucket_lengths(tokens: Tensor, padding: int) -> Tensor:
    """Return for every text (n, length) the length of its bucket: a power of two, or the full length."""
    lengths = (tokens != padding).sum(1).clamp_min(SHORTEST)
    powers = 2 ** torch.arange(SHORTEST.bit_length() - 1, 32)
    return powers[torch.searchsorted(powers, lengths)].clamp_max(tokens.shape[1])


def mean_cost(data: Dataset, example: Tensor, cost: Callable[[Tensor], float]) -> float:
    """Return the mean cost of an input over the training split of texts, whose batches have several lengths.

    Parameters
    ----------
    data : Dataset
        Texts, with ``padding``.
    example : Tensor of shape (n, length)
        Inputs in the form that the network takes.
    cost : callable ``(inputs) -> float``
        Cost of the example, cut to the length of a bucket.
    """
    lengths, counts = bucket_lengths(data.train.inputs, data.padding or 0).unique(return_counts=True)
    costs = [cost(example[:, :length]) for length in lengths.tolist()]
    return float(sum(n * c for n, c in zip(counts.tolist(), costs, strict=True))) / len(data.train)


def trim_padding(data: Dataset, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return a batch cut to the length of its bucket, which removes only padding."""
    if data.padding is None:
        return inputs, targets
    length = int(bucket_lengths(inputs, data.padding).max())
    return inputs[:, :length], targets[:, :length] if targets.ndim > 1 else targets
