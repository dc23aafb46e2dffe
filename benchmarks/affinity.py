"""Claim: on large axes an exact graph of nearest neighbours costs less than the matrix product of all pairs.

`netgraph.affinity.cosine` beside the whole product, made in the same blocks and threads, in turn: processor time of all
threads, ratios within a round as median, least and most.

    .venv/bin/python benchmarks/affinity.py
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netgraph.affinity import cosine
from netgraph.neighbours import BLOCK
from netgraph.shares import share, spans

RESULTS = Path(__file__).parent / "results" / "affinity.json"
ROUNDS = 3


def product(x: Any) -> None:
    """Make all blocks of x x'."""
    parts = spans(len(x), BLOCK)
    share(lambda pair: x[pair[0]] @ x[pair[1]].T, [(i, j) for i in parts for j in parts])


def row(n: int, d: int) -> dict[str, Any]:
    """Return the measurements of one size."""
    x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    rounds = []
    cosine(x[:3000])
    for _ in range(ROUNDS):
        at = [time.process_time()]
        for what in (cosine, product):
            what(x)
            at.append(time.process_time())
        rounds.append((at[1] - at[0], at[2] - at[1]))
    ratios = [a / b for a, b in rounds]
    return {
        "n": n,
        "d": d,
        "over_the_product": [round(f(ratios), 3) for f in (statistics.median, min, max)],
        "seconds": [
            round(statistics.median(a for a, _ in rounds), 3),
            round(statistics.median(b for _, b in rounds), 3),
        ],
    }


def main() -> None:
    """Run the benchmark."""
    machine = {
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("numpy", "numba", "torch")},
        "seed": 0,
        "note": "processor time of all threads; two cores shared with other work",
    }
    rows = []
    for n, d in ((768, 8192), (3072, 769), (8192, 4096), (20_000, 1000), (20_000, 2000)):
        rows.append(row(n, d))
        print(json.dumps(rows[-1]), flush=True)
        RESULTS.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
