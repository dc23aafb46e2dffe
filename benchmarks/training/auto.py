"""Claim, not measured yet: ``--auto`` never ends behind plain training of the same seconds by more than the spread.

`choose_training` gets a budget of seconds, chooses by probes, and trains with what is left. Plain training gets the whole budget under
the same schedule, and the rate, optimizer and batch of the task. Both are judged by the loss on the test split. Seconds are time on
the clock, so the machine must be quiet.

    NETGRAPH_DATA=... python benchmarks/training/auto.py --seeds 3      # to benchmarks/results/auto.jsonl
    python benchmarks/training/auto.py --report
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import describe_machine, read_rows, run_missing

from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.fas.auto.candidates import Candidate
from netgraph.fas.auto.choice import choose_training
from netgraph.fas.auto.probe import Settings, measure_steps
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.models.data.datasets import load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.training.tasks import Task, make_task
from netgraph.optim.optimizers import find_optimizer

RESULTS = Path(__file__).parent.parent / "results" / "auto.jsonl"
KEY = ("method", "seed", "budget")
TASKS = {  # network, data, goal, seconds
    "MNIST": ("mlp", "mnist", "classify", 120),
    "denoising": ("residual", "cifar10", "denoise", 300),
    "reviews": ("transformer", "imdb", "classify", 300),
}


def build(name: str, seed: int) -> tuple[Task, Problem]:
    """Return a new network with its data, and the problem."""
    network, data, goal, _ = TASKS[name]
    task = make_task(network, load_dataset(data), goal=goal, seed=seed)
    loader = Loader(task.data, task.defaults.batch, degradation=task.degradation, seed=seed)
    return task, Problem(loader, task.make_loss(), restrict=task.restrict)


def make_settings(task: Task, seed: int) -> Settings:
    """Return the usual settings of a task, with products in bfloat16 for images that are restored."""
    usual, options = task.defaults, Options(Smoothing(bf16=task.degradation is not None))
    return Settings(find_optimizer(usual.optimizer), usual.lr, usual.weight_decay, options, seed)


def train_both(name: str, seed: int, budget: float) -> dict[str, Any]:
    """Train by choice and plainly for the same seconds, and return a row."""
    task, problem = build(name, seed)
    settings = make_settings(task, seed)
    begun = time.perf_counter()
    choice = choose_training(
        task.network, task.example, problem, seconds=budget, optimizer=settings.optimizer, lr=settings.lr,
        weight_decay=settings.weight_decay, options=settings.options, seed=seed,
    )  # fmt: skip
    choice.solver.solve(choice.hierarchy, problem)
    chosen_seconds = time.perf_counter() - begun
    chosen = task.evaluate(task.network).figures()["loss"]
    task, problem = build(name, seed)
    plain = Candidate("", build_single_level(task.network, task.example), (1.0,))
    plain.states = [{key: value.clone() for key, value in task.network.state_dict().items()}]
    measure_steps(plain, problem, settings)
    plain.reset()
    begun = time.perf_counter()
    steps = plain.count_steps(budget)
    settings.make_solver(steps, problem).solve(plain.hierarchy, problem)
    return {
        "method": name, "seed": seed, "budget": budget, "directions": choice.directions, "steps": choice.steps, "reason": choice.reason,
        "probes": choice.rows(), "spent": choice.spent, "seconds": chosen_seconds, "loss": chosen,
        "plain_steps": steps, "plain_seconds": time.perf_counter() - begun, "plain_loss": task.evaluate(task.network).figures()["loss"],
    }  # fmt: skip


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table with one line for each run."""
    lines = [
        "| task | seed | chosen | seconds | test loss | plain: seconds | test loss | loss / plain's |", "|---|---|---|---|---|---|---|---|"
    ]  # fmt: skip
    for row in rows:
        steps = ", ".join(map(str, row["steps"]))
        lines.append(
            f"| {row['method']} | {row['seed']} | {row['directions'] or 'plain'} ({steps}) | {row['seconds']:.0f} | {row['loss']:.4g} | "
            f"{row['plain_seconds']:.0f} | {row['plain_loss']:.4g} | {row['loss'] / row['plain_loss']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(format_report(read_rows(options.out)))
        return
    torch.set_num_threads(1)
    jobs = [(name, seed, TASKS[name][-1]) for name in options.tasks for seed in range(options.seeds)]
    calls = [(dict(zip(KEY, job, strict=True)), partial(train_both, *job)) for job in jobs]
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        print(format_report([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
