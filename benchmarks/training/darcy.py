"""Claim: levels in space learn the solutions of Darcy's equation better than plain training of the same cost.

1,000 fields on 64 x 64 cells, batches of 16, Adam with one cycle, a U-Net (three halvings, 8 channels) and a Fourier neural operator (12
modes, 16 channels). Every method runs its own whole schedule: plain training, plain training of the cost of nested iteration, and nested
iteration over 16, 32 and 64 cells a side, and the network trained on half of the cells a side alone for about the cost of nested
iteration, which is evaluated on all of them. ``--tune`` runs `RATES` for each method with seed 100, which no result uses. The results take each
method's best rate on validation data. Seconds are processor time of one thread without evaluation, and the ledger counts all work.

    python benchmarks/training/darcy.py --tune && python benchmarks/training/darcy.py     # to benchmarks/results/darcy.jsonl
    python benchmarks/training/darcy.py --report                # with --tune the best trials, on validation data
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import TUNING, describe_machine, find_best_rate, make_grid_parser, read_rows, row_key, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_single_level
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.darcy import load_darcy
from netgraph.models.data.datasets import Dataset
from netgraph.models.data.loader import Loader
from netgraph.models.training.tasks import Task, make_task

RESULTS = Path(__file__).parent.parent / "results" / "darcy.jsonl"
RATES = (1e-3, 2e-3, 4e-3)
BATCH = 16
KEY = ("method", "network", "length", "seed", "lr")  # identifies a row


@dataclass(frozen=True)
class Network:
    """A network and the steps of plain training."""

    width: int
    options: dict[str, int]
    steps: int


NETWORKS = {"unet": Network(8, {"n_halvings": 3}, 320), "fno": Network(16, {"modes": 12}, 160)}
METHODS = {  # steps on each level as shares of those of plain training, finest first
    "plain": (1.0,),
    "plain, short": (0.4375,),
    "nested iteration, 3 levels": (0.25, 0.5, 1.0),
    "half of the cells alone": (1.5,),
}


@cache
def make_data() -> Dataset:
    """Return the data, made once."""
    return load_darcy(64)


def build_levels(task: Task, name: str) -> Hierarchy:
    """Return the levels of a method. A level that is trained alone has the weights of the finest network."""
    single = build_single_level(task.network, task.example)
    if name == "half of the cells alone":
        coarse = ng.build_hierarchy(task.network, task.example, n_levels=2, directions="space").levels[1]
        return replace(single, levels=[coarse])
    n_levels = len(METHODS[name])
    return (
        ng.build_hierarchy(task.network, task.example, n_levels=n_levels, directions="space")
        if n_levels > 1
        else single
    )


def train_once(settings: dict[str, Any]) -> dict[str, Any]:
    """Train once with the settings of a row, and return the row with its results."""
    name, network, seed, lr = (settings[key] for key in ("method", "network", "seed", "lr"))
    chosen = NETWORKS[network]
    task = make_task(network, make_data(), widths=(chosen.width,), goal="darcy", seed=seed, options=chosen.options)
    steps = [round(share * settings["length"] * chosen.steps) for share in METHODS[name]]
    levels = build_levels(task, name)
    loader = Loader(task.data, BATCH, seed=seed)
    problem = Problem(loader, task.make_loss(), restrict=task.restrict)
    solver = FAS("kaskade", torch.optim.Adam, lr, epochs=sum(steps) / len(loader), share=tuple(steps), seed=seed)
    begun = time.thread_time()
    solution = solver.solve(levels, problem)
    seconds = time.thread_time() - begun
    task.network.load_state_dict(solution.model.state_dict())  # of the level that was trained alone, too
    split = "valid" if seed == TUNING else "test"
    return {
        **settings, "steps": steps, "seconds": seconds, "flops": solution.flops,
        **task.evaluate(task.network, split=split).figures(), "ledger": solution.ledger.rows(),
    }  # fmt: skip


def pick_runs(rows: list[dict[str, Any]], name: str, *, tuning: bool) -> list[dict[str, Any]]:
    """Return the runs of a method: the one of its best rate in the grid, or the results of other seeds."""
    runs = [r for r in rows if r["method"] == name and (r["seed"] == TUNING) == tuning]
    return [min(runs, key=lambda row: row["loss"])] if tuning and runs else runs


def format_report(rows: list[dict[str, Any]], *, tuning: bool) -> str:
    """Return a table of medians over seeds, or of the best trials of the grid. Costs are relative to plain training."""
    lines = [
        "| network | method | steps, finest first | rate | n | relative error in L2 | worst | FLOPs / plain | seconds / plain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for table in dict.fromkeys(row_key(row, ("network", "length")) for row in rows):
        these = [row for row in rows if row_key(row, ("network", "length")) == table]
        groups = {name: pick_runs(these, name, tuning=tuning) for name in METHODS}
        for runs in groups.values() if groups["plain"] else ():
            if runs:
                lines.append(format_line(runs, groups["plain"]))
    return "\n".join(lines)


def format_line(runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """Return one line of a table: medians, with the spread of the error over seeds."""
    row, errors = runs[0], [r["loss"] for r in runs]
    median = {key: statistics.median(r[key] for r in runs) for key in ("loss", "worst", "flops", "seconds")}
    cost = {key: median[key] / statistics.median(r[key] for r in plain) for key in ("flops", "seconds")}
    spread = f" ({min(errors):.2%}–{max(errors):.2%})" if len(runs) > 1 else ""
    return (
        f"| {row['network']} | {row['method']} | {', '.join(map(str, row['steps']))} | {row['lr']:g} | {len(runs)} | "
        f"{median['loss']:.2%}{spread} | {median['worst']:.2%} | {cost['flops']:.2f} | {cost['seconds']:.2f} |"
    )


def main() -> None:
    """Run the benchmark."""
    parser = make_grid_parser(__doc__, RESULTS, RATES, seeds=1)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--length", type=int, default=1, help="steps of each run, as a multiple of the usual")
    parser.add_argument("--only", nargs="*", choices=METHODS, default=list(METHODS), help="only these methods")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows, tuning=options.tune))
        return
    torch.set_num_threads(1)
    calls = []
    seeds = [TUNING] if options.tune else range(options.seeds)
    for seed, network, name in product(seeds, options.networks, options.only):
        table = {"method": name, "network": network, "length": options.length}
        for lr in options.rates if options.tune else [find_best_rate(rows, table)]:
            settings = {**table, "seed": seed, "lr": lr}
            calls.append((settings, partial(train_once, settings)))
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        print(
            f"{row['network']}, {row['method']}, {row['seed']}, {row['lr']:g}: {row['loss']:.2%}, {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
