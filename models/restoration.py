"""Networks that answer an image for an image: a residual network and a U-Net.

Both are convolutional throughout, so that they run at any resolution, and both add the image that they were given to their
answer (Zhang et al., IEEE TIP 2017), unless ``shortcut`` is False, as for a solution of an equation. The residual
network has blocks without norms (Lim et al., CVPR workshops 2017). The U-Net (Ronneberger et al., MICCAI 2015) halves the
resolution on its way down and joins equal resolutions on its way up.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualConvolutions(nn.Module):
    """Two convolutions with a ReLU between them, and a shortcut around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, width, height, width of the image), as the input."""
        change: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return x + change


class ResidualNet(nn.Module):
    """A residual network from images to images of the same resolution, without norms.

    Parameters
    ----------
    n_blocks : int, default 6
        Residual blocks of two convolutions each.
    width : int, default 32
        Channels of all blocks.
    channels : int, default 3
        Channels of the images.
    more_inputs : int, default 0
        Further channels of the input, behind those of the image, such as a mask.
    shortcut : bool, default True
        Add the image to the answer. An answer that is no image like the input has none.

    References
    ----------
    Lim et al., "Enhanced deep residual networks for single image super-resolution", CVPR workshops 2017.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import ResidualNet
    >>> ResidualNet(2, width=8)(torch.zeros(1, 3, 24, 16)).shape
    torch.Size([1, 3, 24, 16])
    """

    def __init__(
        self, n_blocks: int = 6, *, width: int = 32, channels: int = 3, more_inputs: int = 0, shortcut: bool = True
    ) -> None:
        super().__init__()
        self.channels, self.shortcut = channels, shortcut
        self.stem = nn.Conv2d(channels + more_inputs, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualConvolutions(width) for _ in range(n_blocks)))
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return images (n, channels, height, width) for inputs (n, channels + more_inputs, height, width)."""
        change: Tensor = self.head(self.blocks(self.stem(images)))
        return images[:, : self.channels] + change if self.shortcut else change


def _make_stage(n_in: int, n_out: int) -> nn.Sequential:
    """Return two convolutions, each with a ReLU behind it."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.Conv2d(n_out, n_out, 3, padding=1), nn.ReLU()
    )


class UNet(nn.Module):
    """A U-Net from images to images of the same resolution, without norms.

    Parameters
    ----------
    n_halvings : int, default 2
        Times that the resolution is halved. Sides of the images must be divisible by ``2 ** n_halvings``.
    width : int, default 32
        Channels at full resolution. They double with each halving.
    channels : int, default 3
        Channels of the images.
    more_inputs : int, default 0
        Further channels of the input, behind those of the image, such as a mask.
    shortcut : bool, default True
        Add the image to the answer. An answer that is no image like the input has none.

    References
    ----------
    Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import UNet
    >>> UNet(width=8)(torch.zeros(1, 3, 24, 16)).shape
    torch.Size([1, 3, 24, 16])
    """

    def __init__(
        self, n_halvings: int = 2, *, width: int = 32, channels: int = 3, more_inputs: int = 0, shortcut: bool = True
    ) -> None:
        super().__init__()
        self.channels, self.shortcut = channels, shortcut
        widths = [width * 2**i for i in range(n_halvings + 1)]
        self.stem = _make_stage(channels + more_inputs, width)
        self.down = nn.ModuleList(_make_stage(a, b) for a, b in pairwise(widths))
        self.join = nn.ModuleList(_make_stage(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return images (n, channels, height, width) for inputs (n, channels + more_inputs, height, width)."""
        maps = [self.stem(images)]
        for stage in self.down:
            maps.append(stage(functional.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for stage in reversed(self.join):
            x = stage(torch.cat([maps.pop(), functional.interpolate(x, scale_factor=2.0)], dim=1))
        change: Tensor = self.head(x)
        return images[:, : self.channels] + change if self.shortcut else change
