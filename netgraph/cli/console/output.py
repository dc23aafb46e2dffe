"""Output of the commands: hierarchies, warnings, and the result of a training run as text and as data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from netgraph.cli.console.terminal import echo, echo_json, echo_lines

if TYPE_CHECKING:
    from torch import Tensor

    from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
    from netgraph.fas.solver.run import Run
    from netgraph.fas.solver.solution import Solution
    from netgraph.fas.solver.train_options import TrainOptions
    from netgraph.models.training.evaluation import Evaluation
    from netgraph.models.training.operators import OperatorQuality
    from netgraph.models.training.restoration import RestorationQuality
    from netgraph.models.training.tasks import Task


def print_hierarchy(hierarchy: Hierarchy, as_json: bool) -> None:
    """Print the table of levels with its footer, or a hierarchy as JSON."""
    from netgraph.coarsen.hierarchy.report import (
        build_report,
        describe_level,
        describe_missed_ratios,
        find_missed_ratios,
        measure_coverage,
        suggest_outputs,
    )

    if as_json:
        echo_json(build_report(hierarchy))
        return
    merged_share, reasons = measure_coverage(hierarchy)
    echo_lines(str(hierarchy))
    for i, level in enumerate(hierarchy.levels):
        for line in [*describe_level(level), *describe_missed_ratios(find_missed_ratios(hierarchy, i))]:
            echo(f"level {i}: {line}")
    echo(f"{merged_share:.1%} of the parameters have a merged dimension")
    for reason, share in reasons[:5]:
        echo(f"  {share:.1%} kept: {reason}")
    for line in suggest_outputs(hierarchy, reasons):
        echo(line)
    warn_of_shortfalls(hierarchy)


def warn_of_shortfalls(hierarchy: Hierarchy) -> None:
    """Print a warning for levels, and for multiples of units, that were asked for and are missing."""
    from netgraph.coarsen.hierarchy.report import describe_missing_levels
    from netgraph.coarsen.partition.target_size import describe_uneven

    if missing := describe_missing_levels(hierarchy):
        echo(f"netgraph: {missing}", err=True)
    multiple = 1 if hierarchy.options is None else hierarchy.options.round_to
    sizes = [(name, t.n_coarse) for level in hierarchy.levels for name, t in level.transfers.items()]
    if uneven := describe_uneven(sizes, multiple):
        echo(f"netgraph: {uneven}", err=True)


def warn_of_left_out_directions(hierarchy: Hierarchy) -> None:
    """Print a warning for directions and levels that were asked for and are missing, with the reasons."""
    from netgraph.coarsen.hierarchy.report import describe_missing_levels, describe_unable_directions

    for i, level in enumerate(hierarchy.levels):
        for line in describe_unable_directions(level):
            echo(f"netgraph: level {i}: {line}", err=True)
    if missing := describe_missing_levels(hierarchy):
        echo(f"netgraph: {missing}", err=True)


def print_solver_options() -> None:
    """Print the options of the solver with their defaults, units and meanings."""
    from netgraph.fas.options.text import build_option_table

    for row in build_option_table():
        unit = f"({row.unit}) " if row.unit else ""
        echo(f"{row.name:<20} {row.default:<12} {unit}{row.meaning}")


def format_outcome(
    task: Task,
    hierarchy: Hierarchy,
    solution: Solution,
    evaluation: Evaluation | RestorationQuality | OperatorQuality,
    cycle: str,
) -> str:
    """Return the result of a run as text: levels, costs, coarse steps, the reason of its end, and figures."""
    lines = [
        str(hierarchy),
        "",
        str(solution.ledger),
        *_format_coarse_steps(solution, cycle, len(hierarchy.levels)),
        *solution.describe_estimates(),
        "",
    ]
    lines.append(f"{'converged' if solution.converged else 'ended'}: {solution.reason}")
    lines.append(_format_figures(evaluation) + (" (of the running mean)" if solution.mean is not None else ""))
    confusion = getattr(evaluation, "confusion", None)
    if confusion is not None:
        lines += ["", *_format_confusion(task.data.classes, confusion)]
    return "\n".join(lines)


def _format_figures(evaluation: Evaluation | RestorationQuality | OperatorQuality) -> str:
    """Return the figures of a trained network on the test split as text."""
    from netgraph.models.training.evaluation import Evaluation
    from netgraph.models.training.operators import OperatorQuality

    if isinstance(evaluation, OperatorQuality):
        return f"test relative error in L2 {evaluation.loss:.3%}, worst {evaluation.worst:.3%}"
    if not isinstance(evaluation, Evaluation):
        ssim = "" if evaluation.ssim is None else f", SSIM {evaluation.ssim:.4f}"
        return f"test PSNR {evaluation.psnr:.2f} dB{ssim}, mean squared error {evaluation.loss:.3g}"
    figures = f"test accuracy {evaluation.accuracy:.2%}, loss {evaluation.loss:.4f}"
    if evaluation.calibration_error is not None:
        return figures + f", expected calibration error {evaluation.calibration_error:.4f}"
    return figures + f", perplexity {math.exp(min(evaluation.loss, 700)):.4g}"


def describe_run(task: Task, hierarchy: Hierarchy, options: TrainOptions) -> dict[str, Any]:
    """Return network, data, options and levels of a run as data for JSON. Options with no value are left out."""
    from netgraph.coarsen.hierarchy.report import build_report
    from netgraph.fas.monitoring.run_file import to_json_data

    settings = {name: value for name, value in options.to_plain().items() if value not in (None, "", False)}
    description: dict[str, Any] = to_json_data(
        {
            "network": task.name,
            "data": task.data.name,
            "classes": list(task.data.classes),
            "settings": settings,
            "hierarchy": build_report(hierarchy),
        }
    )
    return description


def run_document(
    description: dict[str, Any],
    run: Solution | Run,
    evaluation: Evaluation | RestorationQuality | OperatorQuality | None = None,
) -> dict[str, Any]:
    """Return a run with its whole history as data for JSON. Numbers that are not finite become null.

    Parameters
    ----------
    description : dict
        From `describe_run`.
    run : Solution or Run
    evaluation : Evaluation, RestorationQuality or OperatorQuality, optional
        Figures of the network as it is now.
    """
    from netgraph.fas.monitoring.run_file import to_json_data
    from netgraph.fas.outcome import count_refused_steps

    document: dict[str, Any] = to_json_data(
        {
            **description,
            "test": None if evaluation is None else evaluation.document(),
            "reason": run.reason,
            "outcome": None if run.outcome is None else run.outcome.value,
            "refused": {outcome.value: n for outcome, n in count_refused_steps(run.history).items()},
            "converged": run.converged,
            "seconds": run.ledger.total_seconds(),
            "flops": run.ledger.total_flops(),
            "ledger": run.ledger.state_dict(),
            "history": run.history,
        }
    )
    return document


def _format_coarse_steps(solution: Solution, cycle: str, n_levels: int) -> list[str]:
    """Return the number of coarse steps as text. It shows a gate that never opens."""
    lines = solution.describe_coarse_steps()
    if lines or cycle == "kaskade" or n_levels == 1:
        return lines
    return ["coarse steps: none, the run is shorter than one cycle"]


def _format_confusion(classes: tuple[str, ...], confusion: Tensor) -> list[str]:
    """Return the confusion matrix as lines: true classes as rows, predicted classes as columns."""
    width = max(5, *(len(name) for name in classes))
    cell = max(5, *(len(str(int(n))) + 1 for n in confusion.flatten()))
    head = " " * width + "".join(f"{name[: cell - 1]:>{cell}}" for name in classes)
    rows = [
        f"{name:<{width}}" + "".join(f"{int(n):>{cell}}" for n in row)
        for name, row in zip(classes, confusion, strict=True)
    ]
    return ["confusion (rows: true class, columns: predicted class)", head, *rows]
