"""Claim: a sweep builds its networks in less time than `build_hierarchy` called for each of them, where budgets choose sizes.

A sweep traces and proves a network once. It computes the graphs of an affinity once, merges once for all repairs of a ratio, and measures the error
curves of a coarsener once. Both sides build networks of the same settings on one thread, in turn: ratios 0.8, 0.6 and 0.4 by ward and heavy-edge
matching, 64 rows of data. Without a budget each is built without repair and with ridge, whose fits nothing can share. With a budget of FLOPs there is no
repair; `build_hierarchy` measures errors at seven ratios on 64 rows, the sweep at five on 32. A sweep also judges each network.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/coarsening/sweep_seconds.py
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import median_min_max

import netgraph as ng
from netgraph.coarsen import sweep
from netgraph.models import mlp, resnet20

RESULTS = Path(__file__).parent.parent / "results" / "sweep_seconds.json"
RATIOS = (0.8, 0.6, 0.4)
COARSENERS = ("ward", "hem")
REPAIRS = {"none": ("none", "ridge"), "flops": ("none",)}  # by budget
REPEATS = 3
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 784-256-256-10": (lambda: mlp((784, 256, 256, 10)), (784,)),
    "resnet20": (resnet20, (3, 32, 32)),
}


def build_each(network: nn.Module, data: torch.Tensor, budget: str) -> None:
    """Call `build_hierarchy` for each combination."""
    for coarsener, ratio, repair in product(COARSENERS, RATIOS, REPAIRS[budget]):
        size: dict[str, Any] = {"ratio": ratio} if budget == "none" else {"budget": f"{budget}={ratio}"}
        ng.build_hierarchy(network, data[:2], data=data, coarsener=coarsener, repair=repair, **size)


def build_by_sweep(network: nn.Module, data: torch.Tensor, budget: str) -> None:
    """Build the same networks by a sweep."""
    result = sweep(
        network, data, ratios=RATIOS, coarseners=COARSENERS, repairs=REPAIRS[budget], budgets=[budget], test=(data, None), latency=False
    )  # fmt: skip
    assert len(result.measured) == 1 + len(RATIOS) * len(COARSENERS) * len(REPAIRS[budget])


def measure(name: str, budget: str) -> dict[str, Any]:
    """Return the seconds of both ways in turn, after one run that warms up."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, data = make().eval(), torch.randn(64, *shape)
    seconds: dict[str, list[float]] = {"each": [], "sweep": []}
    build_by_sweep(network, data, "none")
    for _ in range(REPEATS):
        for way, build in (("each", build_each), ("sweep", build_by_sweep)):
            started = time.perf_counter()
            build(network, data, budget)
            seconds[way].append(time.perf_counter() - started)
    ratios = [each / one for each, one in zip(seconds["each"], seconds["sweep"], strict=True)]
    row: dict[str, Any] = {way: [round(x, 2) for x in median_min_max(values)] for way, values in seconds.items()}
    return {"network": name, "budget": budget, **row, "times as fast": [round(x, 2) for x in median_min_max(ratios)]}


def main() -> None:
    """Run the benchmark."""
    rows = []
    for name, budget in product(NETWORKS, ("none", "flops")):
        rows.append(measure(name, budget))
        print(rows[-1], flush=True)
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"machine": machine, "threads": torch.get_num_threads(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
