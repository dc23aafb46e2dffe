"""The history of a run as curves: losses, the visits of its cycles, coarse steps and costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netgraph.errors import NetgraphError
from netgraph.fas.solver.solution import Solution

Curve = NDArray[np.float64]
Record = Mapping[str, Any]


class CoarseSteps(NamedTuple):
    """Coarse steps of one level.

    Parameters
    ----------
    taken, rejected : int
        Corrections that were added, and corrections that the line search rejected.
    not_begun : int
        Coarse steps that were skipped.
    why : dict
        Number of skipped steps for each reason. Numbers in a reason are masked.
    """

    taken: int
    rejected: int
    not_begun: int
    why: dict[str, int]


NUMBERS = ("level", "step", "seconds", "flops")  # of every record
NUMBERS_OF = {"smooth": ("loss", "lr"), "up": ("length",)}  # of the records of some events
MEASURED = ("loss", "lr", "length", "tau", "restricted")  # numbers of any record that has them
COUNTS = ("level", "step")
COSTS = ("level", "seconds", "flops")
TOTALS = ("seconds", "flops")  # finite in every run


@dataclass(frozen=True)
class History:
    """The records of a run, and curves of them.

    Parameters
    ----------
    name : str
        Name of the run.
    records : sequence of dict
        One record for each event of the run.
    costs : sequence of dict, default ()
        Rows of the ledger with the keys level, kind, seconds and flops. Empty if no ledger was kept.
    facts : mapping, default {}
        Further facts: ``network``, ``data``, ``settings``, ``test``, ``reason``.

    Raises
    ------
    NetgraphError
        A record belongs to no run.

    Examples
    --------
    >>> from netgraph.fas import History
    >>> records = [
    ...     {"event": "smooth", "level": 0, "step": i, "seconds": 0.1 * i, "flops": 1e6 * i, "loss": 1 / i, "lr": 0.1}
    ...     for i in (1, 2, 4)
    ... ]
    >>> history = History("run", records)
    >>> history.losses()[:, 3].tolist()
    [1.0, 0.5, 0.25]
    >>> history.cost_to_reach(0.5)
    (0.2, 2000000.0)
    """

    name: str
    records: Sequence[Record]
    costs: Sequence[Record] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for record in self.records:
            check_record(record)
        _check_facts(self.facts)
        costs: Sequence[Any] = self.costs if isinstance(self.costs, (list, tuple)) else [self.costs]
        wrong = next(
            (row for row in costs if not _has_numbers(row, COSTS) or not isinstance(row.get("kind"), str)), None
        )
        if wrong is not None:
            raise NetgraphError(f"a row of costs belongs to no ledger ({str(wrong)[:80]}). Give rows of Ledger.rows().")

    @classmethod
    def of(cls, solution: Solution, name: str = "run", **facts: Any) -> History:
        """Return the history of a solution.

        Parameters
        ----------
        solution : Solution
            Result of `FAS.solve`.
        name : str, default "run"
            Name of the run.
        **facts
            Further facts.

        Returns
        -------
        History
            Records, costs and facts of the run.
        """
        return cls(name, solution.history, solution.ledger.rows(), {"reason": solution.reason, **facts})

    @property
    def levels(self) -> list[int]:
        """Numbers of the levels that were smoothed, finest first."""
        return sorted({record["level"] for record in self.events("smooth")})

    def events(self, *kinds: str) -> list[Record]:
        """Return the records of some kinds of events, in their order.

        Parameters
        ----------
        *kinds : str
            Events, such as ``smooth``, ``up`` or ``evaluate``.

        Returns
        -------
        list of dict
            The records.
        """
        return [record for record in self.records if record["event"] in kinds]

    def smoothing_curve(self, quantity: str, level: int | None = None) -> Curve:
        """Return the loss or the learning rate of smoothing as a curve.

        Parameters
        ----------
        quantity : str
            ``loss`` or ``lr``.
        level : int, optional
            One level. By default all levels.

        Returns
        -------
        float array of shape (n, 4)
            Rows of step, seconds, FLOPs and value.
        """
        return _build_curve((r, r.get(quantity)) for r in self.events("smooth") if level in (None, r["level"]))

    def evaluation_curve(self, figure: str) -> Curve:
        """Return a figure of the evaluations as a curve. They run on the finest level reached.

        Parameters
        ----------
        figure : str
            Name of the figure, such as ``accuracy``.

        Returns
        -------
        float array of shape (n, 4)
            Rows of step, seconds, FLOPs and value.
        """
        return _build_curve((r, r["figures"].get(figure)) for r in self.events("evaluate"))

    def losses(self) -> Curve:
        """Return the loss of the evaluations, or of smoothing on the finest level if there are none.

        Runs are compared by this curve.

        Returns
        -------
        float array of shape (n, 4)
            Rows of step, seconds, FLOPs and value.
        """
        curve = self.evaluation_curve("loss")
        return curve if len(curve) or not self.levels else self.smoothing_curve("loss", self.levels[0])

    def tau_share(self, level: int) -> Curve:
        """Return |tau| / |restrict grad f| at each coarse step, begun or skipped, as a curve.

        Parameters
        ----------
        level : int
            The fine level.

        Returns
        -------
        float array of shape (n, 4)
            Rows of step, seconds, FLOPs and value.
        """
        steps = [r for r in self.events("down", "skip") if r["level"] == level and (r.get("restricted") or 0) > 0]
        return _build_curve((r, None if r.get("tau") is None else r["tau"] / r["restricted"]) for r in steps)

    def trace(self) -> NDArray[np.int64]:
        """Return the order of visits: until which step each level was smoothed.

        Returns
        -------
        int array of shape (n, 2)
            Rows of step and level.
        """
        rows = [(r["step"], r["level"]) for r in self.events("smooth")]
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def coarse_steps(self) -> dict[int, CoarseSteps]:
        """Return the number of coarse steps that were taken, rejected and skipped on each level.

        Returns
        -------
        dict of int to CoarseSteps
            One entry for each level that considered a coarse step.
        """
        ups, skips = self.events("up"), self.events("skip")
        out = {}
        for level in sorted({r["level"] for r in (*ups, *skips)}):
            lengths = [_to_float(r.get("length")) for r in ups if r["level"] == level]
            why = Counter(_mask_numbers(str(r.get("why", ""))) for r in skips if r["level"] == level)
            taken = sum(length > 0 for length in lengths)
            out[level] = CoarseSteps(taken, len(lengths) - taken, why.total(), dict(why.most_common()))
        return out

    def cost_to_reach(self, loss: float) -> tuple[float, float] | None:
        """Return the seconds and FLOPs until the loss first fell to a value.

        Parameters
        ----------
        loss : float
            The value.

        Returns
        -------
        tuple of float, optional
            Seconds and FLOPs, None if the loss never fell so far.
        """
        curve = self.losses()
        rows = np.flatnonzero(curve[:, 3] <= loss)
        return (float(curve[rows[0], 1]), float(curve[rows[0], 2])) if len(rows) else None


def check_record(record: Mapping[str, Any], needed: Sequence[str] = NUMBERS) -> None:
    """Refuse a record without the entries of its event.

    Parameters
    ----------
    record : mapping
    needed : sequence of str, default ("level", "step", "seconds", "flops")
        Entries that the reader of any record needs.

    Raises
    ------
    NetgraphError
    """
    numbers = (*needed, *NUMBERS_OF.get(str(record.get("event")), ())) if isinstance(record, Mapping) else ()
    figures = record.get("figures") if isinstance(record, Mapping) and record.get("event") == "evaluate" else {}
    measured = [] if not numbers else [record.get(name) for name in MEASURED]
    is_figured = isinstance(figures, Mapping) and all(map(_is_number, (*figures.values(), *measured)))
    if not numbers or not isinstance(record.get("event"), str) or not _has_numbers(record, numbers) or not is_figured:
        raise NetgraphError(
            f"a record belongs to no run ({str(record)[:80]}). Give records of Solution.history, or of a file that "
            "`netgraph train --report` wrote."
        )


def _check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse facts that a report could not print."""
    test, reason = facts.get("test") or {}, facts.get("reason") or ""
    is_tested = isinstance(test, Mapping) and all(_is_number(test.get(name)) for name in ("accuracy", "loss"))
    if not is_tested or not isinstance(reason, str):
        raise NetgraphError(
            f"the facts {{'test': {str(test)[:80]}, 'reason': {str(reason)[:80]}}} belong to no run. Give the figures of the test as a "
            "dict of numbers, and the reason as text."
        )


