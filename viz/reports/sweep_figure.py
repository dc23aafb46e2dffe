"""A sweep as a figure: the metric against parameters and against milliseconds, with the Pareto set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from netgraph.coarsen.sweeps.result import Row, Sweep
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.viz.figures.drawing import GREY, OKABE_ITO, format_label
from netgraph.viz.figures.hierarchy import INK, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vPX<>ph"
LINES = ("-", "--", ":", "-.", (0, (1, 1)))  # by repair
LABELS = {"parameters": "parameters", "flops_per_sample": "FLOPs a sample"}
NARROW = 6.0  # inches, below which panels stand above one another
SIZE = (10.5, 4.8)
MOST_STRETCHED = 500  # parts of the whole range of the metric, of which one around the best is drawn almost evenly
COLUMN, LETTER = 0.55, 0.07  # inches of a column of the legend, without its words and of each letter


class Curve(NamedTuple):
    """The rows of one coarsener, affinity, budget and repair.

    Parameters
    ----------
    method : str
        What is merged by, as the legend names it.
    repair : str
    rows : list of dict
    """

    method: str
    repair: str
    rows: list[Row]


def plot_sweep(sweep: Sweep, *, size: tuple[float, float] = SIZE) -> Figure:
    """Plot the metric of a sweep against parameters, and against milliseconds where they were measured.

    Colour and marker tell the coarsener, with its affinity and budget where there are several, and the style of the line tells the repair.
    A grey line leads through the Pareto set, whose points have a dark edge.

    Parameters
    ----------
    sweep : Sweep
        From `netgraph.coarsen.sweep`.
    size : (float, float), default (10.5, 4.8)
        Width and height in inches. A narrow figure has its panels above one another.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    NetgraphError
        No row but the original has a network, or the size is not positive.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import sweep
    >>> from netgraph.viz import plot_sweep
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> result = sweep(network, torch.randn(64, 8), ratios=[0.5, 0.25], coarseners=["hem"], latency=False)
    >>> [axes.get_xlabel() for axes in plot_sweep(result).axes]
    ['parameters']
    """
    import_package("matplotlib", "a figure")
    import matplotlib
    from matplotlib.figure import Figure

    curves = list(_list_curves(sweep))
    if not curves or not all(0 < side < 1000 for side in size):
        raise NetgraphError(
            f"a figure of {len(curves)} curves and {size[0]:g} by {size[1]:g} inches cannot be drawn. Give a sweep with a network, and a size of "
            "1 to 1,000 inches."
        )
    costs = sweep.marked_costs
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        is_narrow = size[0] < NARROW
        shape = (len(costs), 1) if is_narrow else (1, len(costs))
        panels: Any = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
        stretch = _find_stretch(sweep)
        for ax, cost in zip(panels, costs, strict=True):
            _draw_panel(ax, sweep, curves, cost)
            _thin_ticks(ax, cost, 4 if is_narrow else 5)
            if stretch is not None:
                _stretch_best(ax, *stretch)
            if is_narrow or ax is panels[0]:
                ax.set_ylabel(_name_metric(sweep, is_stretched=stretch is not None))
        _draw_legend(figure, curves, size[0])
        return figure


def _name_metric(sweep: Sweep, *, is_stretched: bool) -> str:
    """Return the label of the axis of the metric, with notes on a line of their own."""
    notes = ["smaller is better"] * (not sweep.larger_is_better) + ["axis stretched"] * is_stretched
    return format_label(sweep.metric) + (f"\n({', '.join(notes)})" if notes else "")


def _list_curves(sweep: Sweep) -> Iterator[Curve]:
    """Yield the curves, in the order of the rows."""
    rows = [row for row in sweep.measured if row.get("coarsener") is not None]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        words = [str(row["coarsener"]), *(str(row[name]) for name in sweep.several if row.get(name) is not None)]
        groups.setdefault((", ".join(words), str(row.get("repair"))), []).append(row)
    yield from (Curve(method, repair, rows) for (method, repair), rows in groups.items())


def _draw_panel(ax: Any, sweep: Sweep, curves: list[Curve], cost: str) -> None:
    """Draw the curves over one cost, the Pareto set and the original."""
    optimal = sweep.pareto(cost)
    ax.step(
        [row[cost] for row in optimal], [row[sweep.metric] for row in optimal], where="post", color=GREY, lw=4, alpha=0.35, zorder=1,
        solid_joinstyle="round", label="Pareto set",
    )  # fmt: skip
    methods, repairs = _number([c.method for c in curves]), _number([c.repair for c in curves])
    marked = {id(row) for row in optimal}
    for curve in curves:
        rows = sorted(curve.rows, key=lambda row: row[cost])
        color, marker = _style_method(methods[curve.method])
        line = LINES[repairs[curve.repair] % len(LINES)]
        points = [(row[cost], row[sweep.metric], INK if id(row) in marked else color) for row in rows]
        x, y, edges = zip(*points, strict=True)
        ax.plot(x, y, ls=line, lw=1.2, color=color, zorder=2)
        ax.scatter(x, y, s=26, marker=marker, color=color, edgecolors=edges, linewidths=1.1, zorder=3)
    original = next((row for row in sweep.measured if row.get("coarsener") is None), None)
    if original is not None:
        ax.scatter([original[cost]], [original[sweep.metric]], s=110, marker="*", color=INK, zorder=4)
    ax.set_xlabel(LABELS.get(cost, cost.replace("ms_batch_", "milliseconds, batch ")))
    ax.grid(axis="both")
    ax.set_axisbelow(True)
    ax.margins(x=0.04, y=0.06)


def _thin_ticks(ax: Any, cost: str, n: int) -> None:
    """Give the axis of costs few ticks, with short numbers."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(n))
    if not cost.startswith("ms_"):
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _number(words: list[str]) -> dict[str, int]:
    """Return different words with their places."""
    return {word: i for i, word in enumerate(dict.fromkeys(words))}


