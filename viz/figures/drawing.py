"""Drawing functions of single figures. Each draws on a given matplotlib figure or subfigure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import leaves_list, linkage

from netgraph import plugins
from netgraph.affinity.weights import cosine
from netgraph.coarsen.hierarchy.budget import GRID, measure_error_curves
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.merge_plan import AUTO, MergePlan, load_coarseners
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.axis_units import AxisUnits
from netgraph.utils.text import shorten

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
GREY = "#9a9a9a"
PIXELS = 512  # largest side of an affinity image, above which units are averaged
MAX_LEAVES = 96  # most leaves of a dendrogram, which shows the first aggregates of a larger axis
MAX_ORDERED = 2048  # most aggregates to order by similarity, above which they are ordered by number


def format_label(name: str, length: int = 32) -> str:
    """Return a name for matplotlib: one line, at most ``length`` characters, and no formula."""
    return shorten(name, length).replace("$", r"\$")


def compose_aggregates(hierarchy: Hierarchy, axis: str) -> list[NDArray[np.int64]]:
    """Return for each coarser level the unit that each unit of level 0 joins, (n,), or -1 where it was left out."""
    joined = np.arange(hierarchy.levels[0].spec.axes[axis].size)
    out = []
    for level in hierarchy.levels[1:]:
        if axis in level.transfers:
            joined = np.where(joined >= 0, level.transfers[axis].aggregates[joined], -1)
        out.append(joined)
    return out


def order_units(hierarchy: Hierarchy, axis: str, affinity: sparse.csr_array) -> NDArray[np.int64]:
    """Return an order of units that keeps every aggregate together and similar aggregates close."""
    groups = compose_aggregates(hierarchy, axis)
    last = np.where(groups[-1] >= 0, groups[-1], groups[-1].max(initial=-1) + 1)
    place = np.arange(int(last.max()) + 1)
    if 2 < len(place) <= MAX_ORDERED:
        R = Transfer(last).R
        near = (R @ affinity @ R.T).toarray()
        far = near.max() - (near + near.T) / 2
        place[leaves_list(linkage(far[np.triu_indices(len(place), 1)], "average"))] = np.arange(len(place))
    return np.lexsort((np.arange(len(last)), *groups[:-1], place[last]))


def compute_affinity(hierarchy: Hierarchy, axis: str) -> sparse.csr_array:
    """Return the affinity of the units of an axis on level 0, by the cosine of their weights."""
    level = hierarchy.levels[0]
    return cosine(AxisUnits(level.spec, traced_state(level.model), axis), seed=0).tocsr()


def downsample_matrix(matrix: sparse.csr_array) -> NDArray[Any]:
    """Return a matrix as an image of at most `PIXELS` a side. A pixel is a mean, or nan where there is no edge."""
    n = matrix.shape[0]
    width = -(-n // PIXELS)
    coo = matrix.tocoo()
    side = -(-n // width)
    sums, counts = np.zeros((side, side)), np.zeros((side, side))
    np.add.at(sums, (coo.row // width, coo.col // width), coo.data)
    np.add.at(counts, (coo.row // width, coo.col // width), 1)
    with np.errstate(invalid="ignore"):
        return sums / counts


def draw_affinity(figure: Any, hierarchy: Hierarchy, axis: str) -> None:
    """Draw the affinity matrix of an axis, unordered and ordered by aggregates."""
    matrix = compute_affinity(hierarchy, axis)
    order = order_units(hierarchy, axis, matrix)
    n, k = len(order), int(compose_aggregates(hierarchy, axis)[-1].max(initial=-1)) + 1
    low, high = np.percentile(matrix.data, [1, 99]) if matrix.nnz else (0.0, 1.0)
    panels = figure.subplots(1, 2)
    titles = (f"axis {format_label(axis)}\n{n:,} units as they are", f"\nordered by {k:,} aggregates")
    for ax, title, shown in zip(panels, titles, (matrix, matrix[order][:, order]), strict=True):
        image = ax.imshow(downsample_matrix(shown), vmin=low, vmax=high, interpolation="nearest", extent=(0, n, n, 0))
        ax.set_title(title)
        ax.spines[:].set_visible(False)
        ax.locator_params(nbins=5, integer=True)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.85, aspect=30, pad=0.02)
    bar.set_label("affinity (1 + cos) / 2")
    bar.outline.set_visible(False)


def draw_dendrogram(figure: Any, hierarchy: Hierarchy, axis: str) -> None:
    """Draw the merges of every level as a tree. Its leaves are the units of level 0."""
    ax = figure.subplots()
    groups = compose_aggregates(hierarchy, axis)
    order = order_units(hierarchy, axis, compute_affinity(hierarchy, axis))
    order = _cut_at_aggregates(order, groups[-1])
    at = np.arange(len(order), dtype=float)
    ax.plot(at, np.zeros(len(at)), "o", ms=2.2, color=OKABE_ITO[0], clip_on=False)
    for height, group in enumerate(groups, 1):
        at = _draw_joins(ax, at, group[order], height)
    n, n_drawn = len(groups[-1]), len(order)
    note = "" if n_drawn == n else f" ({n_drawn} of {n:,} units drawn)"
    ax.set_title(f"axis {format_label(axis)}: merges of each level{note}")
    sizes = [n, *(int(g.max(initial=-1)) + 1 for g in groups)]
    ax.set_yticks(range(len(sizes)), [f"level {i}\n{s:,} units" for i, s in enumerate(sizes)])
    ax.set_xticks([])
    ax.set_ylim(-0.15, len(groups) + 0.2)
    ax.set_xlim(-1, len(order))
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.tick_params(left=False)


def _cut_at_aggregates(order: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first units of an order, about `MAX_LEAVES` of them, up to the end of an aggregate."""
    if len(order) <= MAX_LEAVES:
        return order
    ends = np.flatnonzero(np.diff(last[order])) + 1
    fit = ends[ends <= MAX_LEAVES]
    return order[: fit[-1] if len(fit) else MAX_LEAVES]


