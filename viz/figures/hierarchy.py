"""Figures of a hierarchy: what is alike, what merges, what it costs and what it saves.

``net.svg`` is all of them on one sheet; ``net.affinity.svg``, ``net.dendrogram.png``, ``net.complexity.pdf``,
``net.error.svg`` and ``net.sparsity.png`` are one each. Colours are those of Okabe and Ito, "Color universal design",
2008, and cividis (Nuñez, Anderton, Renslow, PLOS ONE 13(7), 2018): both read the same to colour-blind eyes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.viz.figures.drawing import draw_affinity, draw_complexity, draw_dendrogram, draw_error, draw_sparsity

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


def plot_hierarchy(hierarchy: Hierarchy, what: str = "overview", *, axis: str | None = None) -> Any:
    """Return a `matplotlib.figure.Figure`.

    Parameters
    ----------
    hierarchy : Hierarchy
    what : str
        ``affinity``, ``dendrogram``, ``complexity``, ``error``, ``sparsity``, or ``overview`` for all of them.
    axis : str, optional
        Whose affinity, dendrogram and sparsity; by default the largest axis that was merged.

    Raises
    ------
    NetgraphError
        There is no such figure, or no merged axis of that name.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if what != "overview" and what not in FIGURES:
        raise NetgraphError(f"no figure is called {what!r}; there are overview, {', '.join(FIGURES)}")
    axis = _choose_axis(hierarchy, axis)
    with matplotlib.rc_context(STYLE):
        if what != "overview":
            draw, size = FIGURES[what]
            whole = Figure(figsize=size, layout="constrained")
            draw(whole, hierarchy, axis)
            return whole
        whole = Figure(figsize=(13, 11.6), layout="constrained")
        rows: Any = whole.subfigures(3, 1, height_ratios=[4.5, 3.0, 4.0], hspace=0.06)
        first: Any = rows[0].subfigures(1, 2, width_ratios=[2.1, 1.0], wspace=0.04)
        third: Any = rows[2].subfigures(1, 2, width_ratios=[1.0, 1.2], wspace=0.04)
        places = {"affinity": first[0], "complexity": first[1], "dendrogram": rows[1], "error": third[0]}
        for name, place in {**places, "sparsity": third[1]}.items():
            FIGURES[name][0](place, hierarchy, axis)
        return whole


def _choose_axis(hierarchy: Hierarchy, axis: str | None) -> str:
    merged = {name: t.n_fine for level in hierarchy.levels[1:2] for name, t in level.transfers.items()}
    if not merged:
        raise NothingToMergeError("the hierarchy has one level, and there is nothing to draw; ask for two or more")
    if axis is not None and axis not in merged:
        raise NetgraphError(
            f"axis {axis!r} is not merged from level 0 to level 1; merged are {', '.join(merged)[:300]}"
        )
    return axis or max(merged, key=merged.__getitem__)


def write_figure(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the figure that a file's name asks for, as SVG, PNG or PDF."""
    asked = [word[1:] for word in Path(path).suffixes[:-1] if word[1:] in FIGURES]
    save_figure(plot_hierarchy(hierarchy, asked[-1] if asked else "overview"), path)


def save_figure(drawn: Any, path: str | Path) -> None:
    """Write a figure by the suffix; the same figure makes the same bytes."""
    import matplotlib

    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(Path(path).suffix.lower(), {})
    with matplotlib.rc_context(STYLE):
        drawn.savefig(path, dpi=200, metadata=dated)
