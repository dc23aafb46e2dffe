"""Claim: levels in space restore images as well as plain training, for a fraction of its seconds.

Real CIFAR-10 at 32 pixels: 45,000 images for training, 2,000 of the test split for the figures. Or photographs in tiles of 128 pixels
(``--photographs``, written by `shipped_photographs.py`), 12 for training and 3 for the figures. A task (``--task denoise``,
``inpaint``, ``deblur``, ``super-resolution``) and a network (``residual``, ``unet``) give one comparison. Every method runs its own
whole schedule (warm-up, stable, decay) with Adam and batches of 64 (of 8 tiles), products in bfloat16: plain training, plain training
of the cost of nested iteration, nested iteration over 8, 16 and 32 pixels (16, 32, 64 and 128), and the network trained at half of the
pixels alone for the same cost, which is evaluated at all of them. ``--tune`` runs `RATES` for each method with seed 100, which no result uses. The results take each method's best rate.
The rate of nested iteration falls on the finest level alone.
Seconds are processor time of one thread, on a GPU (``--device cuda``) time on the clock. The ledger counts all work.

    NETGRAPH_DATA=... python benchmarks/training/restoration.py --tune
    NETGRAPH_DATA=... python benchmarks/training/restoration.py --seeds 3     # to benchmarks/results/restoration.jsonl
    NETGRAPH_DATA=... python benchmarks/training/restoration.py --ablations --rates 8e-3
    NETGRAPH_DATA=... python benchmarks/training/restoration.py --batch 16 --horizon 6000 --tune
    NETGRAPH_DATA=... python benchmarks/training/restoration.py --batch 16 --horizon 6000 --ablations --only four
    python benchmarks/training/shipped_photographs.py FOLDER
    python benchmarks/training/restoration.py --photographs FOLDER --horizon 600 --tune      # then --seeds 3
    python benchmarks/training/restoration.py --report
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import TUNING, describe_machine, find_best_rate, make_grid_parser, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_single_level
from netgraph.fas.auto.switch import SwitchOnPlateau
from netgraph.fas.levels.batch_resolution import find_divisor, restrict_batch
from netgraph.fas.options import Options, Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.schedule import MakeScheduler
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.datasets import Dataset, DataSplit, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.data.photographs import load_photographs
from netgraph.models.training.restoration import evaluate_restoration
from netgraph.models.training.tasks import Task, make_task
from netgraph.optim.schedules import make_wsd
from netgraph.utils.choices import RESTORATIONS

RESULTS = Path(__file__).parent.parent / "results" / "restoration.jsonl"
RATES = (2e-3, 4e-3, 8e-3)
KEY = ("method", "data", "task", "network", "batch", "seed", "lr", "steps")  # identifies a row


@dataclass(frozen=True)
class Images:
    """What is restored: CIFAR-10, or a folder of photographs in tiles."""

    folder: Path | None = None
    tile: int = 128
    batch: int = 64

    @property
    def name(self) -> str:
        """What the rows call the images."""
        return f"photographs, {self.tile} pixels" if self.folder else "CIFAR-10"

    def load(self) -> Dataset:
        """Return the data set."""
        return load_photographs(self.folder, tile=self.tile) if self.folder else load_dataset("cifar10")


@dataclass(frozen=True)
class Method:
    """One way to train: steps on each level, finest first, and the level that is trained alone."""

    steps: tuple[int, ...]
    halved: bool = False
    schedule: str | MakeScheduler = "wsd"
    rewarm: int = 0
    accumulate: int = 1  # minibatches of a step on coarse levels
    by_rule: bool = False


# Steps of each level, finest first, as percentages of those of plain training. A level costs a quarter of the next finer one, so that
# nested iteration costs 0.30 on three levels and 0.14 on four, and its short form 0.19 and 0.09.
NESTED = {3: ((16, 40, 80), (10, 25, 50)), 4: ((6, 16, 40, 80), (4, 10, 25, 50))}
COST = {3: 30, 4: 14}  # of nested iteration, as a percentage of that of plain training


def list_methods(horizon: int, n_levels: int) -> dict[str, Method]:
    """Return the methods for a number of plain steps. All but plain training and the shortest have about the same cost."""
    shares = [tuple(percent * horizon // 100 for percent in percents) for percents in NESTED[n_levels]]
    cost = COST[n_levels] * horizon // 100
    return {
        "plain": Method((horizon,)),
        f"nested iteration, {n_levels} levels": Method(shares[0]),
        "half of the pixels alone": Method((4 * cost,), halved=True),
        "plain, short": Method((cost,)),
        f"nested iteration, {n_levels} levels, short": Method(shares[1]),
    }


def list_ablations(horizon: int) -> dict[str, Method]:
    """Return forms of nested iteration over three levels, of about the same cost."""
    usual = tuple(percent * horizon // 100 for percent in NESTED[3][0])
    return {
        "decay over the last quarter": Method(usual, schedule=partial(make_wsd, lr=1.0, steps=sum(usual))),
        "warm-up of each level over 20 steps": Method(usual, rewarm=20),
        "more steps on the middle level": Method((usual[0], 52 * horizon // 100, 7 * horizon // 100)),
        "levels left by rule": Method(usual, by_rule=True),
        "four minibatches on coarse levels": Method((usual[0], usual[1] // 4, usual[2] // 4), accumulate=4),
    }


def build_levels(task: Task, method: Method, example: Tensor) -> Hierarchy:
    """Return the levels of a method. A level that is trained alone has the weights of the finest network."""
    if len(method.steps) > 1:
        return ng.build_hierarchy(task.network, example, n_levels=len(method.steps), directions="space")
    if not method.halved:
        return build_single_level(task.network, example)
    coarse = ng.build_hierarchy(task.network, example, n_levels=2, directions="space").levels[1]
    return replace(build_single_level(task.network, example), levels=[coarse])


def train_once(
    name: str, method: Method, images: Images, task_name: str, network: str, device: str, seed: int, lr: float
) -> dict[str, Any]:
    """Train once, and return a row of results."""
    task = make_task(network, images.load(), goal=task_name, seed=seed)
    task.network.to(device)
    loader = Loader(task.data, images.batch, degradation=task.degradation, seed=seed)
    levels = build_levels(task, method, task.example.to(device))
    valid = partial(validate, task) if method.by_rule else None
    problem = Problem(loader, functional.mse_loss, valid=valid, restrict=task.restrict)
    coarse = {level: {"accumulate": method.accumulate} for level in range(1, len(method.steps))}
    solver = FAS(
        "kaskade", torch.optim.Adam, lr, epochs=sum(method.steps) / len(loader), share=method.steps, schedule=method.schedule,
        options=Options(Smoothing(bf16=True, rewarm=method.rewarm), levels=coarse), seed=seed,
    )  # fmt: skip
    clock = time.thread_time if device == "cpu" else time.perf_counter
    begun = clock()
    solution = solver.solve(levels, problem, callbacks=[SwitchOnPlateau()] if method.by_rule else [], every=20)
    seconds = clock() - begun
    task.network.load_state_dict(solution.model.state_dict())  # of the level that was trained alone, too
    part = DataSplit(task.data.test.inputs[:2000], task.data.test.targets[:2000])
    quality = evaluate_restoration(task.network, replace(task.data, test=part), task.degradation)
    return {
        "method": name, "data": images.name, "task": task_name, "network": network, "batch": images.batch, "seed": seed, "lr": lr, "steps": method.steps,
        "seconds": seconds, "flops": solution.flops, **quality.figures(), "ledger": solution.ledger.rows(),
    }  # fmt: skip


def validate(task: Task, model: nn.Module) -> dict[str, float]:
    """Return the loss of a level on 500 images of the validation split, at the resolution of the level."""
    part = DataSplit(task.data.valid.inputs[:500], task.data.valid.targets[:500])
    divisor = find_divisor(model)
    to_level = partial(restrict_batch, restrict=task.restrict, divisor=divisor) if divisor > 1 else None
    return (
        replace(task, data=replace(task.data, valid=part)).evaluate(model, split="valid", to_level=to_level).figures()
    )


def row_group(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what the rows of one table share."""
    return row["data"], row["task"], row["network"], f"batches of {row['batch']}"


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table for each task and network: medians over seeds with spread, and costs relative to plain training."""
    parts = []
    for which in dict.fromkeys(map(row_group, rows)):
        these = [r for r in rows if row_group(r) == which and r["seed"] != TUNING]
        plain = [r for r in these if r["method"] == "plain"]
        if not plain:
            continue
        base = {kind: statistics.median(r[kind] for r in plain) for kind in ("flops", "seconds")}
        parts += [
            f"\n{', '.join(which)}\n",
            "| method | steps, finest first | rate | n | MSE × 10³ | PSNR | SSIM | FLOPs / plain | seconds / plain |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name in dict.fromkeys(r["method"] for r in these):
            parts.append(format_row(name, [r for r in these if r["method"] == name], base))
        parts += ["\nthe grid, seed 100\n", "| method | steps | rate | MSE × 10³ | seconds |", "|---|---|---|---|---|"]
        tried = [r for r in rows if row_group(r) == which and r["seed"] == TUNING]
        for r in tried:
            steps = ", ".join(f"{n:,}" for n in r["steps"])
            parts.append(f"| {r['method']} | {steps} | {r['lr']:g} | {1e3 * r['loss']:.3f} | {r['seconds']:.0f} |")
    return "\n".join(parts)


def format_row(name: str, runs: list[dict[str, Any]], base: dict[str, float]) -> str:
    """Return one line of a table."""
    losses = [1e3 * row["loss"] for row in runs]
    median = {kind: statistics.median(row[kind] for row in runs) for kind in ("flops", "seconds", "psnr", "ssim")}
    cost = {kind: median[kind] / base[kind] for kind in base}
    return (
        f"| {name} | {', '.join(f'{n:,}' for n in runs[0]['steps'])} | {runs[0]['lr']:g} | {len(runs)} | "
        f"{statistics.median(losses):.3f} ({min(losses):.3f}–{max(losses):.3f}) | {median['psnr']:.2f} | {median['ssim']:.4f} | "
        f"{cost['flops']:.2f} | {cost['seconds']:.2f} |"
    )


def main() -> None:
    """Run the benchmark."""
    parser = make_grid_parser(__doc__, RESULTS, RATES)
    parser.add_argument(
        "--ablations", action="store_true", help="the forms of nested iteration, with seed and rates of the grid"
    )
    parser.add_argument("--horizon", type=int, default=1500, help="steps of plain training")
    parser.add_argument("--task", choices=RESTORATIONS, default="denoise")
    parser.add_argument("--photographs", type=Path, help="folder with train, valid and test, in place of CIFAR-10")
    parser.add_argument("--tile", type=int, default=128, help="pixels a side of the tiles of photographs")
    parser.add_argument("--batch", type=int, help="images of a minibatch, 64 or 8 tiles by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", choices=("residual", "unet"), default="residual")
    parser.add_argument("--only", nargs="*", help="only methods whose names contain one of these words")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows))
        return
    torch.set_num_threads(1)
    images = Images(options.photographs, options.tile, options.batch or (8 if options.photographs else 64))
    every = (
        list_ablations(options.horizon)
        if options.ablations
        else list_methods(options.horizon, 4 if images.folder else 3)
    )
    methods = {n: m for n, m in every.items() if not options.only or any(word in n for word in options.only)}
    calls = []
    for seed, name in (
        (seed, name)
        for seed in ([TUNING] if options.tune or options.ablations else range(options.seeds))
        for name in methods
    ):
        setting = {
            "method": name,
            "data": images.name,
            "task": options.task,
            "network": options.network,
            "batch": images.batch,
        }
        setting |= {"steps": list(methods[name].steps)}
        for lr in options.rates if options.tune or options.ablations else [find_best_rate(rows, setting)]:
            call = partial(
                train_once, name, methods[name], images, options.task, options.network, options.device, seed, lr
            )
            calls.append(({**setting, "seed": seed, "lr": lr}, call))
    machine = describe_machine()
    if options.device == "cuda":
        machine["machine"] = torch.cuda.get_device_name()
    for row in run_missing(options.out, KEY, calls, machine):
        print(
            f"{row['method']} {row['seed']} {row['lr']:g}: MSE {1e3 * row['loss']:.3f}e-3, {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
