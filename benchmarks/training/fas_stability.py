"""Claim: FAS from random weights with any aggregates neither diverges nor falls behind plain training of equal cost.

scikit-learn's digits, 64-128-64-10, three levels and V-cycles, with SGD and Adam, aggregates by matching and by random pairs, 20 seeds,
and three gates: the default (such a short run takes no coarse step), the default without its limit on costs, and an open gate with the
line search alone. Plain training gets as many steps as cost the same FLOPs, and its own schedule. A run diverges if its training loss is
not finite or not below the first. It falls behind if its loss is more than 2 % (and 1e-3) above that of plain training. The
overhead of the solver over a bare loop with one level is measured too, in processor time, alternating.

    python benchmarks/training/fas_stability.py           # results in benchmarks/results/fas_stability.json
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.data.datasets import Dataset, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.perceptron import mlp

RESULTS = Path(__file__).parent.parent / "results" / "fas_stability.json"
OPTIMIZERS = {"sgd": (partial(torch.optim.SGD, momentum=0.9), 0.1), "adam": (torch.optim.Adam, 4e-3)}
GATES = {
    "default": Gate(),
    "nobody counts": Gate(share=math.inf),
    "open": Gate(math.inf, math.inf, 0.0, share=math.inf),
}
SEEDS, EPOCHS, WIDE = 20, 15, (784, 1024, 1024, 10)


def build_levels(seed: int, coarsener: str, data: Dataset) -> ng.Hierarchy:
    """Return three levels of a network with random weights."""
    torch.manual_seed(seed)
    return ng.build_hierarchy(mlp((64, 128, 64, 10)), data.train.inputs[:2], n_levels=3, coarsener=coarsener, seed=seed)


@torch.no_grad()
def training_loss(model: nn.Module, data: Dataset) -> float:
    """Return the loss on the training split."""
    return float(functional.cross_entropy(model(data.train.inputs), data.train.targets))


def train_pair(data: Dataset, gate: str, name: str, coarsener: str, seed: int) -> dict[str, Any]:
    """Return a row with the final losses of a run of cycles and of plain training of the same cost."""
    optimizer, lr = OPTIMIZERS[name]
    problem = Problem(Loader(data, 64, seed=seed), functional.cross_entropy)
    many, one = build_levels(seed, coarsener, data), build_levels(seed, coarsener, data)
    start = training_loss(one.levels[0].model, data)
    cycled = FAS("v", optimizer, lr, epochs=EPOCHS, seed=seed, options=Options(gate=GATES[gate])).solve(many, problem)
    alone = replace(one, levels=one.levels[:1])
    an_epoch = 3 * len(data.train) * one.levels[0].flops / 2
    same = make_plain_solver(optimizer=optimizer, lr=lr, epochs=cycled.flops / an_epoch, seed=seed).solve(
        alone, problem
    )
    losses = [training_loss(s.model, data) for s in (cycled, same)]
    return {"gate": gate, "optimizer": name, "coarsener": coarsener, "seed": seed, "start": start, "fas": losses[0],
            "plain": losses[1], "flops": cycled.flops / same.flops, "tried": len(cycled.events("up")),
            "taken": sum(r["length"] > 0 for r in cycled.events("up")), "skipped": len(cycled.events("skip"))}  # fmt: skip


def count_failures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of runs that diverged or fell behind, and the loss relative to plain training."""
    ratios = [r["fas"] / r["plain"] for r in rows]
    return {
        "runs": len(rows), "coarse steps taken a run, median": statistics.median(r["taken"] for r in rows),
        "diverged": sum(not r["fas"] < r["start"] for r in rows),
        "behind": sum(not r["fas"] <= 1.02 * r["plain"] + 1e-3 for r in rows),
        "fas / plain: least, median, most": [min(ratios), statistics.median(ratios), max(ratios)],
    }  # fmt: skip


def train_bare_loop(model: nn.Module, batches: list[Any], lr: float) -> None:
    """Train in the usual loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=len(batches))
    total = 0.0
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()


def measure_overhead(rounds: int = 9, steps: int = 60) -> list[float]:
    """Return the processor time of the solver with one level relative to the bare loop, for each round."""
    batches = [(torch.rand(128, 784), torch.randint(0, 10, (128,))) for _ in range(steps)]
    ratios = []
    for _ in range(rounds + 1):
        model = mlp(WIDE)
        level = ng.Hierarchy([ng.Level(model, ng.trace(model, batches[0][0][:2]))])
        begun = time.process_time()
        make_plain_solver(optimizer=torch.optim.AdamW, lr=1e-3, epochs=1).solve(
            level, Problem(batches, functional.cross_entropy)
        )
        middle = time.process_time()
        train_bare_loop(mlp(WIDE), batches, 1e-3)
        ratios.append((middle - begun) / (time.process_time() - middle))
    return ratios[1:]


def main() -> None:
    """Run the benchmark."""
    torch.set_num_threads(1)
    data, ratios = load_dataset("digits").flat(), measure_overhead()
    cases = list(itertools.product(GATES, OPTIMIZERS, ("hem", "random")))
    rows = [train_pair(data, *case, seed) for case in cases for seed in range(SEEDS)]
    summary = {
        "overhead, median": statistics.median(ratios), "overhead, least and most": [min(ratios), max(ratios)],
        **{", ".join(c): count_failures([r for r in rows if (r["gate"], r["optimizer"], r["coarsener"]) == c]) for c in cases},
    }  # fmt: skip
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1}
    RESULTS.write_text(json.dumps({**machine, "summary": summary, "rows": rows, "overhead": ratios}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
