"""What a training run came to, as text and as data."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import typer


def print_hierarchy(hierarchy: Any, as_json: bool) -> None:
    from netgraph.coarsen.hierarchy.report import (
        build_report,
        describe_level,
        describe_missed_ratios,
        find_missed_ratios,
        measure_coverage,
    )

    if as_json:
        typer.echo(json.dumps(build_report(hierarchy), indent=1))
        return
    share, why = measure_coverage(hierarchy)
    typer.echo(str(hierarchy))
    for i, level in enumerate(hierarchy.levels):
        for line in [*describe_level(level), *describe_missed_ratios(find_missed_ratios(hierarchy, i))]:
            typer.echo(f"level {i}: {line}")
    typer.echo(f"{share:.1%} of the parameters have a merged dimension")
    for reason, part in why[:5]:
        typer.echo(f"  {part:.1%} kept: {reason}")
    warn_of_shortfalls(hierarchy)


def warn_of_shortfalls(hierarchy: Any) -> None:
    """Say on stderr what was asked for and could not be had: levels, and multiples of units."""
    from netgraph.coarsen.hierarchy.report import describe_missing_levels

    multiple = hierarchy.options["round_to"]
    if said := describe_missing_levels(hierarchy):
        typer.echo(f"netgraph: {said}", err=True)
    uneven = dict.fromkeys(
        name for level in hierarchy.levels for name, t in level.transfers.items() if t.n_coarse % multiple
    )
    if uneven:
        names = ", ".join(list(uneven)[:5]) + f" and {len(uneven) - 5} more" * (len(uneven) > 5)
        typer.echo(
            f"netgraph: no multiple of {multiple} units on {names}: too few units, or no divisor of theirs is one",
            err=True,
        )


def warn_of_left_out_directions(hierarchy: Any) -> None:
    """Say on stderr which directions and levels were asked for and are not there, and why."""
    from netgraph.coarsen.hierarchy.report import describe_missing_levels, describe_unable_directions

    for i, level in enumerate(hierarchy.levels):
        for line in describe_unable_directions(level):
            typer.echo(f"netgraph: level {i}: {line}", err=True)
    if said := describe_missing_levels(hierarchy):
        typer.echo(f"netgraph: {said}", err=True)


def format_outcome(task: Any, hierarchy: Any, solution: Any, judgement: Any, cycle: str) -> str:
    """Return the table of levels, the costs, what became of coarse steps, the reason and the figures."""
    measured = judgement
    lines = [
        str(hierarchy),
        "",
        str(solution.ledger),
        *_format_coarse_steps(solution, cycle, len(hierarchy.levels)),
        "",
    ]
    lines.append(f"{'converged' if solution.converged else 'ended'}: {solution.reason}")
    figures = f"test accuracy {measured.accuracy:.2%}, loss {measured.loss:.4f}"
    if measured.calibration_error is not None:
        figures += f", expected calibration error {measured.calibration_error:.4f}"
    else:
        figures += f", perplexity {math.exp(min(measured.loss, 700)):.4g}"
    lines.append(figures + (" (of the running mean)" if solution.mean is not None else ""))
    if measured.confusion is not None:
        lines += ["", *_format_confusion(task.data.classes, measured.confusion)]
    return "\n".join(lines)


def describe_run(task: Any, hierarchy: Any, settings: Any) -> dict[str, Any]:
    """Return what a run is of, as data for JSON; of the settings those that were given."""
    from netgraph.coarsen.hierarchy.report import build_report
    from netgraph.fas.monitoring.run_file import to_json_data

    given = {name: value for name, value in asdict(settings).items() if value not in (None, "", False)}
    found: dict[str, Any] = to_json_data(
        {
            "network": task.name,
            "data": task.data.name,
            "classes": list(task.data.classes),
            "settings": given,
            "hierarchy": build_report(hierarchy),
        }
    )
    return found


def run_document(about: dict[str, Any], run: Any, judgement: Any = None) -> dict[str, Any]:
    """Return the same as data for JSON, with the whole history; what is no finite number is null.

    Parameters
    ----------
    about : dict
        From `describe_run`.
    run : Solution or Run
    judgement : Judgement, optional
        Of the network as it is now.
    """
    from netgraph.fas.monitoring.run_file import to_json_data

    found: dict[str, Any] = to_json_data(
        {
            **about,
            "test": None if judgement is None else judgement.document(),
            "reason": run.reason,
            "converged": run.converged,
            "seconds": run.ledger.total_seconds(),
            "flops": run.ledger.total_flops(),
            "ledger": run.ledger.state_dict(),
            "history": run.history,
        }
    )
    return found


def _format_coarse_steps(solution: Any, cycle: str, n_levels: int) -> list[str]:
    """Say how many coarse steps were taken: a gate that never opens is no silent one."""
    skipped, ups = solution.events("skip"), solution.events("up")
    if not skipped and not ups:
        return ["coarse steps: none; the run is shorter than one cycle"] if cycle != "kaskade" and n_levels > 1 else []
    taken = sum(record["length"] > 0 for record in ups)
    text = f"coarse steps: {taken} corrections taken, {len(ups) - taken} rejected, {len(skipped)} not begun"
    why = Counter(record["why"] for record in skipped if "rest" not in record["why"])
    return [text, *(f"  last not begun: {reason}" for reason in list(why)[-1:])]


def _format_confusion(classes: tuple[str, ...], confusion: Any) -> list[str]:
    width = max(5, *(len(name) for name in classes))
    cell = max(5, *(len(str(int(n))) + 1 for n in confusion.flatten()))
    head = " " * width + "".join(f"{name[: cell - 1]:>{cell}}" for name in classes)
    rows = [
        f"{name:<{width}}" + "".join(f"{int(n):>{cell}}" for n in row)
        for name, row in zip(classes, confusion, strict=True)
    ]
    return ["confusion (rows: the class, columns: what it was taken for)", head, *rows]
