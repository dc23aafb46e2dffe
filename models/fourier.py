"""The Fourier neural operator of the package ``neuraloperator``, for grids in two dimensions.

Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021. Kossaifi et al., "A library for
learning neural operators", arXiv:2412.10354.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError


def fno(modes: int = 12, *, width: int = 32, n_layers: int = 4, channels: int = 1, inputs: int = 3) -> nn.Module:
    """Build a Fourier neural operator.

    It gets no coordinates of its own. They are channels of its inputs, so that they are averaged with them on levels in space.

    Parameters
    ----------
    modes : int, default 12
        Fourier modes that are kept in each direction. The grid needs as many cells a side.
    width : int, default 32
        Channels of all layers.
    n_layers : int, default 4
        Fourier layers.
    channels : int, default 1
        Channels of the answer.
    inputs : int, default 3
        Channels of the input.

    Returns
    -------
    torch.nn.Module
        ``neuralop.models.FNO``, from (n, inputs, height, width) to (n, channels, height, width).

    Raises
    ------
    NetgraphError
        ``neuraloperator`` is not installed (the extra ``operators``), or a size is below 1.

    References
    ----------
    Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021.
    """
    sizes = {"modes": modes, "width": width, "n_layers": n_layers, "channels": channels, "inputs": inputs}
    for name, size in sizes.items():
        if size < 1:
            raise NetgraphError(f"{name} of a Fourier neural operator is {size}. Give 1 or more.")
    models = import_package("neuralop.models", "a Fourier neural operator")
    network: Any = models.FNO(
        n_modes=(modes, modes), in_channels=inputs, out_channels=channels, hidden_channels=width, n_layers=n_layers,
        positional_embedding=None,
    )  # fmt: skip
    assert isinstance(network, nn.Module)
    return network
