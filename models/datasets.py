"""Data sets: those that ship with a package, and those in a folder."""

from __future__ import annotations

import torch
from torch import Tensor


def digits(*, test_share: float = 0.25, seed: int = 7619) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scikit-learn's 1,797 digits of 8 × 8 pixels in [0, 1], flattened.

    Returns
    -------
    train_inputs (n, 64), train_targets (n,), test_inputs (m, 64), test_targets (m,)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs = torch.as_tensor(data.data, dtype=torch.float32) / 16
    targets = torch.as_tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    n = round(len(inputs) * test_share)
    return inputs[order[n:]], targets[order[n:]], inputs[order[:n]], targets[order[:n]]
