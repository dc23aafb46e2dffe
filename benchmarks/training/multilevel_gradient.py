"""Claim: variances of gradients say beforehand that levels in space do not make them cheaper for restoration, and they do early in classification.

Real CIFAR-10. ``--variances`` trains plainly and prints the best plan of levels at some steps, for classification by a network without batch
norms, and for the restoration of `benchmarks/training/restoration.py` (denoising, the residual network), each on levels of 8, 16 and 32
pixels. Without it the methods below are trained with seed 100, at one rate for each task, and their rows go to
benchmarks/results/multilevel_gradient.jsonl. The cost of a method is counted in plain steps of 64 images, measuring included.

    NETGRAPH_DATA=... python benchmarks/training/multilevel_gradient.py --variances
    NETGRAPH_DATA=... python benchmarks/training/multilevel_gradient.py
    python benchmarks/training/multilevel_gradient.py --report
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import describe_machine, read_rows, run_missing

import netgraph as ng
from netgraph.fas.integrations.gradient_estimate import estimate_gradient
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Estimate, Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.run import Run
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.datasets import Dataset, DataSplit, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.training.evaluation import evaluate
from netgraph.models.training.restoration import evaluate_restoration
from netgraph.models.training.tasks import make_task

RESULTS = Path(__file__).parent.parent / "results" / "multilevel_gradient.jsonl"
SEED = 100
RATES = {"classification": 2e-3, "restoration": 4e-3}
BATCH = 64
KEY = ("task", "method", "seed", "lr")


@dataclass(frozen=True)
class Method:
    """Steps on each level, finest first, images of a minibatch, and the estimate of the finest level's gradient."""

    steps: tuple[int, int, int]
    batch: int = BATCH
    estimate: Estimate = field(default_factory=Estimate)


METHODS = {
    ("classification", "plain"): Method((400, 0, 0)),
    ("classification", "plain, batches of 22"): Method((1160, 0, 0), batch=22),
    ("classification", "multilevel, 0.35 of a step"): Method((1120, 0, 0), estimate=Estimate("multilevel", cost=0.35)),
    ("restoration", "plain, batches of 22"): Method((1500, 0, 0), batch=22),
    ("restoration", "multilevel, 0.35 of a step"): Method((1500, 0, 0), estimate=Estimate("multilevel", cost=0.35)),
    ("restoration", "nested iteration, finest multifidelity, 0.5 of a step"): Method(
        (600, 750, 1500), estimate=Estimate("multifidelity", cost=0.5)
    ),
}


def make_restoration(seed: int, batch: int) -> tuple[Any, Problem, ng.Hierarchy]:
    """Return the task of denoising, its problem and its levels."""
    task = make_task("residual", load_dataset("cifar10"), goal="denoise", seed=seed)
    loader = Loader(task.data, batch, degradation=task.degradation, seed=seed)
    hierarchy = ng.build_hierarchy(task.network, task.example, n_levels=3, directions="space")
    return task, Problem(loader, functional.mse_loss, restrict=task.degradation.restrict), hierarchy


def make_classification(seed: int, batch: int) -> tuple[Dataset, Problem, ng.Hierarchy]:
    """Return the data of classification, its problem, and levels of a network without batch norms."""
    torch.manual_seed(seed)
    convolutions = [
        layer for a, b in pairwise((3, 16, 16, 32, 32)) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())
    ]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    data = load_dataset("cifar10")
    loader = Loader(data, batch, seed=seed)
    hierarchy = ng.build_hierarchy(model, next(iter(loader))[0][:2], n_levels=3, directions="space")
    return data, Problem(loader, functional.cross_entropy), hierarchy


def train_once(task: str, name: str, seed: int, lr: float) -> dict[str, Any]:
    """Train once, and return a row of results."""
    method = METHODS[task, name]
    make = make_classification if task == "classification" else make_restoration
    subject, problem, hierarchy = make(seed, method.batch)
    levels = {0: {f"estimate.{key}": value for key, value in vars(method.estimate).items()}}
    solver = FAS(
        "kaskade", torch.optim.Adam, lr, epochs=sum(method.steps) / len(problem.batches), share=method.steps, schedule="wsd",
        options=Options(Smoothing(bf16=task == "restoration"), levels=levels), seed=seed,
    )  # fmt: skip
    begun = time.thread_time()
    solution = solver.solve(hierarchy, problem)
    seconds = time.thread_time() - begun
    data = subject if task == "classification" else subject.data
    part = replace(data, test=DataSplit(data.test.inputs[:2000], data.test.targets[:2000]))
    network = hierarchy.levels[0].model
    quality = (
        evaluate(network, part)
        if task == "classification"
        else evaluate_restoration(network, part, subject.degradation)
    )
    plans = [(record["step"], record["levels"], record["sizes"]) for record in solution.events("estimate")]
    step = STEP * BATCH * HierarchyMaps(hierarchy).flops[0]
    return {
        "task": task, "method": name, "seed": seed, "lr": lr, "steps": method.steps, "seconds": seconds,
        "plain steps": solution.flops / step, **quality.figures(), "plans": plans, "ledger": solution.ledger.rows(),
    }  # fmt: skip


def print_variances(name: str, problem: Problem, hierarchy: ng.Hierarchy, steps: int, every: int) -> None:
    """Train plainly, and print the best plan of both kinds at the start and every some steps."""

    def show(run: Run, record: dict[str, Any]) -> None:
        if record["event"] not in ("begin", "smooth") or run.steps % every:
            return
        for kind in ("multilevel", "multifidelity"):
            estimate = estimate_gradient(hierarchy, problem, options=Estimate(kind, pilot=64), seed=SEED)
            print(
                f"{name}, step {run.steps}, loss {record.get('loss', float('nan')):.4f}\n{estimate.report}", flush=True
            )

    solver = FAS(
        "kaskade", torch.optim.Adam, RATES[name], epochs=steps / len(problem.batches), share=(1, 0, 0),
        schedule="constant", seed=SEED,
    )  # fmt: skip
    solver.solve(hierarchy, problem, callbacks=[show], every=every)


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = [
        "| task | method | steps, finest first | cost in plain steps | test loss | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        steps = ", ".join(f"{n:,}" for n in row["steps"] if n)
        figures = f"{row['plain steps']:.0f} | {row['loss']:.4g} | {row['seconds']:.0f} |"
        lines.append(f"| {row['task']} | {row['method']} | {steps} | {figures}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variances", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--only", nargs="*", help="only methods whose task and name contain one of these words")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.report:
        print(format_report(read_rows(options.out)))
    elif options.variances:
        print_variances("classification", *make_classification(SEED, BATCH)[1:], steps=200, every=100)
        print_variances("restoration", *make_restoration(SEED, BATCH)[1:], steps=60, every=60)
    else:
        calls = []
        for task, name in METHODS:
            if not options.only or any(word in f"{task}: {name}" for word in options.only):
                key = {"task": task, "method": name, "seed": SEED, "lr": RATES[task]}
                calls.append((key, partial(train_once, *key.values())))
        for row in run_missing(options.out, KEY, calls, describe_machine()):
            print(f"{row['task']}, {row['method']}: {row['loss']:.5g}, {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
