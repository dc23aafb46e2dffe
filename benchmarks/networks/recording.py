"""Claim: recording both modes of a network costs less than one `torch.export`, unless it must run on real numbers.

`netgraph.trace` (two recordings, all rules) beside ``torch.export.export(strict=False)`` (one mode, no rules) on the
same networks, alternating, five times each after one of each to warm up: median seconds, least and most.

    .venv/bin/python benchmarks/networks/recording.py
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import all_networks

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


def time_call(what: Callable[[], Any]) -> float | str:
    """Return seconds, or the name of the error."""
    started = time.perf_counter()
    try:
        what()
    except Exception as error:  # a refusal is a result
        return type(error).__name__
    return time.perf_counter() - started


def spread(values: list[Any]) -> Any:
    """Return median, least and most; the error's name where there is one."""
    if any(isinstance(v, str) for v in values):
        return next(v for v in values if isinstance(v, str))
    return [round(f(values), 3) for f in (statistics.median, min, max)]


def main() -> None:
    """Run the benchmark."""
    networks, rows = dict(all_networks()), []
    for name in NAMES:
        torch.manual_seed(0)
        model, example = networks[name]()
        model.eval()
        args = example if isinstance(example, tuple) else (example,)
        mine, theirs = [], []
        for repeat in range(REPEATS + 1):
            a = time_call(lambda m=model, x=example: ng.trace(m, x))
            b = time_call(lambda m=model, x=args: torch.export.export(m, x, strict=False))
            if repeat:
                mine.append(a)
                theirs.append(b)
        rows.append({"name": name, "trace": spread(mine), "export": spread(theirs)})
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
