"""Convolutional networks for images of 32 × 32 pixels: VGG, ResNet and WideResNet.

VGG with batch norm (Simonyan and Zisserman, ICLR 2015). ResNet for CIFAR (He et al., CVPR 2016, section 4.2), with 1 × 1
projections where sizes change (option B), because option A pads with zeros, and no unit computes these channels.
WideResNet (Zagoruyko and Komodakis, BMVC 2016).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision


def vgg(n_classes: int = 10, *, width: int = 64, channels: int = 3, pools: int = 5) -> nn.Sequential:
    """Build a VGG network: eight convolutions with batch norm and one linear layer.

    The convolutions are those of VGG-11. Its three linear layers, which fit images of 224 pixels, become one.

    Parameters
    ----------
    n_classes : int, default 10
        Number of outputs.
    width : int, default 64
        Channels of the first convolution. The last has eight times as many.
    channels : int, default 3
        Channels of the images.
    pools : int, default 5
        Number of the five stages, from the first on, that halve the image. Its sides must have at least ``2 ** pools``
        pixels. With four pools, images of CIFAR can be halved once before.

    Returns
    -------
    torch.nn.Sequential
        The network with random weights.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import vgg
    >>> vgg(width=8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    prepare_torchvision()
    import_package("torchvision", "the network vgg")
    from torchvision.models.vgg import make_layers

    plan: list[str | int] = []
    for i, stage in enumerate(([1], [2], [4, 4], [8, 8], [8, 8])):
        plan += [*(width * times for times in stage), *["M"] * (i < pools)]
    features = make_layers(plan, batch_norm=True)
    if channels != 3:
        features[0] = nn.Conv2d(channels, width, 3, padding=1)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return _add_head(OrderedDict(features=features), 8 * width, n_classes)


def resnet20(n_classes: int = 10, *, width: int = 16, channels: int = 3) -> nn.Sequential:
    """Build the ResNet of 20 layers for CIFAR, of 0.27 million parameters at the default width.

    Parameters
    ----------
    n_classes : int, default 10
        Number of outputs.
    width : int, default 16
        Channels of the first stage.
    channels : int, default 3
        Channels of the images.

    Returns
    -------
    torch.nn.Sequential
        The network with random weights.

    References
    ----------
    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.

    Examples
    --------
    >>> from netgraph.models import resnet20
    >>> round(sum(p.numel() for p in resnet20().parameters()) / 1e6, 2)
    0.27
    """
    return resnet(3, n_classes, width=width, channels=channels)


def resnet56(n_classes: int = 10, *, width: int = 16, channels: int = 3) -> nn.Sequential:
    """Build the ResNet of 56 layers for CIFAR, of 0.86 million parameters at the default width.

    Parameters
    ----------
    n_classes : int, default 10
        Number of outputs.
    width : int, default 16
        Channels of the first stage.
    channels : int, default 3
        Channels of the images.

    Returns
    -------
    torch.nn.Sequential
        The network with random weights.

    References
    ----------
    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.

    Examples
    --------
    >>> from netgraph.models import resnet56
    >>> round(sum(p.numel() for p in resnet56().parameters()) / 1e6, 2)
    0.86
    """
    return resnet(9, n_classes, width=width, channels=channels)


def resnet(n_blocks: int, n_classes: int = 10, *, width: int = 16, channels: int = 3) -> nn.Sequential:
    """Build a ResNet for CIFAR: three stages of residual blocks.

    Parameters
    ----------
    n_blocks : int
        Blocks of each stage. The network has ``6 * n_blocks + 2`` layers.
    n_classes : int, default 10
        Number of outputs.
    width : int, default 16
        Channels of the first stage. The second has twice and the third four times as many.
    channels : int, default 3
        Channels of the images.

    Returns
    -------
    torch.nn.Sequential
        The network with random weights.

    References
    ----------
    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import resnet
    >>> resnet(1, width=8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    prepare_torchvision()
    import_package("torchvision", "the network resnet")
    from torchvision.models.resnet import BasicBlock

    stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    n_in = width
    for stage, n_out in enumerate((width, 2 * width, 4 * width), start=1):
        blocks = []
        for i in range(n_blocks):
            stride = 2 if stage > 1 and i == 0 else 1
            blocks.append(BasicBlock(n_in, n_out, stride, _build_projection(n_in, n_out, stride)))
            n_in = n_out
        layers[f"stage{stage}"] = nn.Sequential(*blocks)
    return _init_convolutions(_add_head(layers, n_in, n_classes))


def _build_projection(n_in: int, n_out: int, stride: int) -> nn.Module | None:
    """Return the 1 × 1 projection of a shortcut that changes its size, None for others."""
    if n_in == n_out and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class WideBlock(nn.Module):
    """Norm, activation and convolution, twice, with a shortcut around them."""

    def __init__(self, n_in: int, n_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if n_in != n_out or stride > 1 else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, n_out, height / stride, width / stride)."""
        x = functional.relu(self.norm1(inputs))
        shortcut = inputs if self.shortcut is None else self.shortcut(x)
        x = self.conv2(self.dropout(functional.relu(self.norm2(self.conv1(x)))))
        return shortcut + x  # type: ignore[no-any-return]


def wide_resnet(
    depth: int = 16, widen: int = 4, *, n_classes: int = 10, width: int = 16, channels: int = 3, dropout: float = 0.0
) -> nn.Sequential:
    """Build a WideResNet, by default WRN-16-4 of 2.7 million parameters.

    Parameters
    ----------
    depth : int, default 16
        Number of layers: ``6 * n + 4`` for n blocks in each of the three stages.
    widen : int, default 4
        Factor of the first stage's channels over ``width``.
    n_classes : int, default 10
        Number of outputs.
    width : int, default 16
        Channels of the first convolution.
    channels : int, default 3
        Channels of the images.
    dropout : float, default 0
        Dropout between the convolutions of a block.

    Returns
    -------
    torch.nn.Sequential
        The network with random weights.

    References
    ----------
    Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016.

    Examples
    --------
    >>> from netgraph.models import wide_resnet
    >>> round(sum(p.numel() for p in wide_resnet().parameters()) / 1e6, 1)
    2.7
    """
    n_blocks = (depth - 4) // 6
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(channels, width, 3, padding=1, bias=False))
    n_in = width
    for stage, times in enumerate((1, 2, 4), start=1):
        n_out = times * widen * width
        first = WideBlock(n_in, n_out, 2 if stage > 1 else 1, dropout)
        layers[f"stage{stage}"] = nn.Sequential(
            first, *(WideBlock(n_out, n_out, 1, dropout) for _ in range(n_blocks - 1))
        )
        n_in = n_out
    layers.update(norm=nn.BatchNorm2d(n_in), activation=nn.ReLU())
    return _init_convolutions(_add_head(layers, n_in, n_classes))


def _add_head(layers: OrderedDict[str, nn.Module], n_in: int, n_classes: int) -> nn.Sequential:
    """Return the layers as a network that ends with global pooling and a linear layer."""
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(n_in, n_classes))
    return nn.Sequential(layers)


def _init_convolutions(model: nn.Sequential) -> nn.Sequential:
    """Initialize convolutions as He et al. (ICCV 2015) do, and return the network."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
