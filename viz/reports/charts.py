"""Plotly charts of training runs: loss against cost, the trace of cycles, costs, tau, coarse steps and learning rates.

A single run has one colour for each level. Several runs have one colour each. Times are training times: they include
matching but not compilation, evaluation and callbacks (`netgraph.fas.ledger`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from netgraph.environment.optional_packages import import_package
from netgraph.fas.ledger import ASIDE, KINDS
from netgraph.fas.monitoring.history import Curve, History
from netgraph.utils.text import shorten
from netgraph.viz.figures.drawing import GREY, OKABE_ITO

INK, MARKED = "#222222", "lines+markers"
OUTCOMES = {"taken": ("triangle-up", OKABE_ITO[2]), "rejected": ("x", OKABE_ITO[3]), "not begun": ("circle-open", GREY)}
DASHES = ("solid", "dash", "dot", "dashdot")
MAX_POINTS = 5000  # most points of a line, above which it is thinned
MAX_VISITS = 2000  # most visits of a trace, of which the first are drawn
MISSING = "the report needs plotly, which is not installed. Run pip install 'netgraph-coarsening[report]'"


def import_plotly() -> Any:
    """Return ``plotly.graph_objects``.

    Raises
    ------
    NetgraphError
        plotly is not installed.
    """
    return import_package("plotly.graph_objects", "a report")


def escape_label(name: str, length: int = 40) -> str:
    """Return a name for plotly: one line, at most ``length`` characters, with HTML escaped."""
    return escape(shorten(name, length), quote=False)


def draw_loss(histories: Sequence[History], against: str) -> Any:
    """Draw the validation loss against ``seconds`` or ``flops``. A single run also shows the training loss of each level."""
    column = 1 if against == "seconds" else 2
    figure = import_plotly().Figure()
    if len(histories) == 1:
        for level in histories[0].levels:
            line, color = _thin_curve(histories[0].smoothing_curve("loss", level)), OKABE_ITO[level % len(OKABE_ITO)]
            _add_line(figure, line[:, column], line[:, 3], f"training, level {level}", color, "solid", width=1.3)
        measured = _thin_curve(histories[0].evaluation_curve("loss"))
        _add_line(figure, measured[:, column], measured[:, 3], "validation", INK, "solid", width=2.2, mode=MARKED)
    for i, history in enumerate(histories if len(histories) > 1 else ()):
        line, color = _thin_curve(history.losses()), OKABE_ITO[i % len(OKABE_ITO)]
        _add_line(figure, line[:, column], line[:, 3], escape_label(history.name), color, "solid", width=2, mode=MARKED)
    unit = "seconds of training" if against == "seconds" else "FLOPs of training"
    return _set_titles(figure, unit, "loss", log_y=all(value > 0 for trace in figure.data for value in trace.y))


def draw_accuracy(histories: Sequence[History]) -> Any:
    """Draw the accuracy of the evaluations against seconds. Return None if there is none."""
    figure = import_plotly().Figure()
    for i, history in enumerate(histories):
        curve = _thin_curve(history.evaluation_curve("accuracy"))
        if len(curve):
            name, color = escape_label(history.name), OKABE_ITO[i % len(OKABE_ITO)]
            _add_line(figure, curve[:, 1], curve[:, 3], name, color, "solid", width=2.2, mode=MARKED)
    _set_titles(figure, "seconds of training", "accuracy").update_yaxes(tickformat=".1%")
    return figure if figure.data else None


def draw_trace(histories: Sequence[History]) -> Any:
    """Draw the level of every step, level 0 on top, so that V- and W-cycles show. Markers give the outcome of coarse steps."""
    import_plotly()
    from plotly.subplots import make_subplots

    n = len(histories)
    titles = [escape_label(h.name) for h in histories] if n > 1 else None
    figure = make_subplots(rows=n, cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.35 / max(n, 2))
    for i, history in enumerate(histories):
        _add_trace(figure, history, i)
    deepest = max((max(h.levels, default=0) for h in histories), default=0)
    _set_titles(figure, "", "level").update_yaxes(tickvals=list(range(deepest + 1)), range=[deepest + 0.4, -0.4])
    figure.update_xaxes(title_text="steps of the optimizer", row=n)
    figure.update_annotations(font_size=12, xanchor="left", x=0)
    return figure.update_layout(height=110 + 170 * n if n > 1 else 300)


def _add_trace(figure: Any, history: History, i: int) -> None:
    """Draw the trace of one run in row i."""
    trace = history.trace()[:MAX_VISITS]
    if not len(trace):
        return
    steps, levels = np.r_[0, trace[:, 0]], np.r_[trace[0, 1], trace[:, 1]]
    line = {"color": OKABE_ITO[0], "width": 1.6, "shape": "vh"}
    place = {"row": i + 1, "col": 1, "showlegend": i == 0}
    figure.add_scatter(x=steps, y=levels, mode="lines", name="level at work", legendgroup="line", line=line, **place)
    for outcome, (symbol, color) in OUTCOMES.items():
        marks = [(r["step"], r["level"]) for r in history.events("up", "skip") if classify_step(r) == outcome]
        x, y = np.array([mark for mark in marks if mark[0] <= steps[-1]]).reshape(-1, 2).T
        marker = {"symbol": symbol, "size": 9, "color": color, "line": {"width": 1.5, "color": color}}
        named = {"name": f"coarse step {outcome}", "legendgroup": outcome, "mode": "markers", "marker": marker}
        figure.add_scatter(x=x, y=y, **named, **place)


def draw_costs(histories: Sequence[History], unit: str) -> Any:
    """Draw ``seconds`` or ``flops`` of each run and level by kind of work. Return None if no costs were recorded."""
    go = import_plotly()
    figure = go.Figure()
    rows = [(h, row) for h in histories for row in h.costs if row["kind"] not in ASIDE]
    for j, kind in enumerate(k for k in KINDS if k not in ASIDE):
        bars = [
            (_make_line_name(histories, h, f"level {row['level']}"), row[unit])
            for h, row in rows
            if row["kind"] == kind
        ]
        if any(value for _, value in bars):
            bar = {"marker": {"color": OKABE_ITO[j % len(OKABE_ITO)]}, "orientation": "h", "name": kind}
            figure.add_trace(go.Bar(y=[name for name, _ in bars], x=[value for _, value in bars], **bar))
    order = list(dict.fromkeys(_make_line_name(histories, h, f"level {row['level']}") for h, row in rows))
    title = "seconds" if unit == "seconds" else "FLOPs"
    _set_titles(figure, title, "").update_yaxes(categoryorder="array", categoryarray=order[::-1], showgrid=False)
    figure.update_layout(barmode="stack", height=_bars_height(len(order)))
    return figure if figure.data else None


def draw_tau(histories: Sequence[History]) -> Any:
    """Draw |tau| over |restrict grad f| at each evaluation of the gate, by level. Return None if there is none."""
    figure = import_plotly().Figure()
    for i, history in enumerate(histories):
        for level in history.levels:
            line, (color, dash) = history.tau_share(level), choose_line_style(histories, i, level)
            name = _make_line_name(histories, history, f"level {level} to {level + 1}")
            _add_line(figure, line[:, 0], line[:, 3], name, color, dash, width=1.4, mode=MARKED)
    return (
        _set_titles(figure, "steps of the optimizer", "|tau| / |restrict grad f|", log_y=True) if figure.data else None
    )


def draw_coarse_steps(histories: Sequence[History]) -> Any:
    """Draw the number of coarse steps of each level that were taken, rejected and not begun. Return None if there are none."""
    go = import_plotly()
    rows = [
        (_make_line_name(histories, h, f"level {i}"), steps) for h in histories for i, steps in h.coarse_steps().items()
    ]
    if not rows:
        return None
    figure, names = go.Figure(), [name for name, _ in rows]
    for outcome, (_, color) in OUTCOMES.items():
        values = [getattr(steps, outcome.replace(" ", "_")) for _, steps in rows]
        reasons = ["<br>".join(f"{n} × {escape_label(w, 90)}" for w, n in s.why.items()) for _, s in rows]
        hover = {"hovertext": reasons} if outcome == "not begun" else {}
        marker = {"color": color}
        figure.add_trace(go.Bar(y=names, x=values, orientation="h", name=outcome, marker=marker, **hover))
    _set_titles(figure, "coarse steps", "").update_yaxes(
        categoryorder="array", categoryarray=names[::-1], showgrid=False
    )
    return figure.update_layout(barmode="stack", height=_bars_height(len(rows)))


def draw_rates(histories: Sequence[History]) -> Any:
    """Draw the learning rate, by level for a single run."""
    figure = import_plotly().Figure()
    for i, history in enumerate(histories):
        for level in history.levels if len(histories) == 1 else [None]:
            color = OKABE_ITO[(i if level is None else level) % len(OKABE_ITO)]
            line, name = (
                _thin_curve(history.smoothing_curve("lr", level)),
                f"level {level}" if level is not None else escape_label(history.name),
            )
            _add_line(figure, line[:, 0], line[:, 3], name, color, "solid", width=1.6)
    return _set_titles(figure, "steps of the optimizer", "learning rate")


CHARTS: tuple[tuple[str, str, Callable[[Sequence[History]], Any]], ...] = (
    ("Loss against time", "On the validation split, on the finest level reached. A single run also shows the training loss of each level.", lambda h: draw_loss(h, "seconds")),
    ("Loss against FLOPs", "The same against the number of operations.", lambda h: draw_loss(h, "flops")),
    ("Accuracy", "On the validation split, on the finest level reached.", draw_accuracy),
    ("Learning rates", "As set by the schedule.", draw_rates),
    ("Cycles", "The level of every step, the finest on top. Coarse steps taken are triangles, rejected ones crosses, and those not begun rings.", draw_trace),
    ("Time per level", "Seconds of each level by kind of work, without evaluation.", lambda h: draw_costs(h, "seconds")),
    ("FLOPs per level", "Operations of each level by kind of work.", lambda h: draw_costs(h, "flops")),
    ("Tau", "The norm of tau over that of the restricted gradient, each time a coarse step is considered. Above 1, tau dominates.", draw_tau),
    ("Coarse steps", "Taken, rejected by the line search, and not begun because a gate was closed. Hover for the reasons.", draw_coarse_steps),
)  # fmt: skip


def choose_line_style(histories: Sequence[History], i: int, level: int) -> tuple[str, str]:
    """Return colour and dash of the line of a level in run i."""
    if len(histories) == 1:
        return OKABE_ITO[level % len(OKABE_ITO)], "solid"
    return OKABE_ITO[i % len(OKABE_ITO)], DASHES[level % len(DASHES)]


def _make_line_name(histories: Sequence[History], history: History, text: str) -> str:
    """Return the legend entry of a line, with the name of its run if there are several."""
    return f"{escape_label(history.name)} · {text}" if len(histories) > 1 else text


def _thin_curve(curve: Curve) -> Curve:
    """Return at most `MAX_POINTS` rows, including the first and the last."""
    if len(curve) <= MAX_POINTS:
        return curve
    kept: Curve = curve[np.linspace(0, len(curve) - 1, MAX_POINTS).round().astype(int)]
    return kept


def _add_line(
    figure: Any, x: Curve, y: Curve, name: str, color: str, dash: str, *, width: float, mode: str = "lines",
) -> None:  # fmt: skip
    """Add a line to a figure unless it is empty."""
    if len(x):
        line = {"color": color, "dash": dash, "width": width}
        trace = {"x": x.tolist(), "y": y.tolist(), "mode": mode, "name": name, "line": line}
        figure.add_trace(import_plotly().Scatter(**trace, marker={"size": 4, "color": color}))


def _set_titles(figure: Any, x: str, y: str, *, log_y: bool = False) -> Any:
    """Set the titles of both axes."""
    figure.update_xaxes(title_text=x, rangemode="tozero")
    figure.update_yaxes(title_text=y, **(_make_log_axis(figure) if log_y else {}))
    return figure


def _make_log_axis(figure: Any) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at 1, 2 and 5. A narrow range may contain none of these and has default ticks."""
    values = [y for trace in figure.data for y in trace.y or () if y is not None and y > 0]
    wide = bool(values) and max(values) >= 5 * min(values)
    return {"type": "log", "tickformat": "~g", **({"dtick": "D2"} if wide else {})}


def _bars_height(n: int) -> int:
    """Return the height of a chart of n bars in pixels."""
    return max(220, 110 + 30 * n)


def classify_step(record: Mapping[str, Any]) -> str:
    """Return the outcome of a coarse step from its ``up`` or ``skip`` record."""
    if record["event"] == "skip":
        return "not begun"
    return "taken" if (record.get("length") or 0) > 0 else "rejected"