def _has_numbers(record: Any, keys: Iterable[str]) -> bool:
    """Return True if a record has a number under each key. A file has null in place of a number that is not finite."""
    if not isinstance(record, Mapping) or not all(key in record and _is_number(record[key]) for key in keys):
        return False
    counts = [record[key] for key in keys if key in COUNTS]
    return all(type(count) is int for count in counts) and all(record[key] is not None for key in keys if key in TOTALS)


def _is_number(value: Any) -> bool:
    """Return True for a number that arrays hold, or None."""
    return value is None or (isinstance(value, Real) and (not isinstance(value, int) or abs(value) < 2**63))


def common_loss(histories: Iterable[History]) -> float | None:
    """Return the lowest loss that every run reached. Their costs are compared at this loss."""
    lowest = [h.losses()[:, 3].min(initial=np.inf) for h in histories]
    return _finite_or_none(max(lowest, default=np.inf))


def summarize_run(history: History, loss: float | None = None) -> dict[str, Any]:
    """Summarize a run by the numbers that runs are compared by.

    Parameters
    ----------
    history : History
        The run.
    loss : float, optional
        A loss. The summary then has the cost of reaching it.

    Returns
    -------
    dict
        Final and best loss, accuracy, steps, seconds, FLOPs, and counts of coarse steps. Unknown values are None.

    Raises
    ------
    NetgraphError
        The run has no records.

    Examples
    --------
    >>> from netgraph.fas import History, summarize_run
    >>> records = [
    ...     {"event": "smooth", "level": 0, "step": i, "seconds": 0.1 * i, "flops": 1e6 * i, "loss": 1 / i, "lr": 0.1}
    ...     for i in (1, 2, 4)
    ... ]
    >>> summary = summarize_run(History("run", records), loss=0.5)
    >>> summary["loss"], summary["steps"], summary["flops_to_common_loss"]
    (0.25, 4, 2000000.0)
    """
    if not history.records:
        raise NetgraphError(
            f"the run {history.name!r} has no records, because it ended before its first step. Train it again."
        )
    losses, accuracy = history.losses()[:, 3], history.evaluation_curve("accuracy")[:, 3]
    last = history.records[-1]
    cost = None if loss is None else history.cost_to_reach(loss)
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
        "seconds_to_common_loss": cost and cost[0],
        "flops_to_common_loss": cost and cost[1],
        "corrections_taken": sum(s.taken for s in steps),
        "corrections_rejected": sum(s.rejected for s in steps),
        "coarse_steps_not_begun": sum(s.not_begun for s in steps),
        "test_accuracy": test.get("accuracy"),
        "test_loss": test.get("loss"),
        "reason": history.facts.get("reason"),
    }


def _build_curve(pairs: Iterable[tuple[Record, Any]]) -> Curve:
    """Return rows of (step, seconds, FLOPs, value). Missing values are left out."""
    rows = [(r["step"], r["seconds"], r["flops"], _to_float(value)) for r, value in pairs]
    curve: Curve = np.array(rows, dtype=float).reshape(-1, 4)
    return curve[~np.isnan(curve[:, 3])]


def _to_float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mask_numbers(why: str) -> str:
    """Return a reason with masked numbers, for counting equal reasons."""
    return re.sub(r"\d[\d.e+-]*", "…", why)


def _last_value(values: Curve) -> float | None:
    return _finite_or_none(values[-1]) if len(values) else None


def _finite_or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
