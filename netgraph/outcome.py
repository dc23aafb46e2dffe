"""What a training run came to, as text and as data."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any


def outcome(task: Any, hierarchy: Any, solution: Any, judgement: Any, cycle: str) -> str:
    """Return the table of levels, the costs, what became of coarse steps, the reason and the figures."""
    measured = judgement
    lines = [str(hierarchy), "", str(solution.ledger), *_coarse_steps(solution, cycle, len(hierarchy.levels)), ""]
    lines.append(f"{'converged' if solution.converged else 'ended'}: {solution.reason}")
    figures = f"test accuracy {measured.accuracy:.2%}, loss {measured.loss:.4f}"
    if measured.calibration_error is not None:
        figures += f", expected calibration error {measured.calibration_error:.4f}"
    else:
        figures += f", perplexity {math.exp(min(measured.loss, 700)):.4g}"
    lines.append(figures + (" (of the running mean)" if solution.mean is not None else ""))
    if measured.confusion is not None:
        lines += ["", *_confusion(task.data.classes, measured.confusion)]
    return "\n".join(lines)


def document(task: Any, hierarchy: Any, solution: Any, judgement: Any) -> dict[str, Any]:
    """Return the same as data for JSON, with the whole history; what is no finite number is null."""
    from netgraph.coarsen.report import report

    levels = report(hierarchy)
    found: dict[str, Any] = _plain(
        {
            "network": task.name,
            "data": task.data.name,
            "classes": list(task.data.classes),
            "hierarchy": levels,
            "test": judgement.document(),
            "reason": solution.reason,
            "converged": solution.converged,
            "seconds": solution.seconds,
            "flops": solution.flops,
            "ledger": solution.ledger.state_dict(),
            "history": solution.history,
        }
    )
    return found


def _coarse_steps(solution: Any, cycle: str, n_levels: int) -> list[str]:
    """Say how many coarse steps were taken: a gate that never opens is no silent one."""
    skipped, ups = solution.events("skip"), solution.events("up")
    if not skipped and not ups:
        return ["coarse steps: none; the run is shorter than one cycle"] if cycle != "kaskade" and n_levels > 1 else []
    taken = sum(record["length"] > 0 for record in ups)
    text = f"coarse steps: {taken} corrections taken, {len(ups) - taken} rejected, {len(skipped)} not begun"
    why = Counter(record["why"] for record in skipped if "rest" not in record["why"])
    return [text, *(f"  last not begun: {reason}" for reason in list(why)[-1:])]


def _confusion(classes: tuple[str, ...], confusion: Any) -> list[str]:
    width = max(5, *(len(name) for name in classes))
    cell = max(5, *(len(str(int(n))) + 1 for n in confusion.flatten()))
    head = " " * width + "".join(f"{name[: cell - 1]:>{cell}}" for name in classes)
    rows = [
        f"{name:<{width}}" + "".join(f"{int(n):>{cell}}" for n in row)
        for name, row in zip(classes, confusion, strict=True)
    ]
    return ["confusion (rows: the class, columns: what it was taken for)", head, *rows]


def _plain(value: Any) -> Any:
    """Return data that JSON can hold."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