def _draw_joins(ax: Any, at: NDArray[Any], group: NDArray[np.int64], height: int) -> NDArray[Any]:
    """Draw the brackets of one level. Return the position of each aggregate at its leaves, nan where one was left out."""
    kept = (group >= 0) & ~np.isnan(at)
    out = np.full(len(at), np.nan)
    for g in np.unique(group[kept]):
        members = np.unique(at[kept & (group == g)])
        middle = (members[0] + members[-1]) / 2
        ax.plot([members[0], members[-1]], [height, height], color="#222222", lw=0.8, solid_capstyle="butt")
        ax.vlines(members, height - 1, height, color=OKABE_ITO[0] if len(members) > 1 else GREY, lw=0.8)
        ax.plot([middle], [height], "o", ms=2.2, color=OKABE_ITO[0], clip_on=False)
        out[group == g] = middle
    left_out = at[(group < 0) & ~np.isnan(at)]
    ax.plot(left_out, np.full(len(left_out), height - 0.5), "x", ms=4, color=OKABE_ITO[3])
    return out


def draw_complexity(figure: Any, hierarchy: Hierarchy, axis: str) -> None:
    """Draw units, parameters and FLOPs of every level as shares of the finest."""
    ax = figure.subplots()
    counts = {
        "units": [level.n_units for level in hierarchy.levels],
        "parameters": [level.n_parameters for level in hierarchy.levels],
        "FLOPs": [level.flops for level in hierarchy.levels],
    }
    for i, (name, values) in enumerate(counts.items()):
        share = [v / max(values[0], 1) for v in values]
        at = np.arange(len(values)) + (i - 1) * 0.27
        ax.bar(at, share, 0.25, color=OKABE_ITO[i], label=name)
        for x, y in zip(at, share, strict=True):
            ax.text(x, y + 0.015, f"{y:.0%}" if y >= 0.1 else f"{y:.1%}", ha="center", va="bottom", fontsize=7)
    ax.set_title(f"Operator complexity {hierarchy.operator_complexity:.3f}, grid {hierarchy.grid_complexity:.3f}")
    ax.set_xticks(range(len(hierarchy.levels)), [f"level {i}" for i in range(len(hierarchy.levels))])
    ax.set_ylabel("share of level 0")
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    ax.set_ylim(0, 1.12)
    ax.tick_params(bottom=False)
    ax.legend(loc="upper right")


