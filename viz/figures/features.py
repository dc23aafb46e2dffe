"""Feature maps: what the channels of an axis answer to an image, each aggregate beside the channels that it merged.

On the right stand receptive patterns: the mean of the patches of all images, weighted by the channel's answer at their
middle, less the mean of all patches (the spike-triggered average; de Boer and Kuyper, IEEE Trans. Biomed. Eng. 15, 1968).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.viz.figures.drawing import compose_aggregates, format_label
from netgraph.viz.figures.hierarchy import STYLE, save_figure

ROWS, MEMBERS = 8, 4  # aggregates that are drawn, and channels of each
SIDE = 15  # pixels of a receptive pattern
IMAGES = 64  # that receptive patterns are taken over
SMALL = 16  # pixels a side from which on a map is worth choosing


def collect_feature_maps(network: GraphNetwork, spec: UnitSpec, inputs: Tensor) -> dict[str, Tensor]:
    """Return what the channels of each axis answer, as the first convolution that reads them does: (n, channels, h, w).

    Parameters
    ----------
    network : GraphNetwork
    spec : UnitSpec
        With the network's sizes.
    inputs : Tensor, (n, channels, height, width)
    """
    found: dict[str, Tensor] = {}
    for stop in network.walk([inputs], (torch.ops.aten.conv2d.default,)):
        name, maps = stop.names[1], stop.arguments[0][0]
        term = () if name is None else spec.parameters[name][1]
        if len(term) == 1 and isinstance(term[0], str) and maps.shape[1] == spec.sizes[term[0]]:
            found.setdefault(term[0], maps.detach().float().cpu())
    return found


def compute_receptive_patterns(maps: Tensor, inputs: Tensor, *, side: int = SIDE) -> Tensor:
    """Return the patch of the input that each channel answers to on average.

    Parameters
    ----------
    maps : Tensor, (n, channels, h, w)
        Answers; what is below zero counts as none.
    inputs : Tensor, (n, colours, height, width)
    side : int
        Pixels of a patch, odd.

    Returns
    -------
    Tensor, (channels, colours, side, side)
        Zero where a channel never answers.
    """
    stride = max(inputs.shape[2] // maps.shape[2], 1)
    patches = functional.unfold(inputs, side, padding=side // 2, stride=stride)  # (n, colours · side², places)
    places = [(size - 1) // stride + 1 for size in inputs.shape[2:]]
    answers = functional.interpolate(maps.clamp(min=0), size=places, mode="nearest").flatten(2)  # (n, channels, places)
    total = answers.sum((0, 2))
    summed = torch.einsum("nkp,ncp->ck", patches, answers)
    mean = patches.mean((0, 2))
    found = torch.where(total[:, None] > 0, summed / total.clamp(min=1e-30)[:, None] - mean, torch.zeros(()))
    return found.view(maps.shape[1], inputs.shape[1], side, side)


def plot_features(
    hierarchy: Hierarchy, inputs: Tensor, *, axis: str | None = None, level: int = 1, image: int = 0
) -> Any:
    """Return a `matplotlib.figure.Figure` of aggregates of a level beside the channels of level 0 that they merged.

    Where the level has a lower resolution and no merged channels, each channel stands beside itself.

    Parameters
    ----------
    hierarchy : Hierarchy
    inputs : Tensor, (n, colours, height, width)
        As the network takes them.
    axis : str, optional
        By default the axis with most channels of those with maps of `SMALL` pixels or more.
    level : int
        Whose aggregates.
    image : int
        Which of the inputs the answers are to.

    Raises
    ------
    NetgraphError
        The inputs are no images, the level or the image is not there, or no convolution reads that axis.
    """
    import matplotlib
    from matplotlib.figure import Figure

    _check_inputs(hierarchy, inputs, level, image)
    finest, coarse = hierarchy.levels[0], hierarchy.levels[level]
    inputs = inputs[sorted({image, *range(min(IMAGES, len(inputs)))})]
    image = min(image, len(inputs) - 1)
    fine_maps = collect_feature_maps(coarse_network(finest.model, finest.spec, {}).eval(), finest.spec, inputs)
    coarse_maps = collect_feature_maps(_check_recorded(coarse.model), coarse.spec, inputs)
    axis = _choose_axis(axis, fine_maps, coarse_maps, coarse.way(finest))
    inputs, groups = inputs.detach().float().cpu(), compose_aggregates(hierarchy, axis)[level - 1]
    rows = _choose_aggregates(groups, coarse_maps[axis][image])
    parts = [(maps[axis], compute_receptive_patterns(maps[axis], inputs)) for maps in (coarse_maps, fine_maps)]
    with matplotlib.rc_context(STYLE):
        n = 1 + min(MEMBERS, max(int((groups == unit).sum()) for unit in rows))
        whole = Figure(figsize=(1.3 + 2.08 * n, 1.2 + 0.92 * len(rows)), layout="constrained")
        whole.suptitle(f"axis {format_label(axis)}", x=0.01, ha="left", fontsize=10, weight="bold")
        places: Any = whole.subfigures(1, 3, width_ratios=[1.2, n, n], wspace=0.04)
        picture, left, right = places
        _draw_image(picture, inputs[image])
        maps = [part[0][image].numpy() for part in parts]
        _draw_rows(left, "answers to the image", rows, groups, maps, (level, n))
        patterns = [part[1].numpy() for part in parts]
        _draw_rows(right, "receptive patterns", rows, groups, patterns, (level, n))
        return whole


def write_feature_figure(hierarchy: Hierarchy, inputs: Tensor, path: str | Path, **options: Any) -> None:
    """Write `plot_features` as SVG, PNG or PDF."""
    save_figure(plot_features(hierarchy, inputs, **options), path)


def _check_inputs(hierarchy: Hierarchy, inputs: Any, level: int, image: int) -> None:
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise NetgraphError(f"feature maps are of images (n, colours, height, width), and the inputs are {shape}")
    if not 1 <= level < len(hierarchy.levels):
        raise NetgraphError(
            f"there is no level {level} below the finest; give one from 1 to {len(hierarchy.levels) - 1}"
        )
    if not 0 <= image < len(inputs):
        raise NetgraphError(f"image {image} is asked for, and there are {len(inputs)}, numbered from 0")


def _check_recorded(model: Any) -> GraphNetwork:
    if not isinstance(model, GraphNetwork):
        raise NetgraphError(
            f"a coarse level is a {type(model).__name__}, not a recorded graph; build the hierarchy by netgraph"
        )
    return model


def _choose_axis(asked: str | None, fine: dict[str, Tensor], coarse: dict[str, Tensor], way: str) -> str:
    """Return the axis that was asked for, or the one to choose, of those whose maps are fewer or smaller on the coarse level."""
    merged = {a: maps for a, maps in fine.items() if a in coarse and coarse[a].shape != maps.shape}
    if asked is not None and asked not in merged:
        raise NetgraphError(
            f"axis {asked!r} is not merged, or no convolution reads it; there are {', '.join(merged)[:300] or 'none'}"
        )
    if not merged and way.startswith("depth"):
        raise NetgraphError(
            f"blocks alone have merged ({way}): every map has its size and every channel is itself, so that nothing stands beside "
            "anything; coarsen channels or space as well"
        )
    if not merged:
        raise NetgraphError(
            "no convolution reads a merged axis, so that there are no feature maps; coarsen a convolutional network"
        )
    large = [a for a, maps in merged.items() if maps.shape[2] >= SMALL] or list(merged)
    return asked or max(large, key=lambda a: merged[a].shape[1])


def _choose_aggregates(groups: NDArray[np.int64], maps: Tensor) -> list[int]:
    """Return the aggregates to draw: of two channels or more before single ones, the loudest first."""
    sizes = np.bincount(groups[groups >= 0], minlength=len(maps))
    loud = maps.clamp(min=0).mean((1, 2)).numpy()
    return [int(i) for i in np.lexsort((-loud, sizes < 2))[:ROWS]]


def _draw_image(place: Any, image: Tensor) -> None:
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
    """Draw an aggregate's picture and those of its channels in each row, on one scale."""
    level, n = size
    axes = place.subplots(len(rows), n, squeeze=False)
    place.suptitle(title, x=0.02, ha="left", fontsize=9, weight="bold")
    coarse, fine = pictures
    for line, unit in zip(axes, rows, strict=True):
        members = np.flatnonzero(groups == unit)
        drawn = [coarse[unit], *(fine[i] for i in members[:MEMBERS])]
        largest = max(float(np.abs(one).max()) for one in drawn) or 1.0
        for ax, one in zip(line, drawn, strict=False):
            _show_picture(ax, one, largest)
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
    """Show a map (h, w) by colour, or an image or pattern (colours, h, w) as such, grey where it is zero on a scale of ``largest``."""
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
