"""Random crops, flips and rotations of a whole batch of images at once (He et al., CVPR 2016, section 4.2).

Transforms of `torchvision.transforms.v2` draw one random number for all images that they are given. `apply_augmentation`
therefore calls them image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.errors import DataError

Augment = Callable[[Tensor, torch.Generator], Tensor] | nn.Module


def apply_augmentation(augment: Augment | None, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return an augmented batch: a function gets the whole batch, a module (a torchvision transform) each image.

    A module draws from torch's global generator. It is seeded from ``generator``, and its state is restored afterwards.
    """
    if augment is None:
        return inputs
    if not isinstance(augment, nn.Module):
        return augment(inputs, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([augment(image) for image in inputs])


def check_images(inputs: Tensor) -> None:
    """Refuse inputs that are no batch of images.

    Raises
    ------
    DataError
    """
    if inputs.ndim != 4:
        raise DataError(
            f"images have shape (n, channels, height, width), and these inputs have {tuple(inputs.shape)}. Augment images alone, and "
            "before they are made flat."
        )


def random_crop(inputs: Tensor, generator: torch.Generator, *, pad: int = 4) -> Tensor:
    """Shift each image by up to ``pad`` pixels along both axes, and fill with zeros.

    Parameters
    ----------
    inputs : Tensor of shape (n, channels, height, width)
        Images.
    generator : torch.Generator
        Source of the shifts.
    pad : int, default 4
        Largest shift in pixels.

    Returns
    -------
    Tensor
        Shifted images of the same shape.

    Raises
    ------
    DataError
        The inputs are no images, or pad is out of range.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import random_crop
    >>> random_crop(torch.ones(5, 3, 8, 8), torch.Generator().manual_seed(0), pad=2).shape
    torch.Size([5, 3, 8, 8])
    """
    check_images(inputs)
    n, _, height, width = inputs.shape
    if not 0 <= pad < max(height, width, 1):
        raise DataError(
            f"pad is {pad} for images of {height} x {width} pixels. Give a number of pixels from 0 on that is smaller."
        )
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator).to(inputs.device)
    rows = top + torch.arange(height, device=inputs.device)
    columns = left + torch.arange(width, device=inputs.device)
    padded = functional.pad(inputs, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    images = torch.arange(n, device=inputs.device)[:, None, None]
    return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half.

    Parameters
    ----------
    inputs : Tensor of shape (n, channels, height, width)
        Images.
    generator : torch.Generator
        Source of the choices.

    Returns
    -------
    Tensor
        Images of the same shape.

    Raises
    ------
    DataError
        The inputs are no images.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import random_flip
    >>> images = torch.tensor([1.0, 2.0]).expand(4, 1, 1, 2)
    >>> random_flip(images, torch.Generator().manual_seed(0)).flatten(1).tolist()
    [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [2.0, 1.0]]
    """
    check_images(inputs)
    mirrored = torch.rand(len(inputs), generator=generator).to(inputs.device) < 0.5
    return torch.where(mirrored[:, None, None, None], inputs.flip(-1), inputs)


def random_rotation(inputs: Tensor, generator: torch.Generator, *, degrees: float = 10.0) -> Tensor:
    """Rotate each image about its centre by a random angle, and fill with zeros.

    Parameters
    ----------
    inputs : Tensor of shape (n, channels, height, width)
        Images.
    generator : torch.Generator
        Source of the angles.
    degrees : float, default 10
        Largest angle in either direction. Angles are uniform.

    Returns
    -------
    Tensor
        Rotated images of the same shape and dtype.

    Raises
    ------
    DataError
        The inputs are no images, or degrees is not finite.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import random_rotation
    >>> random_rotation(torch.ones(5, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    check_images(inputs)
    if not math.isfinite(degrees):
        raise DataError(f"degrees is {degrees}. Give a finite number.")
    angles = degrees * (2 * torch.rand(len(inputs), generator=generator) - 1)
    return rotate_by(inputs, angles.to(inputs.device))


# affine_grid measures both sides from -1 to 1, whatever their lengths. A rotation is one in pixels, so its off-diagonal
# entries are scaled by height / width and width / height.
def rotate_by(inputs: Tensor, degrees: Tensor) -> Tensor:
    """Return images (n, channels, height, width) rotated counter-clockwise by ``degrees`` (n,), bilinear, dtype kept."""
    n, _, height, width = inputs.shape
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    sideways = [cos, -sin * (height / width), zero]
    downwards = [sin * (width / height), cos, zero]
    theta = torch.stack([*sideways, *downwards], dim=1).view(n, 2, 3)
    grid = functional.affine_grid(theta, list(inputs.shape), align_corners=False)
    values = inputs if inputs.is_floating_point() else inputs.float()
    rotated = functional.grid_sample(values, grid.to(values.dtype), align_corners=False)
    return rotated if inputs.is_floating_point() else rotated.round().to(inputs.dtype)


def crop_and_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Crop and flip each image at random, the usual augmentation for CIFAR.

    Parameters
    ----------
    inputs : Tensor of shape (n, channels, height, width)
        Images.
    generator : torch.Generator
        Source of the shifts and flips.

    Returns
    -------
    Tensor
        Images of the same shape.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import crop_and_flip
    >>> crop_and_flip(torch.ones(5, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 32, 32])
    """
    return random_flip(random_crop(inputs, generator), generator)


def crop_flip_and_rotate(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Crop, flip and rotate each image at random.

    Parameters
    ----------
    inputs : Tensor of shape (n, channels, height, width)
        Images.
    generator : torch.Generator
        Source of the shifts, flips and angles.

    Returns
    -------
    Tensor
        Images of the same shape.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import crop_flip_and_rotate
    >>> crop_flip_and_rotate(torch.ones(5, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 32, 32])
    """
    return random_rotation(crop_and_flip(inputs, generator), generator)
