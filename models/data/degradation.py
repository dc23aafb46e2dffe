"""Degraded images, from which a network restores the clean ones: noise, blur, holes and lower resolution.

A degradation makes inputs of clean images, and it restricts its inputs. At a lower resolution the clean image is the average,
and the input is that average, degraded *in the same way*: noise of the same size, holes of the same share, the same blur in
pixels. An averaged noisy image would have less noise, and a network trained on it would learn another task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from netgraph.errors import DataError, NetgraphError
from netgraph.models.data.augmentation import check_images


class Degradation(Protocol):
    """What is done to clean images before a network restores them."""

    @property
    def more_inputs(self) -> int:
        """Channels of the inputs beyond those of the images."""

    def degrade(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Return inputs (n, channels + more_inputs, height, width) for clean images (n, channels, height, width) in [0, 1]."""

    def restrict(self, inputs: Tensor, targets: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        """Return inputs and clean images at a resolution ``divisor`` times lower."""


def average_squares(images: Tensor, divisor: int) -> Tensor:
    """Return the mean of each square of ``divisor`` x ``divisor`` pixels.

    Raises
    ------
    DataError
        There are no images of floating-point numbers, or a side is not divisible.
    """
    check_clean(images)
    if divisor < 1 or any(side % divisor for side in images.shape[2:]):
        raise DataError(
            f"images of {images.shape[2]} x {images.shape[3]} pixels cannot be averaged {divisor} times lower. Give sides that "
            "the number divides."
        )
    return functional.avg_pool2d(images, divisor)


def check_clean(images: Tensor) -> None:
    """Refuse what is no batch of images of floating-point numbers, or has no pixel.

    Raises
    ------
    DataError
    """
    check_images(images)
    if not images.is_floating_point() or not all(images.shape):
        raise DataError(
            f"clean images are floating-point numbers in [0, 1], and these are {images.dtype} of shape {tuple(images.shape)}. "
            "Divide whole numbers by 255."
        )


def _average_targets(inputs: Tensor, targets: Tensor, divisor: int, more_inputs: int) -> Tensor:
    """Return averaged targets, after a check that the inputs were made of them."""
    check_clean(targets)
    wanted = (len(targets), targets.shape[1] + more_inputs, *targets.shape[2:])
    if tuple(inputs.shape) != wanted:
        raise DataError(
            f"inputs have shape {tuple(inputs.shape)}, and those of targets of shape {tuple(targets.shape)} have {wanted}. Give the "
            "minibatch that was degraded."
        )
    return average_squares(targets, divisor)


def _check_least(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Refuse a number out of its range, and NaN."""
    if not least <= value <= most or value == float("inf"):
        upper = "" if most == float("inf") else f", and of {most:g} or less"
        raise NetgraphError(f"{name} is {value:g}. Give a number of {least:g} or more{upper}.")


def _draw_noise(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal noise of the size of images, drawn on the CPU."""
    check_clean(clean)
    return torch.randn(clean.shape, generator=generator).to(clean)


@dataclass(frozen=True)
class Noise:
    """Normal noise.

    Parameters
    ----------
    sigma : float, default 0.2
        Standard deviation, as a share of the range of the images.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import Noise
    >>> clean = torch.full((1, 3, 64, 64), 0.5)
    >>> inputs = Noise(0.2).degrade(clean, torch.Generator().manual_seed(0))
    >>> coarse, _ = Noise(0.2).restrict(inputs, clean, 2)
    >>> round(float(inputs.std()), 2), round(float(coarse.std()), 2)  # the averaged input would have 0.1
    (0.2, 0.2)
    """

    sigma: float = 0.2
    more_inputs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _check_least("sigma", self.sigma, 0)

    def degrade(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Return noisy images."""
        return clean + self.sigma * _draw_noise(clean, generator)

    def restrict(self, inputs: Tensor, targets: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        """Return averaged images with noise of the same size: that of one pixel of each square."""
        coarse = _average_targets(inputs, targets, divisor, self.more_inputs)
        return coarse + (inputs - targets)[..., ::divisor, ::divisor], coarse


@dataclass(frozen=True)
class Holes:
    """Square holes, whose pixels are 0. A further channel of the inputs is 1 where the image is whole.

    Parameters
    ----------
    n_holes : int, default 4
        Holes of each image. They may overlap.
    share : float, default 0.25
        Side of a hole, as a share of the image's.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import Holes
    >>> inputs = Holes(1, 0.5).degrade(torch.ones(1, 3, 8, 8), torch.Generator().manual_seed(0))
    >>> inputs.shape, float(inputs[:, 3].mean())  # a quarter is missing
    (torch.Size([1, 4, 8, 8]), 0.75)
    """

    n_holes: int = 4
    share: float = 0.25
    more_inputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_least("n_holes", self.n_holes, 0, 1000)
        _check_least("share", self.share, 0, 1)

    def degrade(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Return images with holes, and the mask behind them."""
        check_clean(clean)
        n, _, height, width = clean.shape
        mask = torch.ones(n, 1, height, width)
        for _ in range(self.n_holes):
            mask *= ~(
                _draw_band(n, height, self.share, generator)[:, :, None]
                & _draw_band(n, width, self.share, generator)[:, None]
            )[:, None]
        mask = mask.to(clean)
        return torch.cat([clean * mask, mask], dim=1)

    def restrict(self, inputs: Tensor, targets: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        """Return averaged images with the same holes."""
        coarse = _average_targets(inputs, targets, divisor, self.more_inputs)
        mask = inputs[:, -1:, ::divisor, ::divisor]
        return torch.cat([coarse * mask, mask], dim=1), coarse


def _draw_band(n: int, side: int, share: float, generator: torch.Generator) -> Tensor:
    """Return for each of n images which of ``side`` rows or columns a hole covers."""
    length = max(round(share * side), 1)
    first = torch.randint(0, max(side - length, 0) + 1, (n, 1), generator=generator)
    place = torch.arange(side)
    return (place >= first) & (place < first + length)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur with a little noise.

    Parameters
    ----------
    radius : float, default 1.5
        Standard deviation of the blur, in pixels.
    sigma : float, default 0.01
        Standard deviation of the noise.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import Blur
    >>> clean = torch.eye(16)[None, None]
    >>> inputs = Blur(1.0).degrade(clean, torch.Generator().manual_seed(0))
    >>> float(inputs.std()) < float(clean.std())
    True
    """

    radius: float = 1.5
    sigma: float = 0.01
    more_inputs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _check_least("radius", self.radius, 0.1, 100)
        _check_least("sigma", self.sigma, 0)

    def degrade(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Return blurred images with noise."""
        return self._blur(clean) + self.sigma * _draw_noise(clean, generator)

    def restrict(self, inputs: Tensor, targets: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        """Return averaged images, blurred over as many pixels and with noise of the same size."""
        coarse = _average_targets(inputs, targets, divisor, self.more_inputs)
        return self._blur(coarse) + (inputs - self._blur(targets))[..., ::divisor, ::divisor], coarse

    def _blur(self, images: Tensor) -> Tensor:
        check_clean(images)
        reach = min(int(3 * self.radius + 0.5), *(side - 1 for side in images.shape[2:]))
        weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * self.radius**2)).to(images)
        weights, channels = weights / weights.sum(), images.shape[1]
        padded = functional.pad(images, (reach,) * 4, mode="reflect")
        rows = functional.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return functional.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


@dataclass(frozen=True)
class LowerResolution:
    """Averaged pixels, enlarged again by bicubic interpolation, for super-resolution.

    Parameters
    ----------
    times : int, default 2
        Divisor of the resolution.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import LowerResolution
    >>> LowerResolution(4).degrade(torch.rand(1, 3, 16, 16), torch.Generator()).shape
    torch.Size([1, 3, 16, 16])
    """

    times: int = 2
    more_inputs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _check_least("times", self.times, 1, 64)

    def degrade(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Return images without their fine detail, in the size of the clean ones."""
        return functional.interpolate(
            average_squares(clean, self.times), scale_factor=float(self.times), mode="bicubic"
        )

    def restrict(self, inputs: Tensor, targets: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
        """Return averaged images without their fine detail."""
        coarse = _average_targets(inputs, targets, divisor, self.more_inputs)
        return self.degrade(coarse, torch.default_generator), coarse


DEGRADATIONS: dict[str, Degradation] = {
    "denoise": Noise(), "inpaint": Holes(), "deblur": Blur(), "super-resolution": LowerResolution(),
}  # fmt: skip
