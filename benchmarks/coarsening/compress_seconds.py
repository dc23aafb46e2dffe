"""Claim, not met yet: compress takes at most twice the time of one hierarchy with ridge, though it measures an error curve for each axis.

`netgraph.build_hierarchy` merges 0.7 of the units by Ward's method and repairs with ridge. `netgraph.compress` chooses sizes for half of the FLOPs,
merges and repairs the same way, judges the original and both stages on the same 512 rows, and measures milliseconds. Processor time of one
thread, both in turn after one run of each that warms up, so that imports and compiled kernels count for neither. Ward's trees of earlier
runs are forgotten.

    NETGRAPH_DATA=... OMP_NUM_THREADS=1 python benchmarks/coarsening/compress_seconds.py    # to benchmarks/results/compress_seconds.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import describe_machine, median_min_max

import netgraph as ng
from netgraph.coarsen.coarseners.ward import _TREES
from netgraph.models import mlp, resnet20
from netgraph.models.data.datasets import load_dataset

RESULTS = Path(__file__).parent.parent / "results" / "compress_seconds.json"
ROWS = 512
REPEATS = 3


def list_networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Return untrained networks with rows of their data. Times do not depend on the weights."""
    torch.manual_seed(0)
    digits, images = load_dataset("mnist").flat(), load_dataset("cifar10")
    return {
        "mlp 784-1024-1024-10": (mlp((784, 1024, 1024, 10)).eval(), digits.ready(digits.train.inputs[:ROWS])),
        "resnet20": (resnet20().eval(), images.ready(images.train.inputs[:ROWS])),
    }


def measure(name: str, network: nn.Module, rows: torch.Tensor) -> dict[str, Any]:
    """Return the seconds of both in turn."""
    ways: dict[str, Callable[[], object]] = {
        "hierarchy": lambda: ng.build_hierarchy(
            network, rows[:2], coarsener="ward", ratio=0.7, repair="ridge", data=rows
        ),
        "compress": lambda: ng.compress(network, rows, target="flops=0.5"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(1 + REPEATS):
        for way, run in ways.items():
            _TREES.clear()
            started = time.process_time()
            run()
            if i:
                seconds[way].append(time.process_time() - started)
    ratios = [b / a for a, b in zip(seconds["hierarchy"], seconds["compress"], strict=True)]
    row: dict[str, Any] = {way: [round(x, 2) for x in median_min_max(values)] for way, values in seconds.items()}
    return {"network": name, **row, "times as long": [round(x, 2) for x in median_min_max(ratios)]}


def main() -> None:
    """Run the benchmark."""
    torch.set_num_threads(1)
    rows = []
    for name, (network, inputs) in list_networks().items():
        rows.append(measure(name, network, inputs))
        print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
