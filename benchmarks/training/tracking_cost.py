"""Claim: tracking a run in MLflow costs training at most 2 %, even if the store is new or a server is down.

V-cycles on scikit-learn's digits, whose steps take half a millisecond, with a record of smoothing every 50 steps (``--every 1``: every
step). Measured is the share of the run's seconds spent in callbacks after set-up, which is the only place where training could wait. The
cases are no tracking, a new sqlite store, the same store again, a server that refuses, and a server that never answers. Also measured
are the processor time of the process with its threads, and the wait at the end of the run.

    python benchmarks/training/tracking_cost.py           # results in benchmarks/results/tracking_cost.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import netgraph as ng
from netgraph.fas.monitoring.mlflow_tracking import MLflow
from netgraph.models.data.datasets import load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.perceptron import mlp

RESULTS = Path(__file__).resolve().parent.parent / "results" / "tracking_cost.json"
EPOCHS = 60


def run(uri: str | None, every: int) -> dict[str, float]:
    """Train once, and return seconds of training, of callbacks before the end, and of the wait at the end."""
    data = load_dataset("digits").flat()
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(mlp((64, 128, 64, 10)), data.train.inputs[:2], n_levels=2)
    problem = ng.Problem(Loader(data, 64), functional.cross_entropy)
    tracker = [] if uri is None else [MLflow("cost", timeout=2.0)]
    if uri is not None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    begun, used = time.perf_counter(), time.process_time()
    solver = ng.FAS("v", torch.optim.Adam, 4e-3, epochs=EPOCHS)
    marks: dict[str, tuple[float, float]] = {}

    def watch(run: Any, record: Any) -> None:
        seconds = sum(s for (_, kind), s in run.ledger.seconds.items() if kind == "callbacks")
        marks.setdefault(record["event"], (time.perf_counter(), seconds))

    solver.solve(hierarchy, problem, callbacks=[watch, *tracker], every=every)
    total, waited = time.perf_counter() - begun, time.perf_counter() - marks["finish"][0]
    first = min(marks[event] for event in marks if event != "begin")[1]
    callbacks = marks["finish"][1] - first
    return {"seconds": total - waited, "set-up": first, "callbacks": callbacks, "share": callbacks / (total - waited),
            "waited at the end": waited, "processor": time.process_time() - used}  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    silent = socket.create_server(("127.0.0.1", 0))  # accepts connections and never answers
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        stores: dict[str, str | None] = {
            "none": None,
            "a new sqlite store": f"sqlite:///{folder}/mlflow.db",
            "the same again": f"sqlite:///{folder}/mlflow.db",
            "a server that refuses": f"http://127.0.0.1:{refusing}",
            "a server that never answers": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        runs: dict[str, Any] = {}
        for name, uri in stores.items():
            runs[name] = run(uri, options.every)
            print(name, runs[name], flush=True)
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1}
    RESULTS.write_text(json.dumps({**machine, "every": options.every, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
