"""Claim: levels in space restore images as well as plain training, for a fraction of its seconds.

Real CIFAR-10 at 32 pixels: 45,000 images for training, 2,000 of the test split for the figures. Or photographs in tiles of 128 pixels
(``--photographs``, written by `shipped_photographs.py`), 12 for training and 3 for the figures. A task (``--task denoise``,
``inpaint``, ``deblur``, ``super-resolution``) and a network (``residual``, ``unet``) give one comparison. Every method runs its own
whole schedule (warm-up, stable, decay) with Adam, products in bfloat16 (``--no-bf16`` without), over the same number of images: plain
training, plain training of the cost of nested iteration, nested iteration over 8, 16 and 32 pixels (16, 32, 64 and 128), and the network trained at half of the
pixels alone for the same cost, which is evaluated at all of them. The rate of nested iteration falls on the finest level alone.

``--tune`` runs a grid with seed 100, which no result uses: rates (``--rates``), images of a minibatch (``--batch``) and minibatches of a
step on coarse levels (``--coarse``, for nested iteration). The results take each method's best point of the grid.
Seconds are processor time of one thread, on a GPU (``--device cuda``) time on the clock. The ledger counts all work.

    NETGRAPH_DATA=... python benchmarks/training/restoration.py --tune
    NETGRAPH_DATA=... python benchmarks/training/restoration.py --seeds 3     # to benchmarks/results/restoration.jsonl
    NETGRAPH_DATA=... python benchmarks/training/restoration.py --ablations --rates 8e-3
    python benchmarks/training/shipped_photographs.py FOLDER
    python benchmarks/training/restoration.py --photographs FOLDER --images 4800 --tune      # then --seeds 3
    python benchmarks/training/restoration.py --report
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product, starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import (
    TUNING,
    describe_machine,
    find_best_row,
    make_grid_parser,
    prepare_device,
    read_rows,
    row_key,
    run_missing,
)

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_single_level
from netgraph.fas.auto.switch import SwitchOnPlateau
from netgraph.fas.levels.batch_resolution import find_divisor, restrict_batch
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing
from netgraph.fas.solver.problem import Problem
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
TABLE = ("data", "task", "network", "images", "bf16")  # what the rows of one table share
POINT = ("batch", "coarse", "lr")  # of the grid
KEY = ("method", *TABLE, *POINT, "seed")  # identifies a row


@dataclass(frozen=True)
class Images:
    """What is restored: CIFAR-10, or a folder of photographs in tiles."""

    folder: Path | None = None
    tile: int = 128

    @property
    def name(self) -> str:
        """What the rows call the images."""
        return f"photographs, {self.tile} pixels" if self.folder else "CIFAR-10"

    def load(self) -> Dataset:
        """Return the data set."""
        return load_photographs(self.folder, tile=self.tile) if self.folder else load_dataset("cifar10")


@dataclass(frozen=True)
class Method:
    """One way to train: what each level sees, finest first, as percentages of the images of plain training."""

    shares: tuple[int, ...]
    halved: bool = False
    falls_early: bool = False  # over the last quarter of all steps, in place of the finest level's
    rewarm: int = 0
    coarse_rate: float = 1.0  # of coarse levels, as a share of that of the finest
    moments: bool = True  # carried from level to level
    by_rule: bool = False


@dataclass(frozen=True)
class Point:
    """One point of the grid: images of a minibatch, minibatches of a step on coarse levels, and the rate."""

    batch: int
    coarse: int
    lr: float


# A level costs a quarter of the next finer one, so that nested iteration costs 0.31 of plain training on three levels and 0.14 on four,
# and its short form 0.19 and 0.09.
NESTED = {3: ((16, 40, 80), (10, 25, 50)), 4: ((6, 16, 40, 80), (4, 10, 25, 50))}
COST = {3: 30, 4: 14}  # of nested iteration, as a percentage of that of plain training


def list_methods(n_levels: int) -> dict[str, Method]:
    """Return the methods. All but plain training and the shortest have about the same cost."""
    usual, short = NESTED[n_levels]
    return {
        "plain": Method((100,)),
        f"nested iteration, {n_levels} levels": Method(usual),
        "half of the pixels alone": Method((4 * COST[n_levels],), halved=True),
        "plain, short": Method((COST[n_levels],)),
        f"nested iteration, {n_levels} levels, short": Method(short),
    }


def list_ablations(n_levels: int = 3) -> dict[str, Method]:
    """Return forms of nested iteration, of about the same cost."""
    usual = NESTED[n_levels][0]
    return {
        "decay over the last quarter": Method(usual, falls_early=True),
        "warm-up of each level over 20 steps": Method(usual, rewarm=20),
        "more steps on the middle level": Method((usual[0], 52, 7)),
        "more steps on the finest level": Method((24, 28, 28)),
        "half the rate on coarse levels": Method(usual, coarse_rate=0.5),
        "moments anew on each level": Method(usual, moments=False),
        "moments anew on each level, warmed up over 50 steps": Method(usual, moments=False, rewarm=50),
        "levels left by rule": Method(usual, by_rule=True),
    }


def count_steps(method: Method, images: int, point: Point) -> tuple[int, ...]:
    """Return the steps of each level, finest first. A step on a coarse level may take several minibatches."""
    sizes = (point.batch, *[point.batch * point.coarse] * (len(method.shares) - 1))
    return tuple(share * images // (100 * size) for share, size in zip(method.shares, sizes, strict=True))


def build_levels(task: Task, method: Method, example: Tensor) -> Hierarchy:
    """Return the levels of a method. A level that is trained alone has the weights of the finest network."""
    if len(method.shares) > 1:
        return ng.build_hierarchy(task.network, example, n_levels=len(method.shares), directions="space")
    if not method.halved:
        return build_single_level(task.network, example)
    coarse = ng.build_hierarchy(task.network, example, n_levels=2, directions="space").levels[1]
    return replace(build_single_level(task.network, example), levels=[coarse])


def train_once(settings: dict[str, Any], method: Method, images: Images, device: str) -> dict[str, Any]:
    """Train once with the settings of a row, and return the row with its results."""
    point = Point(settings["batch"], settings["coarse"], settings["lr"])
    steps = count_steps(method, settings["images"], point)
    task = make_task(settings["network"], images.load(), goal=settings["task"], seed=settings["seed"])
    task.network.to(device)
    loader = Loader(task.data, point.batch, degradation=task.degradation, seed=settings["seed"])
    levels = build_levels(task, method, task.example.to(device))
    valid = partial(validate, task) if method.by_rule else None
    coarse = {"accumulate": point.coarse, "lr": method.coarse_rate * point.lr}
    problem = Problem(loader, functional.mse_loss, valid=valid, restrict=task.restrict)
    solver = FAS(
        "kaskade", torch.optim.Adam, point.lr, epochs=sum(steps) / len(loader), share=steps,
        schedule=partial(make_wsd, lr=1.0, steps=sum(steps)) if method.falls_early else "wsd",
        options=Options(Smoothing(bf16=settings["bf16"], rewarm=method.rewarm, moments=method.moments), levels=dict.fromkeys(range(1, len(steps)), coarse)),
        seed=settings["seed"],
    )  # fmt: skip
    clock = prepare_device(device)
    begun = clock()
    solution = solver.solve(levels, problem, callbacks=[SwitchOnPlateau()] if method.by_rule else [], every=20)
    seconds = clock() - begun
    task.network.load_state_dict(solution.model.state_dict())  # of the level that was trained alone, too
    part = DataSplit(task.data.test.inputs[:2000], task.data.test.targets[:2000])
    quality = evaluate_restoration(task.network, replace(task.data, test=part), task.degradation)
    figures = {"seconds": seconds, "flops": solution.flops, **quality.figures(), "ledger": solution.ledger.rows()}
    return {**settings, "steps": steps, **figures}


def validate(task: Task, model: nn.Module) -> dict[str, float]:
    """Return the loss of a level on 500 images of the validation split, at the resolution of the level."""
    part = DataSplit(task.data.valid.inputs[:500], task.data.valid.targets[:500])
    divisor = find_divisor(model)
    to_level = partial(restrict_batch, restrict=task.restrict, divisor=divisor) if divisor > 1 else None
    return (
        replace(task, data=replace(task.data, valid=part)).evaluate(model, split="valid", to_level=to_level).figures()
    )


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return the tables: medians over seeds with spread, and costs relative to plain training."""
    parts = []
    for table in dict.fromkeys(row_key(row, TABLE) for row in rows):
        these = [row for row in rows if row_key(row, TABLE) == table]
        runs = [row for row in these if row["seed"] != TUNING]
        plain = [row for row in runs if row["method"] == "plain"]
        *names, bf16 = table
        parts += [f"\n{', '.join(map(str, names))} images, {'bfloat16' if bf16 else 'float32'}\n"]
        if plain:
            base = find_base(plain)
            parts += [
                "| method | minibatch | steps, finest first | rate | n | MSE × 10³ | PSNR | SSIM | FLOPs / plain | seconds / plain |",
                "|---|---|---|---|---|---|---|---|---|---|",
            ]
            for setting in dict.fromkeys(row_key(row, ("method", *POINT)) for row in runs):
                parts.append(format_line([r for r in runs if row_key(r, ("method", *POINT)) == setting], base))
        parts += [
            "\nthe grid, seed 100\n",
            "| method | minibatch | rate | steps | MSE × 10³ | seconds |",
            "|---|---|---|---|---|---|",
        ]
        parts += [format_trial(row) for row in these if row["seed"] == TUNING]
    return "\n".join(parts)