def _style_method(i: int) -> tuple[str, str]:
    """Return colour and marker of a method. Beyond the palette colours come again, with other markers."""
    return OKABE_ITO[i % len(OKABE_ITO)], MARKERS[i % len(MARKERS)]


def _find_stretch(sweep: Sweep) -> tuple[float, float] | None:
    """Return the best value of the metric and the width around it that is drawn almost evenly, or None for an even axis.

    Networks without repair may lose nearly everything. If most values are close to the best, they would lie on one another.
    """
    values = np.array([row[sweep.metric] for row in sweep.measured])
    best = values.max() if sweep.larger_is_better else values.min()
    away = np.abs(values - best)
    usual, most = float(np.median(away)), float(away.max())
    return None if usual > most / 8 else (float(best), max(usual, most / MOST_STRETCHED))


def _stretch_best(ax: Any, best: float, width: float) -> None:
    """Stretch the axis of the metric around the best value, by asinh, with ticks at round numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = ax.dataLim.intervaly
    margin = width / 2
    ax.set_yscale("function", functions=(lambda y: np.arcsinh((y - best) / width), lambda z: best + width * np.sinh(z)))
    spread = float(np.arcsinh((best - low) / width) + np.arcsinh((high - best) / width))
    grow = [
        np.sinh(np.arcsinh((side - best) / width) + sign * 0.06 * spread) * width + best
        for side, sign in ((low, -1), (high, 1))
    ]
    ax.set_ylim(*grow)
    ticks = _choose_ticks(low - margin, high + margin, lambda y: float(np.arcsinh((y - best) / width)))
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _choose_ticks(low: float, high: float, place: Callable[[float], float]) -> list[float]:
    """Return round numbers between two bounds, the roundest first, with a distance between their places on the axis."""
    apart = abs(place(high) - place(low)) / 8
    power = 10.0 ** math.floor(math.log10(max(high - low, 1e-300)))
    ticks: list[float] = []
    for step in (power / divisor for divisor in (1, 2, 5, 10, 20, 50, 100, 200)):
        for i in range(math.ceil(low / step), math.floor(high / step) + 1):
            tick = float(f"{i * step:.10g}")
            if all(abs(place(tick) - place(other)) >= apart for other in ticks):
                ticks.append(tick)
    return sorted(ticks)


def _draw_legend(figure: Any, curves: list[Curve], width: float) -> None:
    """Draw one legend for all panels below them: methods by colour and marker, repairs by line, the original and the Pareto set."""
    from matplotlib.lines import Line2D

    handles = []
    for method, i in _number([c.method for c in curves]).items():
        color, marker = _style_method(i)
        handles.append(Line2D([], [], color=color, marker=marker, ms=5, lw=0, label=format_label(method)))
    for repair, i in _number([c.repair for c in curves]).items():
        handles.append(
            Line2D([], [], color=INK, ls=LINES[i % len(LINES)], lw=1.2, label=f"repair {format_label(repair)}")
        )
    handles.append(Line2D([], [], color=INK, marker="*", ms=10, lw=0, label="original"))
    handles.append(Line2D([], [], color=GREY, lw=4, alpha=0.35, label="Pareto set"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    most = max(int(width / (COLUMN + LETTER * longest)), 1)
    n_rows = -(-len(handles) // most)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // n_rows), fontsize=8)
