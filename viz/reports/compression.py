"""A compression as a figure: the measured error of merging each axis, and the units that each axis gave up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netgraph.coarsen.compression.result import Compressed
from netgraph.environment.optional_packages import import_package
from netgraph.viz.figures.drawing import GREY, OKABE_ITO, draw_error_curves, format_label
from netgraph.viz.figures.hierarchy import INK, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 30  # most axes whose units are drawn: those that gave up most


def plot_compression(result: Compressed) -> Figure:
    """Plot the error curves of a compression with the sizes that were chosen, and the units that each axis gave up.

    Parameters
    ----------
    result : Compressed
        From `netgraph.compress`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import plot_compression
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> figure = plot_compression(ng.compress(network, torch.randn(64, 8), target="parameters=0.5"))
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Error against ratio, one axis at a time', 'Units that stay (target parameters=0.5)']
    """
    import_package("matplotlib", "a figure")
    import matplotlib
    from matplotlib.figure import Figure

    sizes = _list_sizes(result)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, max(3.6, 1.2 + 0.24 * min(len(sizes), BARS))), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_choices(left, result, sizes)
        _draw_units(right, result, sizes)
        return figure


def write_compression_figure(result: Compressed, path: str | Path) -> None:
    """Write the figure of `plot_compression` to a file.

    Parameters
    ----------
    result : Compressed
        From `netgraph.compress`.
    path : path
        The suffix chooses SVG, PNG or PDF.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import write_compression_figure
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> result = ng.compress(network, torch.randn(64, 8), target="parameters=0.5")
    >>> write_compression_figure(result, "compression.svg")
    """
    save_figure(plot_compression(result), path)


def _list_sizes(result: Compressed) -> dict[str, tuple[int, int]]:
    """Return the units of every axis that was measured, before and after."""
    hierarchy = result.require_hierarchy()
    first, last = hierarchy.levels[0], hierarchy.levels[-1]
    sizes = {name: (first.spec.axes[name].size,) * 2 for name in result.errors}
    return sizes | {name: (t.n_fine, t.n_coarse) for name, t in last.transfers.items()}


def _draw_choices(ax: Any, result: Compressed, sizes: dict[str, tuple[int, int]]) -> None:
    """Draw the error curves, and a ring at the share of units that each axis keeps."""
    worst = draw_error_curves(ax, result.errors, "relative error of the outputs")
    for i, name in enumerate(worst):
        fine, coarse = sizes[name]
        shares, errors = zip(*sorted({**result.errors[name], 1.0: 0.0}.items()), strict=True)
        error = np.interp(coarse / fine, shares, errors)
        color = OKABE_ITO[i] if i < len(OKABE_ITO) else GREY
        ax.plot([coarse / fine], [error], "o", ms=8, mfc="none", mec=color, mew=1.2, zorder=4, clip_on=False)


def _draw_units(ax: Any, result: Compressed, sizes: dict[str, tuple[int, int]]) -> None:
    """Draw the share of units that each axis keeps as bars, in the order of the network."""
    most = sorted(sizes, key=lambda name: sizes[name][1] / sizes[name][0])[:BARS]
    shown = [name for name in sizes if name in most]
    shares = [sizes[name][1] / sizes[name][0] for name in shown]
    at = np.arange(len(shown))
    ax.barh(at, np.ones(len(shown)), 0.7, color="none", edgecolor=GREY, linewidth=0.5)
    ax.barh(at, shares, 0.7, color=OKABE_ITO[0])
    for y, name, share in zip(at, shown, shares, strict=True):
        fine, coarse = sizes[name]
        inside = share > 0.5
        ax.text(
            share + (-0.01 if inside else 0.01), y, f"{coarse:,} of {fine:,}", va="center", fontsize=7,
            ha="right" if inside else "left", color="white" if inside else INK,
        )  # fmt: skip
    left_out = f", {len(sizes) - len(shown)} more axes are whole or nearly so" if len(sizes) > len(shown) else ""
    ax.set_title(f"Units that stay (target {format_label(str(result.target))}){left_out}")
    ax.set_yticks(at, [format_label(name, 24) for name in shown])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of units that stay")
    ax.tick_params(left=False)
