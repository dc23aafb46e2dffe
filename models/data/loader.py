"""Ready minibatches of a resident data set, pass after pass; the order is a function of the seed and the pass alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import NetgraphError
from netgraph.models.data.augmentation import Augment, apply_augmentation
from netgraph.models.data.batching import batch_rows, trim_padding
from netgraph.models.data.datasets import Dataset


class Loader:
    """Minibatches ``(inputs, targets)`` of a data set's training split, as a network takes them.

    Like a ``DataLoader`` with a ``DistributedSampler`` it gives the same pass again until ``set_epoch`` is called. Nothing is
    collated row by row: a minibatch is one indexing of a tensor in memory.

    Parameters
    ----------
    data : Dataset
    batch : int
        Rows; the last minibatch has what is left.
    augment : callable, or module, optional
        ``(inputs, generator) -> inputs`` on a minibatch as it is kept, such as `netgraph.models.data.augmentation.crop_and_flip`; a
        module, such as a transform of `torchvision.transforms.v2`, is called image by image.
    one_hot : bool
        Give targets as rows of zeros and a one, which cross-entropy takes as well.
    seed : int

    Raises
    ------
    NetgraphError
        ``batch`` is below 1.
    """

    def __init__(
        self, data: Dataset, batch: int, *, augment: Augment | None = None, one_hot: bool = False, seed: int = 7619
    ) -> None:
        if batch < 1:
            raise NetgraphError(f"a minibatch of {batch} rows is none; give 1 or more")
        self.data, self.batch, self.augment, self.one_hot, self.seed = data, batch, augment, one_hot, seed
        self.epoch = 0
        self._length = len(batch_rows(data, data.train, batch=batch))

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that is given next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(drawn[0] >> 1))
        train = self.data.train
        for chosen in batch_rows(self.data, train, batch=self.batch, generator=generator):
            inputs = apply_augmentation(self.augment, train.inputs[chosen], generator)
            inputs, targets = trim_padding(self.data, inputs, train.targets[chosen])
            yield self.data.ready(inputs), self._encode_targets(targets)

    def _encode_targets(self, targets: Tensor) -> Tensor:
        if not self.one_hot:
            return targets
        return torch.nn.functional.one_hot(targets, len(self.data.classes)).float()
