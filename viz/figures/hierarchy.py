"""Figures of a hierarchy: similarity of units, merges, costs and savings.

``net.svg`` holds all figures on one sheet. ``net.affinity.svg``, ``net.dendrogram.png``, ``net.complexity.pdf``,
``net.error.svg`` and ``net.sparsity.png`` hold one each. Colours are those of Okabe and Ito, "Color universal design",
2008, and cividis (Nuñez, Anderton, Renslow, PLOS ONE 13(7), 2018). Both stay readable with colour vision deficiency.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.viz.figures.drawing import draw_affinity, draw_complexity, draw_dendrogram, draw_error, draw_sparsity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, tuple[Callable[..., None], tuple[float, float]]] = {
    "affinity": (draw_affinity, (7.0, 3.4)),
    "dendrogram": (draw_dendrogram, (7.0, 3.2)),
    "complexity": (draw_complexity, (5.0, 3.2)),
    "error": (draw_error, (5.6, 3.6)),
    "sparsity": (draw_sparsity, (6.4, 4.4)),
}
INK, FAINT = "#222222", "#d9d9d9"
STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT, "grid.linewidth": 0.5,
    "legend.frameon": False, "figure.facecolor": "white", "savefig.facecolor": "white", "svg.hashsalt": "netgraph",
    "image.cmap": "cividis",
}  # fmt: skip


def plot_hierarchy(hierarchy: Hierarchy, kind: str = "overview", *, axis: str | None = None) -> Figure:
    """Plot one figure of a hierarchy, or all of them on one sheet.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    kind : str, default "overview"
        ``affinity``, ``dendrogram``, ``complexity``, ``error``, ``sparsity``, or ``overview`` for all of them.
    axis : str, optional
        Axis of the affinity, the dendrogram and the sparsity. By default the largest merged axis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    NetgraphError
        There is no such figure, or no merged axis of that name.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import plot_hierarchy
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> hierarchy = ng.build_hierarchy(net, torch.randn(2, 8), n_levels=2)
    >>> figure = plot_hierarchy(hierarchy, "affinity", axis="0")
    >>> print(figure.axes[0].get_title(loc="left"))
    axis 0
    32 units as they are
    """
    import_package("matplotlib", "a figure")
    import matplotlib
    from matplotlib.figure import Figure

    if kind != "overview" and kind not in FIGURES:
        raise NetgraphError(f"no figure is called {kind!r}. Choose overview, {', '.join(FIGURES)}.")
    axis = _choose_axis(hierarchy, axis)
    with matplotlib.rc_context(STYLE):
        if kind != "overview":
            draw, size = FIGURES[kind]
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, hierarchy, axis)
            return figure
        figure = Figure(figsize=(13, 11.6), layout="constrained")
        rows: Any = figure.subfigures(3, 1, height_ratios=[4.5, 3.0, 4.0], hspace=0.06)
        first: Any = rows[0].subfigures(1, 2, width_ratios=[2.1, 1.0], wspace=0.04)
        third: Any = rows[2].subfigures(1, 2, width_ratios=[1.0, 1.2], wspace=0.04)
        places = {"affinity": first[0], "complexity": first[1], "dendrogram": rows[1], "error": third[0]}
        for name, place in {**places, "sparsity": third[1]}.items():
            FIGURES[name][0](place, hierarchy, axis)
        return figure


def _choose_axis(hierarchy: Hierarchy, axis: str | None) -> str:
    """Return the requested axis if it is merged, or the largest merged axis."""
    merged = {name: t.n_fine for level in hierarchy.levels[1:2] for name, t in level.transfers.items()}
    if not merged:
        raise NothingToMergeError("the hierarchy has one level, so there is nothing to draw. Ask for two or more.")
    if axis is not None and axis not in merged:
        raise NetgraphError(
            f"axis {axis!r} is not merged from level 0 to level 1. Merged axes: {', '.join(merged)[:300]}"
        )
    return axis or max(merged, key=merged.__getitem__)


def write_figure(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the figure that the name of a file asks for.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy whose levels are shown.
    path : path
        ``net.dendrogram.svg`` holds one figure, ``net.svg`` all of them. The suffix chooses SVG, PNG or PDF.

    Raises
    ------
    NetgraphError
        The hierarchy has one level, so there is nothing to draw.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.viz import write_figure
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> write_figure(ng.build_hierarchy(net, torch.randn(2, 8), n_levels=2), "net.complexity.svg")
    """
    kinds = [word[1:] for word in Path(path).suffixes[:-1] if word[1:] in FIGURES]
    save_figure(plot_hierarchy(hierarchy, kinds[-1] if kinds else "overview"), path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save a figure in the format of the suffix. Equal figures give equal bytes, because no date is written."""
    import_package("matplotlib", "a figure")
    import matplotlib

    path = Path(path)
    check_output_file(path)
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix and path.suffix.lower()[1:] not in known:
        raise NetgraphError(
            f"{path} ends in {path.suffix}, and a figure can be {', '.join(known)}. Give such a suffix."
        )
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
    with matplotlib.rc_context(STYLE):
        write_atomically(lambda place: figure.savefig(place, dpi=200, metadata=dated), path)
