"""Claim: recording both modes of a network costs less than one `torch.export`, unless it must run on real numbers.

`netgraph.trace` (two recordings and all rules) is compared with ``torch.export.export(strict=False)`` (one mode, no rules) on the same
networks. They alternate five times, after one run of each to warm up. Seconds are median, minimum and maximum.

    .venv/bin/python benchmarks/networks/recording.py
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import all_networks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import median_min_max

import netgraph as ng

RESULTS = Path(__file__).parent.parent / "results" / "recording.json"
NAMES = (
    "torchvision:resnet50",
    "torchvision:vit_b_16",
    "torchvision:densenet121",
    "torchvision:swin_t",
    "pyg:GCN",
    "pyg:GAT",
)
REPEATS = 5


def time_or_error(function: Callable[[], Any]) -> float | str:
    """Return seconds on the wall, or the name of the error."""
    started = time.perf_counter()
    try:
        function()
    except Exception as error:  # a refusal is a result
        return type(error).__name__
    return time.perf_counter() - started


def spread_or_error(values: list[Any]) -> Any:
    """Return median, minimum and maximum, or the name of an error."""
    if any(isinstance(v, str) for v in values):
        return next(v for v in values if isinstance(v, str))
    return [round(value, 3) for value in median_min_max(values)]


def main() -> None:
    """Run the benchmark."""
    networks, rows = dict(all_networks()), []
    for name in NAMES:
        torch.manual_seed(0)
        model, example = networks[name]()
        model.eval()
        args = example if isinstance(example, tuple) else (example,)
        traces, exports = [], []
        for repeat in range(REPEATS + 1):
            a = time_or_error(lambda m=model, x=example: ng.trace(m, x))
            b = time_or_error(lambda m=model, x=args: torch.export.export(m, x, strict=False))
            if repeat:
                traces.append(a)
                exports.append(b)
        rows.append({"name": name, "trace": spread_or_error(traces), "export": spread_or_error(exports)})
        print(json.dumps(rows[-1]), flush=True)
    machine = {
        "machine": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": 0,
    }
    RESULTS.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
