"""Random crops and flips of a whole batch of images at once (He et al., CVPR 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def crop(inputs: Tensor, generator: torch.Generator, *, pad: int = 4) -> Tensor:
    """Return each image (n, channels, height, width) moved by up to ``pad`` pixels, black where nothing was."""
    n, _, height, width = inputs.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(inputs.device)
    rows = top + torch.arange(height, device=inputs.device)
    columns = left + torch.arange(width, device=inputs.device)
    padded = functional.pad(inputs, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    which = torch.arange(n, device=inputs.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return half of the images, drawn at random, mirrored left to right."""
    turned = torch.rand(len(inputs), generator=generator).to(inputs.device) < 0.5
    return torch.where(turned[:, None, None, None], inputs.flip(-1), inputs)


def crop_and_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return images cropped and flipped, as networks for CIFAR are trained."""
    return flip(crop(inputs, generator), generator)
