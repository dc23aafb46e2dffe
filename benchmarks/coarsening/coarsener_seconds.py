"""Claim: every coarsener halves an axis of 2,048 units in seconds, with affinities of all pairs.

Every installed coarsener of netgraph on random units with 1,024 features, three times after a small axis to warm up. A row has median,
minimum and maximum of the seconds, and the size of the largest aggregate.

    .venv/bin/python benchmarks/coarsening/coarsener_seconds.py
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import median_min_max

from netgraph import plugins
from netgraph.affinity.similarity import cosine_graph
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.errors import PluginError

RESULTS = Path(__file__).parent.parent / "results" / "coarsener_seconds.json"
GROUP = "netgraph.coarseners"
UNITS, FEATURES, REPEATS = 2048, 1024, 3


def random_axis(n: int) -> AxisGraph:
    """Return an axis of random units."""
    points = np.random.default_rng(0).normal(size=(n, FEATURES)).astype(np.float32)
    return AxisGraph("random", cosine_graph(points), np.ones(n), lambda: points)


def measure_coarsener(name: str, graph: AxisGraph) -> dict[str, Any]:
    """Return one coarsener's row."""
    coarsener, seconds, aggregates = plugins.load_plugin(GROUP, name), [], np.zeros(0, dtype=int)
    try:
        coarsener(random_axis(16), 8, seed=0)
    except PluginError as error:  # a library that is not installed is a result
        return {"name": name, "refused": str(error)}
    for _ in range(REPEATS):
        started = time.perf_counter()
        aggregates = coarsener(graph, graph.n_units // 2, seed=0)
        seconds.append(time.perf_counter() - started)
    spread = [round(value, 3) for value in median_min_max(seconds)]
    return {"name": name, "seconds": spread, "largest": int(np.bincount(aggregates[aggregates >= 0]).max())}


def main() -> None:
    """Run the benchmark."""
    graph = random_axis(UNITS)
    rows = [measure_coarsener(name, graph) for name in plugins.list_plugins(GROUP)]
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "numpy": np.__version__}
    RESULTS.write_text(json.dumps({"machine": machine, "units": UNITS, "features": FEATURES, "rows": rows}, indent=1))
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
