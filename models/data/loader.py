"""Minibatches of a data set in memory. Their order is a function of the seed and the number of the pass alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from netgraph.models.data.augmentation import Augment, apply_augmentation
from netgraph.models.data.batching import batch_rows, trim_padding
from netgraph.models.data.datasets import Dataset
from netgraph.models.data.degradation import Degradation
from netgraph.utils.seeds import check_torch_seed


class Loader:
    """Minibatches ``(inputs, targets)`` of the training split, in the form that a network takes.

    Like a ``DataLoader`` with a ``DistributedSampler``, it repeats the same pass until ``set_epoch`` is called. Rows are not
    collated one by one: a minibatch is one indexing of a tensor in memory.

    Parameters
    ----------
    data : Dataset
        The data set.
    batch : int
        Rows of a minibatch. The last minibatch has the remaining rows.
    augment : callable or torch.nn.Module, optional
        ``(inputs, generator) -> inputs`` on the stored rows of a minibatch, such as `netgraph.models.crop_and_flip`. A
        module, such as a transform of `torchvision.transforms.v2`, is called image by image.
    degradation : Degradation, optional
        Give degraded images as inputs and the images themselves as targets (`netgraph.models.Noise` and others).
    one_hot : bool, default False
        Give targets as rows of zeros with a single one. Cross-entropy accepts this form too.
    seed : int, default 7619
        Seed of the order and of the augmentation.

    Raises
    ------
    NetgraphError
        ``batch`` is below 1.

    Examples
    --------
    >>> from netgraph.models import Loader, load_dataset
    >>> loader = Loader(load_dataset("digits"), 64)
    >>> len(loader)
    19
    >>> inputs, targets = next(iter(loader))
    >>> inputs.shape, targets.shape
    (torch.Size([64, 1, 8, 8]), torch.Size([64]))
    """

    def __init__(
        self,
        data: Dataset,
        batch: int,
        *,
        augment: Augment | None = None,
        degradation: Degradation | None = None,
        one_hot: bool = False,
        seed: int = 7619,
    ) -> None:
        self.data, self.batch, self.augment, self.one_hot = data, batch, augment, one_hot
        self.degradation, self.seed = degradation, check_torch_seed(seed)
        self.epoch = 0
        self._length = len(batch_rows(data, data.train, batch=batch))

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass that the next iteration gives.

        Parameters
        ----------
        epoch : int
            Number of the pass.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        train = self.data.train
        for rows in batch_rows(self.data, train, batch=self.batch, generator=generator):
            inputs = apply_augmentation(self.augment, train.inputs[rows], generator)
            if self.degradation is not None:
                clean = self.data.ready(inputs)
                yield self.degradation.degrade(clean, generator), clean
                continue
            inputs, targets = trim_padding(self.data, inputs, train.targets[rows])
            yield self.data.ready(inputs), self._encode_targets(targets)

    def _encode_targets(self, targets: Tensor) -> Tensor:
        if not self.one_hot:
            return targets
        return torch.nn.functional.one_hot(targets, len(self.data.classes)).float()
