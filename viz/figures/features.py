"""Feature maps: responses of the channels of an axis to an image, each aggregate next to the channels that it merged.

The right half shows receptive patterns: the mean of the patches of all images, weighted by the response of the channel at their
middle, minus the mean of all patches (the spike-triggered average; de Boer and Kuyper, IEEE Trans. Biomed. Eng. 15, 1968).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.viz.figures.drawing import compose_aggregates, format_label
from netgraph.viz.figures.hierarchy import STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, MEMBERS = 8, 4  # most aggregates to draw, and most channels of each
SIDE = 15  # pixels of a receptive pattern
IMAGES = 64  # most images for receptive patterns
SMALL = 16  # smallest side in pixels of a map that is chosen by default


def collect_feature_maps(network: GraphNetwork, spec: UnitSpec, inputs: Tensor) -> dict[str, Tensor]:
    """Return the channels of each axis as the first convolution that reads them sees them.

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        With the sizes of the network.
    inputs : Tensor, (n, channels, height, width)

    Returns
    -------
    dict of str to Tensor, (n, channels, h, w)
        By axis.
    """
    by_axis: dict[str, Tensor] = {}
    for stop in network.walk([inputs], (torch.ops.aten.conv2d.default,)):
        name, maps = stop.names[1], stop.arguments[0][0]
        term = () if name is None else spec.parameters[name][1]
        if len(term) == 1 and isinstance(term[0], str) and maps.shape[1] == spec.sizes[term[0]]:
            by_axis.setdefault(term[0], maps.detach().float().cpu())
    return by_axis


def compute_receptive_patterns(maps: Tensor, inputs: Tensor, *, side: int = SIDE) -> Tensor:
    """Return the mean input patch that each channel responds to.

    Parameters
    ----------
    maps : Tensor, (n, channels, h, w)
        Responses. Values below zero count as no response.
    inputs : Tensor, (n, colours, height, width)
    side : int
        Pixels of a patch, odd.

    Returns
    -------
    Tensor, (channels, colours, side, side)
        Zero where a channel never responds.
    """
    stride = max(inputs.shape[2] // maps.shape[2], 1)
    patches = functional.unfold(inputs, side, padding=side // 2, stride=stride)  # (n, colours · side², places)
    places = [(size - 1) // stride + 1 for size in inputs.shape[2:]]
    answers = functional.interpolate(maps.clamp(min=0), size=places, mode="nearest").flatten(2)  # (n, channels, places)
    total = answers.sum((0, 2))
    summed = torch.einsum("nkp,ncp->ck", patches, answers)
    mean = patches.mean((0, 2))
    patterns = torch.where(total[:, None] > 0, summed / total.clamp(min=1e-30)[:, None] - mean, torch.zeros(()))
    return patterns.view(maps.shape[1], inputs.shape[1], side, side)


def plot_features(
    hierarchy: Hierarchy, inputs: Tensor, *, axis: str | None = None, level: int = 1, image: int = 0
) -> Figure:
    """Plot aggregates of a coarse level next to the channels of level 0 that they merged.

    On a level with a lower resolution and no merged channels, each channel stands next to its own fine version.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    inputs : Tensor, (n, colours, height, width)
        Images, as the network takes them.
    axis : str, optional
        By default the axis with most channels among those with maps of `SMALL` pixels or more.
    level : int, default 1
        The coarse level.
    image : int, default 0
        Row of the inputs that the feature maps respond to.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    NetgraphError
        The inputs are not images, the level or the image does not exist, or no convolution reads that axis.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import plot_features
    >>> conv = torch.nn.Conv2d
    >>> net = torch.nn.Sequential(conv(3, 8, 3), torch.nn.ReLU(), conv(8, 2, 3), torch.nn.AdaptiveAvgPool2d(1))
    >>> images = torch.rand(4, 3, 8, 8)
    >>> figure = plot_features(ng.build_hierarchy(net, images, n_levels=2), images)
    >>> figure.get_suptitle()
    'axis 0'
    """
    import_package("matplotlib", "a figure")
    import matplotlib
    from matplotlib.figure import Figure

    _check_inputs(hierarchy, inputs, level, image)
    finest, coarse = hierarchy.levels[0], hierarchy.levels[level]
    inputs = inputs[sorted({image, *range(min(IMAGES, len(inputs)))})]
    image = min(image, len(inputs) - 1)
    fine_maps = collect_feature_maps(coarse_network(finest.model, finest.spec, {}).eval(), finest.spec, inputs)
    coarse_maps = collect_feature_maps(_check_recorded(coarse.model), coarse.spec, inputs)
    axis = _choose_axis(axis, fine_maps, coarse_maps, coarse.describe_step(finest))
    inputs, groups = inputs.detach().float().cpu(), compose_aggregates(hierarchy, axis)[level - 1]
    rows = _choose_aggregates(groups, coarse_maps[axis][image])
    responses = [(maps[axis], compute_receptive_patterns(maps[axis], inputs)) for maps in (coarse_maps, fine_maps)]
    with matplotlib.rc_context(STYLE):
        n = 1 + min(MEMBERS, max(int((groups == unit).sum()) for unit in rows))
        figure = Figure(figsize=(1.3 + 2.08 * n, 1.2 + 0.92 * len(rows)), layout="constrained")
        figure.suptitle(f"axis {format_label(axis)}", x=0.01, ha="left", fontsize=10, weight="bold")
        places: Any = figure.subfigures(1, 3, width_ratios=[1.2, n, n], wspace=0.04)
        picture, middle, right = places
        _draw_image(picture, inputs[image])
        maps = [pair[0][image].numpy() for pair in responses]
        _draw_rows(middle, "responses to the image", rows, groups, maps, (level, n))
        patterns = [pair[1].numpy() for pair in responses]
        _draw_rows(right, "receptive patterns", rows, groups, patterns, (level, n))
        return figure


def write_feature_figure(hierarchy: Hierarchy, inputs: Tensor, path: str | Path, **options: Any) -> None:
    """Write the figure of `plot_features` to a file.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    inputs : Tensor, (n, colours, height, width)
        Images, as the network takes them.
    path : path
        The suffix chooses SVG, PNG or PDF.
    **options
        Keyword arguments of `plot_features`.

    Raises
    ------
    NetgraphError
        As `plot_features` does.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import write_feature_figure
    >>> conv = torch.nn.Conv2d
    >>> net = torch.nn.Sequential(conv(3, 8, 3), torch.nn.ReLU(), conv(8, 2, 3), torch.nn.AdaptiveAvgPool2d(1))
    >>> images = torch.rand(4, 3, 8, 8)
    >>> write_feature_figure(ng.build_hierarchy(net, images, n_levels=2), images, "features.svg", image=2)
    """
    save_figure(plot_features(hierarchy, inputs, **options), path)


def _check_inputs(hierarchy: Hierarchy, inputs: Any, level: int, image: int) -> None:
    """Raise unless the inputs are images and the level and the image exist."""
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise NetgraphError(f"feature maps need images (n, colours, height, width). The inputs are {shape}.")
    if not 1 <= level < len(hierarchy.levels):
        raise NetgraphError(
            f"there is no level {level} below the finest. Give one from 1 to {len(hierarchy.levels) - 1}."
        )
    if not 0 <= image < len(inputs):
        raise NetgraphError(f"there is no image {image}. There are {len(inputs)}, numbered from 0.")


def _check_recorded(model: Any) -> GraphNetwork:
    """Return a model if it is a recorded graph."""
    if not isinstance(model, GraphNetwork):
        raise NetgraphError(
            f"a coarse level is a {type(model).__name__}, not a recorded graph. Build the hierarchy with netgraph."
        )
    return model


def _choose_axis(requested: str | None, fine: dict[str, Tensor], coarse: dict[str, Tensor], direction: str) -> str:
    """Return the requested axis, or the best default among axes with fewer channels or smaller maps on the coarse level."""
    merged = {a: maps for a, maps in fine.items() if a in coarse and coarse[a].shape != maps.shape}
    if requested is not None and requested not in merged:
        raise NetgraphError(
            f"axis {requested!r} is not merged, or no convolution reads it. Axes to choose: {', '.join(merged)[:300] or 'none'}"
        )
    if not merged and direction.startswith("depth"):
        raise NetgraphError(
            f"only depth was coarsened ({direction}), so fine and coarse feature maps have identical channels and sizes. "
            "Also coarsen channels or space."
        )
    if not merged:
        raise NetgraphError(
            "no convolution reads a merged axis, so there are no feature maps. Coarsen a convolutional network."
        )
    large = [a for a, maps in merged.items() if maps.shape[2] >= SMALL] or list(merged)
    return requested or max(large, key=lambda a: merged[a].shape[1])


def _choose_aggregates(groups: NDArray[np.int64], maps: Tensor) -> list[int]:
    """Return the aggregates to draw: those of several channels first, then by response."""
    sizes = np.bincount(groups[groups >= 0], minlength=len(maps))
    response = maps.clamp(min=0).mean((1, 2)).numpy()
    return [int(i) for i in np.lexsort((-response, sizes < 2))[:ROWS]]


def _draw_image(place: Any, image: Tensor) -> None:
    """Draw the input image in the upper left corner."""
    ax = place.subplots(ROWS // 2, 1)[0] if ROWS > 2 else place.subplots()
    for other in place.axes[1:]:
        other.axis("off")
    _show_picture(ax, image.numpy())
    ax.set_title("image", fontsize=9)


def _draw_rows(
    place: Any,
    title: str,
    rows: list[int],
    groups: NDArray[np.int64],
    pictures: list[NDArray[Any]],
    size: tuple[int, int],
) -> None:
    """Draw one aggregate per row, followed by its channels, on one scale."""
    level, n = size
    axes = place.subplots(len(rows), n, squeeze=False)
    place.suptitle(title, x=0.02, ha="left", fontsize=9, weight="bold")
    coarse, fine = pictures
    for line, unit in zip(axes, rows, strict=True):
        members = np.flatnonzero(groups == unit)
        row_pictures = [coarse[unit], *(fine[i] for i in members[:MEMBERS])]
        largest = max(float(np.abs(shown).max()) for shown in row_pictures) or 1.0
        for ax, shown in zip(line, row_pictures, strict=False):
            _show_picture(ax, shown, largest)
        for ax, i in zip(line[1:], members, strict=False):
            ax.set_xlabel(f"{i}", fontsize=7, labelpad=1)
        more = len(members) - MEMBERS
        line[0].set_xlabel(f"{unit}" + (f", {more} more" if more > 0 else ""), fontsize=7, labelpad=1)
        for ax in line[1 + len(members) :]:
            ax.axis("off")
    axes[0, 0].set_title(f"level {level}", fontsize=8, weight="normal")
    several = bool((np.bincount(groups[groups >= 0]) > 1).any())
    axes[0, 1].set_title("merged from level 0" if several else "level 0", fontsize=8, weight="normal", loc="left")


def _show_picture(ax: Any, picture: NDArray[Any], largest: float | None = None) -> None:
    """Show a map (h, w) in colour, an image (colours, h, w) as such, or a pattern with grey at zero on a scale of ``largest``."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if picture.ndim == 2:
        ax.imshow(picture, vmin=0, vmax=largest, interpolation="nearest")
        return
    if largest is None:
        low, high = picture.min(), picture.max()
        scaled = (picture - low) / max(high - low, 1e-30)
    else:
        scaled = 0.5 + picture / (2 * largest)
    image = scaled.transpose(1, 2, 0) if len(picture) == 3 else np.repeat(scaled[:1].transpose(1, 2, 0), 3, axis=2)
    ax.imshow(image, interpolation="nearest")
