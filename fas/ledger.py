"""The cost ledger: seconds and FLOPs of a run by level and by what they were spent on."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

KINDS = (
    "smooth", "load", "tau", "search", "transfer", "statistics", "match", "norm", "compile", "evaluate", "callbacks",
)  # fmt: skip
ASIDE = ("compile", "evaluate", "callbacks")  # once on a machine, and what plain training has as well: not counted
BACKWARD = 2  # a backward pass costs about two forward ones (Kaplan et al., arXiv:2001.08361, section 2.1)
STEP = 1 + BACKWARD  # forward passes that an optimizer step costs


class Ledger:
    """Costs by (level, kind), and samples by level."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[int, str], float] = defaultdict(float)
        self.flops: dict[tuple[int, str], float] = defaultdict(float)
        self.samples: dict[int, int] = defaultdict(int)

    @contextlib.contextmanager
    def clock(self, level: int, kind: str) -> Iterator[None]:
        """Count the seconds of a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[level, kind] += time.perf_counter() - begun

    def spend(self, level: int, kind: str, flops: float) -> None:
        """Count operations."""
        self.flops[level, kind] += flops

    def total_seconds(self) -> float:
        """Seconds of everything but compiling kernels, evaluation and callbacks."""
        return sum(s for (_, kind), s in self.seconds.items() if kind not in ASIDE)

    def total_flops(self) -> float:
        """Operations of everything but evaluation."""
        return sum(f for (_, kind), f in self.flops.items() if kind != "evaluate")

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each level and kind that cost something."""
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
        """Return everything as data for JSON."""
        return {"rows": self.rows(), "samples": {str(level): n for level, n in self.samples.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for row in state["rows"]:
            self.seconds[row["level"], row["kind"]] = row["seconds"]
            self.flops[row["level"], row["kind"]] = row["flops"]
        for level, n in state["samples"].items():
            self.samples[int(level)] = n