def draw_error(figure: Any, hierarchy: Hierarchy, axis: str) -> None:
    """Draw the error of merging one axis alone, against the ratio. The six worst axes are named and the others grey."""
    curves, label = _measure_errors(hierarchy)
    draw_error_curves(figure.subplots(), {name: dict(zip(GRID, x, strict=True)) for name, x in curves.items()}, label)


def draw_error_curves(ax: Any, curves: Mapping[str, Mapping[float, float]], label: str) -> list[str]:
    """Draw the error of each axis by share. Return the axes from the worst on; the first six have colours and names."""
    worst = sorted(curves, key=lambda name: -sum(curves[name].values()))
    for i, name in reversed(list(enumerate(worst))):
        named = i < len(OKABE_ITO)
        color, z = (OKABE_ITO[i], 3) if named else (GREY, 2)
        ax.plot(
            list(curves[name]),
            list(curves[name].values()),
            "o-",
            ms=3,
            lw=1.4 if named else 0.8,
            color=color,
            zorder=z,
            label=format_label(name, 24),
        )
    handles, labels = ax.get_legend_handles_labels()
    handles, labels = handles[::-1][: len(OKABE_ITO)], labels[::-1][: len(OKABE_ITO)]
    if len(worst) > len(labels):
        labels[-1] = f"{labels[-1]} (grey: {len(worst) - len(labels)} more)"
    ax.legend(handles, labels, fontsize=8, loc="upper right")
    ax.set_title("Error against ratio, one axis at a time")
    ax.set_xlabel("share of units that stay")
    ax.set_ylabel(label)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    return worst


def _measure_errors(hierarchy: Hierarchy) -> tuple[dict[str, list[float]], str]:
    """Return the error of each axis over `GRID` and a label: errors on data where a budget measured them, otherwise of weights."""
    measured = hierarchy.levels[1].reasons.get("curves")
    if measured:
        by_data = "error" in hierarchy.levels[1].reasons
        return measured, f"relative {'function' if by_data else 'weight'} error"
    options = hierarchy.options or CoarsenOptions(seed=0)
    name = options.coarsener_name
    name = name if name in plugins.list_plugins("netgraph.coarseners") else AUTO[0]
    finest = hierarchy.levels[0]
    plan = MergePlan(load_coarseners(name), cosine, {"*": 0.5}, set(options.keep), seed=options.seed)
    return measure_error_curves(
        plan.begin_step(finest.spec, traced_state(finest.model), {}, None)
    ), f"relative weight error by {name}"


def draw_sparsity(figure: Any, hierarchy: Hierarchy, axis: str) -> None:
    """Draw the nonzeros of P and R of one axis, from level 0 to level 1."""
    transfer = hierarchy.levels[1].transfers[axis]
    n, k = transfer.n_fine, transfer.n_coarse
    P_axes, R_axes = figure.subplots(1, 2, width_ratios=[1, 2])
    size = float(np.clip(4000 / max(n, 1) ** 1.2, 0.4, 12))
    for ax, matrix, name in ((P_axes, transfer.P, "P prolongs"), (R_axes, transfer.R, "R restricts")):
        coo = matrix.tocoo()
        ax.scatter(coo.col, coo.row, s=size, marker="s", lw=0, color=OKABE_ITO[0], rasterized=coo.nnz > 5000)
        ax.set_title(f"{name}\n{matrix.shape[0]:,} × {matrix.shape[1]:,}, {matrix.nnz:,} entries", fontsize=9)
        ax.set_xlim(-0.5, matrix.shape[1] - 0.5)
        ax.set_ylim(matrix.shape[0] - 0.5, -0.5)
        ax.set_aspect("equal")
        ax.spines[:].set_visible(True)
        ax.locator_params(nbins=4, integer=True)
    figure.suptitle(
        f"axis {format_label(axis)}: {n:,} units, {k:,} aggregates", x=0.02, ha="left", fontsize=10, weight="bold"
    )