def find_base(plain: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median costs of plain training at the point at which its median loss is least."""
    at_points = [
        [row for row in plain if row_key(row, POINT) == key]
        for key in dict.fromkeys(row_key(row, POINT) for row in plain)
    ]
    best = min(at_points, key=lambda rows: statistics.median(row["loss"] for row in rows))
    return {kind: statistics.median(row[kind] for row in best) for kind in ("flops", "seconds")}


def format_minibatch(row: dict[str, Any]) -> str:
    """Return the images of a minibatch, on coarse levels too where they differ."""
    return f"{row['batch']}" if row["coarse"] == 1 else f"{row['batch']}, coarse {row['batch'] * row['coarse']}"


def format_trial(row: dict[str, Any]) -> str:
    """Return one line of the grid."""
    steps = ", ".join(f"{n:,}" for n in row["steps"])
    return f"| {row['method']} | {format_minibatch(row)} | {row['lr']:g} | {steps} | {1e3 * row['loss']:.3f} | {row['seconds']:.0f} |"


def format_line(runs: list[dict[str, Any]], base: dict[str, float]) -> str:
    """Return one line of a table."""
    losses = [1e3 * row["loss"] for row in runs]
    median = {kind: statistics.median(row[kind] for row in runs) for kind in ("flops", "seconds", "psnr", "ssim")}
    cost = {kind: median[kind] / base[kind] for kind in base}
    return (
        f"| {runs[0]['method']} | {format_minibatch(runs[0])} | {', '.join(f'{n:,}' for n in runs[0]['steps'])} | {runs[0]['lr']:g} | "
        f"{len(runs)} | {statistics.median(losses):.3f} ({min(losses):.3f}–{max(losses):.3f}) | {median['psnr']:.2f} | "
        f"{median['ssim']:.4f} | {cost['flops']:.2f} | {cost['seconds']:.2f} |"
    )


def list_points(rows: list[dict[str, Any]], setting: dict[str, Any], grid: Iterable[Point] | None) -> list[Point]:
    """Return the points at which a method runs: those of the grid, or the best that was tried."""
    if grid is None:
        best = find_best_row(rows, setting)
        return [Point(best["batch"], best["coarse"], best["lr"])]
    nested = setting["method"].startswith("nested")
    nested |= setting["method"] in list_ablations()
    return [point for point in grid if nested or point.coarse == 1]


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_grid_parser(__doc__, RESULTS, RATES)
    parser.add_argument("--ablations", action="store_true", help="the forms of nested iteration, on the grid")
    parser.add_argument("--images", type=int, default=96_000, help="images that plain training sees")
    parser.add_argument("--task", choices=RESTORATIONS, default="denoise")
    parser.add_argument("--photographs", type=Path, help="folder with train, valid and test, in place of CIFAR-10")
    parser.add_argument("--tile", type=int, default=128, help="pixels a side of the tiles of photographs")
    parser.add_argument("--batch", type=int, nargs="*", default=[16, 32, 64], help="images of a minibatch")
    parser.add_argument("--coarse", type=int, nargs="*", default=[1], help="minibatches of a step on coarse levels")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", choices=("residual", "unet"), default="residual")
    parser.add_argument("--only", nargs="*", help="only these methods")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = parse_options()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows))
        return
    images = Images(options.photographs, options.tile)
    n_levels = 4 if images.folder else 3
    every = list_ablations(n_levels) if options.ablations else list_methods(n_levels)
    methods = {n: m for n, m in every.items() if not options.only or n in options.only}
    on_grid = options.tune or options.ablations
    grid = list(starmap(Point, product(options.batch, options.coarse, options.rates))) if on_grid else None
    table = {
        "data": images.name,
        "task": options.task,
        "network": options.network,
        "images": options.images,
        "bf16": options.bf16,
    }
    calls = []
    for seed, name in product([TUNING] if on_grid else range(options.seeds), methods):
        for point in list_points(rows, {"method": name, **table}, grid):
            settings = {"method": name, **table, **asdict(point), "seed": seed}
            calls.append((settings, partial(train_once, settings, methods[name], images, options.device)))
    prepare_device(options.device)
    for row in run_missing(options.out, KEY, calls, describe_machine(options.device)):
        print(
            f"{row['method']} {row['seed']} {format_minibatch(row)} {row['lr']:g}: MSE {1e3 * row['loss']:.3f}e-3, {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
