"""Training runs on one matplotlib sheet, for papers and for trackers that show images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.fas.ledger import ASIDE, KINDS
from netgraph.fas.monitoring.history import History
from netgraph.viz.figures.drawing import GREY, OKABE_ITO, format_label
from netgraph.viz.figures.hierarchy import INK, STYLE, save_figure
from netgraph.viz.reports.charts import MAX_VISITS, OUTCOMES, choose_line_style, classify_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "dashdot"}  # plotly names to matplotlib names
MARKS = {"triangle-up": "^", "x": "x", "circle-open": "o"}


def plot_runs(histories: Sequence[History]) -> Figure:
    """Plot loss against time and FLOPs, cycles, costs, tau and learning rates of training runs on one sheet.

    Parameters
    ----------
    histories : sequence of History
        The runs, each with its name and curves.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    NetgraphError
        There is no run.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import History
    >>> from netgraph.viz import plot_runs
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> batches = [(torch.randn(4, 8), torch.randint(0, 4, (4,)))]
    >>> problem = ng.Problem(batches, torch.nn.functional.cross_entropy)
    >>> solution = ng.FAS("v", cycles=1).solve(ng.build_hierarchy(net, torch.randn(2, 8), n_levels=2), problem)
    >>> figure = plot_runs([History.of(solution, "one V-cycle")])
    >>> figure.axes[0].get_title(loc="left")
    'Loss against seconds'
    """
    import_package("matplotlib", "a figure")
    import matplotlib
    from matplotlib.figure import Figure

    if not histories:
        raise NetgraphError("a figure of runs needs at least one, got none. Name one or more.")
    with matplotlib.rc_context(STYLE):
        n = len(histories)
        figure = Figure(
            figsize=(10.5, 6.4 + 1.1 * n + 0.3 * min(sum(len(h.levels) for h in histories), 24)), layout="constrained"
        )
        rows: Any = figure.subfigures(
            4, 1, height_ratios=[3.0, 0.4 + 1.1 * n, 0.9 + 0.3 * sum(len(h.levels) for h in histories), 2.6]
        )
        for ax, unit in zip(rows[0].subplots(1, 2, sharey=True), ("seconds", "FLOPs"), strict=True):
            draw_loss(ax, histories, unit)
        for ax, history in zip(np.atleast_1d(rows[1].subplots(n, 1, sharex=True)), histories, strict=True):
            draw_trace(ax, history, titled=n > 1)
        for ax, unit in zip(rows[2].subplots(1, 2, sharey=True), ("seconds", "FLOPs"), strict=True):
            draw_costs(ax, histories, unit)
        left, right = rows[3].subplots(1, 2)
        draw_tau(left, histories)
        draw_rates(right, histories)
        return figure


def write_run_figure(histories: Sequence[History], path: str | Path) -> None:
    """Write the sheet of `plot_runs` to a file.

    Parameters
    ----------
    histories : sequence of History
        The runs, each with its name and curves.
    path : path
        The suffix chooses SVG, PNG or PDF.

    Raises
    ------
    NetgraphError
        There is no run.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import History
    >>> from netgraph.viz import write_run_figure
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> batches = [(torch.randn(4, 8), torch.randint(0, 4, (4,)))]
    >>> problem = ng.Problem(batches, torch.nn.functional.cross_entropy)
    >>> solution = ng.FAS("v", cycles=1).solve(ng.build_hierarchy(net, torch.randn(2, 8), n_levels=2), problem)
    >>> write_run_figure([History.of(solution, "one V-cycle")], "report.svg")
    """
    save_figure(plot_runs(histories), path)


def draw_loss(ax: Any, histories: Sequence[History], unit: str) -> None:
    """Draw the validation loss. A single run also shows the training loss of each level."""
    column = 1 if unit == "seconds" else 2
    if len(histories) == 1:
        for level in histories[0].levels:
            line = histories[0].smoothing_curve("loss", level)
            ax.plot(line[:, column], line[:, 3], lw=1, color=_choose_color(level), label=f"training, level {level}")
    for i, history in enumerate(histories):
        line = history.losses()
        color, name = (INK, "validation") if len(histories) == 1 else (_choose_color(i), format_label(history.name))
        ax.plot(line[:, column], line[:, 3], ".-", lw=1.6, ms=4, color=color, label=name)
    if all((line.get_ydata() > 0).all() for line in ax.lines):
        _set_log_axis(ax)
    ax.set_title(f"Loss against {unit}")
    ax.set_xlabel(f"{unit} of training")
    ax.set_xlim(left=0)
    ax.grid(axis="y", which="both")
    if unit == "seconds":
        ax.legend(fontsize=8)


def draw_trace(ax: Any, history: History, *, titled: bool) -> None:
    """Draw the level of every step, the finest on top, and the outcome of coarse steps."""
    trace = history.trace()[:MAX_VISITS]
    if len(trace):
        ax.step(np.r_[0, trace[:, 0]], np.r_[trace[0, 1], trace[:, 1]], where="pre", lw=1, color=OKABE_ITO[0])
    for outcome, (symbol, color) in OUTCOMES.items():
        marks = [(r["step"], r["level"]) for r in history.events("up", "skip") if classify_step(r) == outcome]
        kept = np.array([m for m in marks if m[0] <= trace[-1:, 0].max(initial=0)]).reshape(-1, 2)
        face = "none" if symbol == "circle-open" else color
        style = {"marker": MARKS[symbol], "color": color, "mfc": face, "ms": 4, "ls": "none"}
        ax.plot(*kept.T, **style, label=f"coarse step {outcome}" if len(kept) else None)
    ax.set_yticks(range(max(history.levels, default=0) + 1))
    ax.set_ylim(max(history.levels, default=0) + 0.4, -0.4)
    ax.set_ylabel("level")
    ax.set_title(format_label(history.name) if titled else "Cycles: the level of each step")
    ax.set_xlim(left=0)
    if ax.get_subplotspec().is_last_row():
        ax.set_xlabel("steps of the optimizer")
    if any(line.get_marker() != "None" and len(line.get_xdata()) for line in ax.lines):
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_costs(ax: Any, histories: Sequence[History], unit: str) -> None:
    """Draw the cost of each level by kind of work."""
    key, kinds = unit.lower(), [kind for kind in KINDS if kind not in ASIDE]
    rows = [(h, row) for h in histories for row in h.costs if row["kind"] in kinds]
    bars = list(dict.fromkeys((i, row["level"]) for i, h in enumerate(histories) for k, row in rows if k is h))
    left = np.zeros(len(bars))
    for j, kind in enumerate(kinds):
        spent = {(histories.index(h), row["level"]): row[key] for h, row in rows if row["kind"] == kind}
        width = np.array([spent.get(bar, 0.0) for bar in bars])
        if width.any():
            ax.barh(range(len(bars)), width, 0.7, left, color=_choose_color(j), label=kind)
            left += width
    names = [
        f"level {level}" if len(histories) == 1 else f"{format_label(histories[i].name, 20)} · {level}"
        for i, level in bars
    ]
    ax.set_yticks(range(len(bars)), names)
    ax.set_ylim(max(len(bars), 1) - 0.5, -0.5)
    ax.set_title(f"{unit[0].upper()}{unit[1:]} per level")
    ax.set_xlabel(unit)
    ax.set_xlim(0, 1.3 * left.max(initial=1e-9))
    if unit == "seconds" and bars:
        ax.legend(fontsize=8, loc="right")


def draw_tau(ax: Any, histories: Sequence[History]) -> None:
    """Draw |tau| over the restricted gradient at each evaluation of the gate."""
    for i, history in enumerate(histories):
        for level in history.levels:
            line, (color, dash) = history.tau_share(level), choose_line_style(histories, i, level)
            name = (
                f"level {level} to {level + 1}"
                if len(histories) == 1
                else f"{format_label(history.name, 20)} · {level}"
            )
            if len(line):
                ax.plot(line[:, 0], line[:, 3], ".", ls=LINES[dash], lw=1, ms=3, color=color, label=name)
    ax.set_title("|tau| over |restrict grad f|")
    ax.set_xlabel("steps of the optimizer")
    if ax.lines:
        _set_log_axis(ax)
        ax.axhline(1, lw=0.8, color=GREY)
        ax.legend(fontsize=7, ncols=2 if len(ax.lines) > 5 else 1)
    else:
        ax.text(0.5, 0.5, "no level went down", transform=ax.transAxes, ha="center", color=GREY)
        ax.set(xticks=[], yticks=[], xlabel="")


def draw_rates(ax: Any, histories: Sequence[History]) -> None:
    """Draw the learning rate of each run."""
    for i, history in enumerate(histories):
        line = history.smoothing_curve("lr")
        ax.plot(line[:, 0], line[:, 3], lw=1.2, color=_choose_color(i), label=format_label(history.name, 20))
    ax.set_title("Learning rate")
    ax.set_xlabel("steps of the optimizer")
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")
    if len(histories) > 1:
        ax.legend(fontsize=8)


def _set_log_axis(ax: Any) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _choose_color(i: int) -> str:
    """Return colour i of the palette."""
    return OKABE_ITO[i % len(OKABE_ITO)]
