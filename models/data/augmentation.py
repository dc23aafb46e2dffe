"""Random crops, flips and rotations of a whole batch of images at once (He et al., CVPR 2016, section 4.2).

Transforms of `torchvision.transforms.v2` draw once for all that they are given, so that they are called image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Augment = Callable[[Tensor, torch.Generator], Tensor] | nn.Module


def apply_augmentation(augment: Augment | None, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return a batch augmented: by a function at once, by a module, as transforms of torchvision are, image by image.

    A module draws from torch's own generator, which is seeded from ``generator`` and afterwards what it was.
    """
    if augment is None:
        return inputs
    if not isinstance(augment, nn.Module):
        return augment(inputs, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([augment(image) for image in inputs])


def random_crop(inputs: Tensor, generator: torch.Generator, *, pad: int = 4) -> Tensor:
    """Return each image (n, channels, height, width) moved by up to ``pad`` pixels, black where nothing was."""
    n, _, height, width = inputs.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(inputs.device)
    rows = top + torch.arange(height, device=inputs.device)
    columns = left + torch.arange(width, device=inputs.device)
    padded = functional.pad(inputs, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    which = torch.arange(n, device=inputs.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return half of the images, drawn at random, mirrored left to right."""
    turned = torch.rand(len(inputs), generator=generator).to(inputs.device) < 0.5
    return torch.where(turned[:, None, None, None], inputs.flip(-1), inputs)


def random_rotation(inputs: Tensor, generator: torch.Generator, *, degrees: float = 10.0) -> Tensor:
    """Return each image turned about its middle by an angle up to ``degrees`` either way, black where nothing was."""
    angles = degrees * (2 * torch.rand(len(inputs), generator=generator) - 1)
    return rotate_by(inputs, angles.to(inputs.device))


# affine_grid counts both sides from -1 to 1, whatever their lengths: a turn is one in pixels, so that h / w comes in
def rotate_by(inputs: Tensor, degrees: Tensor) -> Tensor:
    """Return each image (n, channels, height, width) turned counter-clockwise by its angle, bilinearly; whole numbers stay such."""
    n, _, height, width = inputs.shape
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    sideways = [cos, -sin * (height / width), zero]
    downwards = [sin * (width / height), cos, zero]
    theta = torch.stack([*sideways, *downwards], dim=1).view(n, 2, 3)
    grid = functional.affine_grid(theta, list(inputs.shape), align_corners=False)
    values = inputs if inputs.is_floating_point() else inputs.float()
    found = functional.grid_sample(values, grid.to(values.dtype), align_corners=False)
    return found if inputs.is_floating_point() else found.round().to(inputs.dtype)


def crop_and_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return images cropped and flipped, as networks for CIFAR are trained."""
    return random_flip(random_crop(inputs, generator), generator)


def crop_flip_and_rotate(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return images cropped, flipped and rotated."""
    return random_rotation(crop_and_flip(inputs, generator), generator)
