"""Claim: three levels need at most 1.35 times the memory of plain training.

784-2048-2048-2048-10 with AdamW, batches of 128, and 12 steps of each kind of cycle. Measured is the peak resident memory of the process
minus its memory before the network was built. Each kind runs in its own process on one thread.

    python benchmarks/training/fas_memory.py              # results in benchmarks/results/fas_memory.json
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import netgraph as ng
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.perceptron import mlp

RESULTS = Path(__file__).parent.parent / "results" / "fas_memory.json"
WIDTHS = (784, 2048, 2048, 2048, 10)
OPEN = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"))
KINDS = ("plain", "kaskade", "v", "w", "full")


def measure_peak(kind: str, queue: Any) -> None:
    """Put into a queue by how many bytes resident memory grows while one kind of cycle trains."""
    torch.set_num_threads(1)
    batches = [(torch.rand(128, 784), torch.randint(0, 10, (128,))) for _ in range(12)]
    small = mlp((784, 32, 32, 10))  # memory that libraries take on first use does not count
    train_once(small, "v", batches)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train_once(mlp(WIDTHS), kind, batches)
    queue.put(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def train_once(model: torch.nn.Module, kind: str, batches: list[Any]) -> None:
    """Train for 12 steps."""
    problem = Problem(batches, functional.cross_entropy)
    if kind == "plain":
        level = ng.Hierarchy([ng.Level(model, ng.trace(model, batches[0][0][:2]))])
        make_plain_solver(optimizer=torch.optim.AdamW, epochs=1).solve(level, problem)
        return
    hierarchy = ng.build_hierarchy(model, batches[0][0][:2], n_levels=3)
    options = Options(Smoothing(pre=1, post=1, coarse=2), gate=OPEN)
    FAS(kind, torch.optim.AdamW, epochs=2, options=options).solve(hierarchy, problem)


def main() -> None:
    """Run the benchmark."""
    sizes, context = {}, multiprocessing.get_context("spawn")
    for kind in KINDS:
        queue = context.Queue()
        process = context.Process(target=measure_peak, args=(kind, queue))
        process.start()
        sizes[kind] = queue.get(timeout=600)
        process.join()
    ratios = {kind: size / sizes["plain"] for kind, size in sizes.items()}
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1}
    RESULTS.write_text(json.dumps({**machine, "bytes": sizes, "over plain": ratios}, indent=1) + "\n")
    print(json.dumps({"bytes": sizes, "over plain": ratios}, indent=1))


if __name__ == "__main__":
    main()
