"""What a run told, ready to be looked at: curves, the trace of its cycles, coarse steps and costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netgraph.fas.solver.solution import Solution

Curve = NDArray[np.float64]
Record = Mapping[str, Any]


class CoarseSteps(NamedTuple):
    """What became of one level's coarse steps, and why those were not begun that were not."""

    taken: int
    rejected: int
    not_begun: int
    why: dict[str, int]


@dataclass(frozen=True)
class History:
    """A run to look at.

    Parameters
    ----------
    name : str
    records : sequence of dict
        One for each event (docs/fas.md).
    costs : sequence of dict
        Rows of the ledger: level, kind, seconds, flops; empty where nobody kept them.
    facts : dict
        What else is known: ``network``, ``data``, ``settings``, ``test``, ``reason``.
    """

    name: str
    records: Sequence[Record]
    costs: Sequence[Record] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, solution: Solution, name: str = "run", **facts: Any) -> History:
        """Return what a solution holds."""
        return cls(name, solution.history, solution.ledger.rows(), {"reason": solution.reason, **facts})

    @property
    def levels(self) -> list[int]:
        """Levels that were smoothed, finest first."""
        return sorted({record["level"] for record in self.events("smooth")})

    def events(self, *kinds: str) -> list[Record]:
        """Return the records of some kinds, in their order."""
        return [record for record in self.records if record["event"] in kinds]

    def smoothing_curve(self, what: str, level: int | None = None) -> Curve:
        """Return ``loss`` or ``lr`` of smoothing, of one level or of all: rows of (step, seconds, FLOPs, value)."""
        return _build_curve((r, r.get(what)) for r in self.events("smooth") if level in (None, r["level"]))

    def evaluation_curve(self, figure: str) -> Curve:
        """Return a figure of the evaluations, on the finest level reached: rows of (step, seconds, FLOPs, value)."""
        return _build_curve((r, r["figures"].get(figure)) for r in self.events("evaluate"))

    def losses(self) -> Curve:
        """Return what runs are compared by: the loss of the evaluations, else that of smoothing the finest level."""
        found = self.evaluation_curve("loss")
        return found if len(found) or not self.levels else self.smoothing_curve("loss", self.levels[0])

    def tau_share(self, level: int) -> Curve:
        """Return |tau| over |restrict grad f| at each look at a level's coarse step: rows of (step, seconds, FLOPs, value)."""
        looks = [r for r in self.events("down", "skip") if r["level"] == level and (r.get("restricted") or 0) > 0]
        return _build_curve((r, None if r.get("tau") is None else r["tau"] / r["restricted"]) for r in looks)

    def trace(self) -> NDArray[np.int64]:
        """Return which level was smoothed up to which step: rows of (step, level)."""
        rows = [(r["step"], r["level"]) for r in self.events("smooth")]
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def coarse_steps(self) -> dict[int, CoarseSteps]:
        """Return what became of the coarse steps of each level that asked for one."""
        ups, skips = self.events("up"), self.events("skip")
        out = {}
        for level in sorted({r["level"] for r in (*ups, *skips)}):
            lengths = [_to_float(r.get("length")) for r in ups if r["level"] == level]
            why = Counter(_mask_numbers(str(r.get("why", ""))) for r in skips if r["level"] == level)
            taken = sum(length > 0 for length in lengths)
            out[level] = CoarseSteps(taken, len(lengths) - taken, why.total(), dict(why.most_common()))
        return out

    def cost_to_reach(self, loss: float) -> tuple[float, float] | None:
        """Return the seconds and FLOPs after which the loss was first as low as this; None where it never was."""
        curve = self.losses()
        there = np.flatnonzero(curve[:, 3] <= loss)
        return (float(curve[there[0], 1]), float(curve[there[0], 2])) if len(there) else None


def common_loss(histories: Iterable[History]) -> float | None:
    """Return the lowest loss that every run reached, at which their costs can be compared."""
    lowest = [h.losses()[:, 3].min(initial=np.inf) for h in histories]
    found = float(max(lowest, default=np.inf))
    return found if np.isfinite(found) else None


def summarize_run(history: History, loss: float | None = None) -> dict[str, Any]:
    """Return the numbers of a run that others are compared by.

    Parameters
    ----------
    history : History
    loss : float, optional
        The cost of getting there is told too.
    """
    losses, accuracy = history.losses()[:, 3], history.evaluation_curve("accuracy")[:, 3]
    last = history.records[-1]
    there = None if loss is None else history.cost_to_reach(loss)
    steps = history.coarse_steps().values()
    test = history.facts.get("test") or {}
    return {
        "run": history.name,
        "network": history.facts.get("network"),
        "data": history.facts.get("data"),
        "levels": len(history.levels),
        "steps": last["step"],
        "seconds": last["seconds"],
        "flops": last["flops"],
        "loss": _last_value(losses),
        "best_loss": _finite_or_none(losses.min(initial=np.inf)),
        "accuracy": _last_value(accuracy),
        "seconds_to_common_loss": there and there[0],
        "flops_to_common_loss": there and there[1],
        "corrections_taken": sum(s.taken for s in steps),
        "corrections_rejected": sum(s.rejected for s in steps),
        "coarse_steps_not_begun": sum(s.not_begun for s in steps),
        "test_accuracy": test.get("accuracy"),
        "test_loss": test.get("loss"),
        "reason": history.facts.get("reason"),
    }


def _build_curve(found: Iterable[tuple[Record, Any]]) -> Curve:
    """Return rows of (step, seconds, FLOPs, value), values that are none left out."""
    rows = [(r["step"], r["seconds"], r["flops"], _to_float(value)) for r, value in found]
    curve: Curve = np.array(rows, dtype=float).reshape(-1, 4)
    return curve[~np.isnan(curve[:, 3])]


def _to_float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mask_numbers(why: str) -> str:
    """Return a reason without its numbers, so that reasons can be counted."""
    return re.sub(r"\d[\d.e+-]*", "…", why)


def _last_value(values: Curve) -> float | None:
    return _finite_or_none(values[-1]) if len(values) else None


def _finite_or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
