"""The cost ledger: seconds and FLOPs of a run by level and by kind of work."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from netgraph.fas.saved_state import reading_state

KINDS = (
    "smooth", "load", "variance", "tau", "search", "transfer", "statistics", "probe", "match", "norm", "compile", "evaluate", "callbacks",
)  # fmt: skip
ASIDE = ("compile", "evaluate", "callbacks")  # not counted: once on a machine, or as in plain training
BACKWARD = 2  # a backward pass costs about two forward ones (Kaplan et al., arXiv:2001.08361, section 2.1)
STEP = 1 + BACKWARD  # cost of an optimizer step in forward passes


class Ledger:
    """Costs by level and kind of work, and samples by level.

    Attributes
    ----------
    seconds, flops : dict of (int, str) to float
        Costs by level, 0 being the finest, and by one of `KINDS`.
    samples : dict of int to int
        Samples that smoothing has seen, by level.

    Examples
    --------
    >>> from netgraph.fas import Ledger
    >>> ledger = Ledger()
    >>> ledger.spend(0, "smooth", 3e6)
    >>> ledger.spend(1, "smooth", 1e6)
    >>> ledger.total_flops()
    4000000.0
    >>> ledger.rows()[1]
    {'level': 1, 'kind': 'smooth', 'seconds': 0.0, 'flops': 1000000.0}
    """

    def __init__(self) -> None:
        self.seconds: dict[tuple[int, str], float] = defaultdict(float)
        self.flops: dict[tuple[int, str], float] = defaultdict(float)
        self.samples: dict[int, int] = defaultdict(int)

    @contextlib.contextmanager
    def clock(self, level: int, kind: str) -> Iterator[None]:
        """Add the seconds of a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[level, kind] += time.perf_counter() - begun

    def spend(self, level: int, kind: str, flops: float) -> None:
        """Add operations."""
        self.flops[level, kind] += flops

    def total_seconds(self) -> float:
        """Return the seconds of all kinds but compiling kernels, evaluation and callbacks."""
        return sum(s for (_, kind), s in self.seconds.items() if kind not in ASIDE)

    def total_flops(self) -> float:
        """Return the operations of all kinds but evaluation."""
        return sum(f for (_, kind), f in self.flops.items() if kind != "evaluate")

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each level and kind with a cost."""
        keys = sorted({*self.seconds, *self.flops}, key=lambda key: (key[0], KINDS.index(key[1])))
        return [
            {"level": level, "kind": kind, "seconds": self.seconds[level, kind], "flops": self.flops[level, kind]}
            for level, kind in keys
        ]

    def __str__(self) -> str:
        lines = [f"{'level':>5}  {'spent on':<10} {'seconds':>9} {'FLOPs':>10}"]
        lines += [f"{r['level']:>5}  {r['kind']:<10} {r['seconds']:>9.2f} {r['flops']:>10.3g}" for r in self.rows()]
        aside = sum(self.seconds.values()) - self.total_seconds()
        left_out = f"; compiling, evaluation and callbacks, {aside:.2f} s, not counted" if aside else ""
        return "\n".join([*lines, f"total  {self.total_seconds():.2f} s, {self.total_flops():.3g} FLOPs{left_out}"])

    def state_dict(self) -> dict[str, Any]:
        """Return all costs as data for JSON."""
        return {"rows": self.rows(), "samples": {str(level): n for level, n in self.samples.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the costs that `state_dict` returned."""
        with reading_state("a ledger"):
            for row in state["rows"]:
                self.seconds[row["level"], row["kind"]] = row["seconds"]
                self.flops[row["level"], row["kind"]] = row["flops"]
            for level, n in state["samples"].items():
                self.samples[int(level)] = n
