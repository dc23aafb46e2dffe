"""Claim: levels in space, then depth, train ResNet-20 to plain training's accuracy less its spread for 0.6 of its seconds.

Real CIFAR-10 with crops and flips, SGD with Nesterov momentum, products in bfloat16 (``--no-bf16`` without), memory format
channels_last. Every method runs its own whole schedule: plain training, plain training of the cost of nested iteration, nested iteration
over levels in space and over levels in space then depth, and the coarse network alone (half of the pixels, half of the depth), also for
that cost. `list_methods` says how many steps each level has.

``--tune`` runs a grid with seed 100, which no result uses, the same for each method: schedule, images of a minibatch and rate. The
results take each method's point with the fewest errors on the validation images, or with ``--fixed`` the points of the options.
``--tuned-at`` takes the points from a grid of another length. ``--directions`` has the rows of short runs over every direction, and of FAS
(docs/convolution.md). Seconds are processor time of one thread without validation, on a GPU (``--device cuda``) time on the clock. The
ledger counts all work.

    NETGRAPH_DATA=... python benchmarks/training/cifar10_cnn.py --epochs 16 --tune
    NETGRAPH_DATA=... python benchmarks/training/cifar10_cnn.py --epochs 16 --seeds 3    # to benchmarks/results/cifar10_cnn.jsonl
    python benchmarks/training/cifar10_cnn.py --report                                   # tables, and docs/pictures/cifar10_cnn.svg
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product, starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import (
    TUNING,
    TimedValidation,
    count_events,
    describe_machine,
    find_best_row,
    make_grid_parser,
    prepare_device,
    read_rows,
    row_key,
    run_missing,
)

import netgraph as ng
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.cnn import resnet20, vgg
from netgraph.models.data.augmentation import crop_and_flip
from netgraph.models.data.datasets import Dataset, DataSplit, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.training.evaluation import evaluate

RESULTS = Path(__file__).parent.parent / "results" / "cifar10_cnn.jsonl"
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "cifar10_cnn.svg"
RATES = (0.1, 0.2, 0.4)
VALIDATIONS = 10  # along a run
SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {"resnet20": (resnet20, 16), "vgg": (vgg, 32)}  # and widths
TABLE = ("network", "width", "epochs", "bf16", "seen")  # what the rows of one table share
POINT = ("schedule", "batch", "lr")  # of the grid
KEY = ("method", *TABLE, *POINT, "seed")  # identifies a row


@dataclass(frozen=True)
class Point:
    """One point of the grid: the schedule, images of a minibatch, and the largest rate."""

    schedule: str
    batch: int
    lr: float


@dataclass(frozen=True)
class Method:
    """One way to train.

    Parameters
    ----------
    shares : tuple of int
        Steps on each level, finest first, as percentages of the steps of plain training.
    directions : str
        Directions of coarsening. Empty for one level.
    alone : str
        ``level``: train the coarse level alone. ``width``: train a network of half the width.
    cycle : str
    gate : Gate
        Gate of coarse steps.
    """

    shares: tuple[int, ...] = (100,)
    directions: str = ""
    alone: str = ""
    cycle: str = "kaskade"
    gate: Gate = field(default_factory=Gate)

    def build_levels(self, model: nn.Module, inputs: Tensor) -> ng.Hierarchy:
        """Return the levels that are trained, in memory format channels_last."""
        hierarchy = ng.build_hierarchy(
            model, inputs, directions=self.directions or "channels", n_levels=max(len(self.shares), 2)
        )
        ng.init_coarse_weights(hierarchy)
        levels = hierarchy.levels
        if len(self.shares) == 1:
            levels = levels[1:2] if self.alone == "level" else levels[:1]
        for level in levels:
            level.model.to(memory_format=torch.channels_last)
        return replace(hierarchy, levels=levels)


def list_methods() -> dict[str, Method]:
    """Return the methods of the claim. All but plain training cost about 0.58 of its seconds.

    A step takes 0.30 of a fine one's seconds with half of the pixels, 0.72 with half of the blocks, and 0.22 with both.
    """
    return {
        "plain": Method(),
        "plain, 0.58 as long": Method((58,)),
        "half of the pixels alone": Method((190,), "space", "level"),
        "half of the depth alone": Method((80,), "depth", "level"),
        "nested iteration over space": Method((40, 60), "space"),
        "nested iteration over space, then depth": Method((40, 30, 40), "space,depth"),
        "nested iteration over space, then depth, less on the finest": Method((30, 60, 45), "space,depth"),
    }


def list_directions() -> dict[str, Method]:
    """Return the methods of the short runs over every direction."""
    nested = (30, 70)
    return {
        "plain": Method(),
        "plain, half as long": Method((50,)),
        "plain, a quarter as long": Method((25,)),
        "half of the channels alone": Method(alone="width"),
        "half of the channels for the cost of plain": Method((300,), alone="width"),
        "half the resolution alone": Method((100,), "space", "level"),
        "nested iteration over channels": Method(nested, "channels"),
        "nested iteration over channels, twice as long": Method((60, 140), "channels"),
        "nested iteration over space": Method(nested, "space"),
        "nested iteration over depth": Method(nested, "depth"),
        "nested iteration over channels and space": Method(nested, "channels+space"),
        "nested iteration over all three": Method(nested, "channels+space+depth"),
        "nested iteration over channels, then space": Method((30, 40, 30), "channels,space"),
        "nested iteration over depth, then channels": Method((25, 25, 50), "depth,channels"),
        "gated FAS, full, over channels": Method(nested, "channels", cycle="full"),
        "FAS, full, over depth, whatever it costs": Method(nested, "depth", cycle="full", gate=Gate(share=math.inf)),
    }


def has_directions(network: str, method: Method) -> bool:
    """Return True if a network has the directions that a method coarsens. The five poolings of VGG need 32 pixels."""
    return network != "vgg" or not ("space" in method.directions or "depth" in method.directions)


def take_rows(split: DataSplit, n: int) -> DataSplit:
    """Return the first rows of a split."""
    return DataSplit(split.inputs[:n], split.targets[:n])


def train_once(settings: dict[str, Any], method: Method, data: Dataset, device: str) -> dict[str, Any]:
    """Train once with the settings of a row, and return the row with its results."""
    make, clock, seed = NETWORKS[settings["network"]][0], prepare_device(device), settings["seed"]
    few = replace(data, valid=take_rows(data.valid, settings["seen"]), test=take_rows(data.test, 10 * settings["seen"]))
    validation = TimedValidation(lambda model: evaluate(model, few, split="valid").figures(), clock)
    torch.manual_seed(seed)
    model = make(width=settings["width"] // (2 if method.alone == "width" else 1)).to(device)
    loader = Loader(data, settings["batch"], augment=crop_and_flip, seed=seed)
    levels = method.build_levels(model, data.ready(data.train.inputs[:2]).to(device))
    epochs = settings["epochs"] * sum(method.shares) / 100
    solver = FAS(
        method.cycle, SGD, settings["lr"], epochs=epochs, share=method.shares, schedule=settings["schedule"],
        weight_decay=5e-4, seed=seed, options=Options(Smoothing(bf16=settings["bf16"]), gate=method.gate),
    )  # fmt: skip
    problem = Problem(loader, functional.cross_entropy, valid=validation)
    solution = solver.solve(levels, problem, evaluations=math.ceil(epochs * len(loader) / VALIDATIONS))
    seconds, records = validation.seconds, solution.events("evaluate")
    figures = records[-1]["figures"]
    return {
        **settings, "seconds": seconds, "flops": solution.flops,
        "test": evaluate(solution.model, few).accuracy if seed != TUNING else None,
        "valid": figures["accuracy"], "error": 1 - figures["accuracy"], "loss": figures["loss"],
        "reason": solution.reason, **count_events(solution),
        "curve": [
            [r["flops"], s, r["figures"]["accuracy"], r["level"]] for r, s in zip(records, validation.marks, strict=True)
        ],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return the tables, and the grids."""
    parts = []
    for table in dict.fromkeys(row_key(row, TABLE) for row in rows):
        these = [row for row in rows if row_key(row, TABLE) == table]
        runs = [row for row in these if row["seed"] != TUNING]
        network, width, epochs, bf16, seen = table
        precision = "bfloat16" if bf16 else "float32"
        parts += [f"\n{network}, width {width}, {epochs:g} epochs, {precision}, {seen:,} images of a validation\n"]
        if runs:
            parts += [
                "| method | schedule | minibatch | rate | n | test accuracy | FLOPs / plain | seconds / plain | points over plain at its FLOPs |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for key in dict.fromkeys(row_key(row, ("method", *POINT)) for row in runs):
                parts.append(format_line([row for row in runs if row_key(row, ("method", *POINT)) == key], runs))
            asked = sum(row["events"].get(event, 0) for row in runs for event in ("up", "skip"))
            parts += [f"\ncorrections taken: {sum(row['accepted'] for row in runs)} of {asked}"]
        parts += [format_trial(row) for row in these if row["seed"] == TUNING]
    return "\n".join(parts)


def format_line(runs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return a method's line of the table: medians over seeds. Each run is compared with the best plain run of its seed."""
    cells = []
    for row in runs:
        plain = [other for other in rows if other["seed"] == row["seed"] and other["method"].startswith("plain")]
        base = max((other for other in plain if other["method"] == "plain"), key=lambda r: r["test"], default=row)
        gain = 100 * (row["test"] - find_plain_accuracy(plain, row["flops"]))
        cells.append((100 * row["test"], row["flops"] / base["flops"], row["seconds"] / base["seconds"], gain))
    test, flops, seconds, gain = map(statistics.median, zip(*cells, strict=True))
    spread = f" ({min(c[0] for c in cells):.1f}–{max(c[0] for c in cells):.1f})" if len(runs) > 1 else ""
    row = runs[0]
    return (
        f"| {row['method']} | {row['schedule']} | {row['batch']} | {row['lr']:g} | {len(runs)} | {test:.1f}{spread} | {flops:.2f} | "
        f"{seconds:.2f} | {'' if math.isnan(gain) else f'{gain:+.1f}'} |"
    )


def find_plain_accuracy(plain: list[dict[str, Any]], cost: float) -> float:
    """Return the test accuracy of plain runs at a cost in FLOPs, interpolated in the logarithm of the cost. NaN outside."""
    ends = sorted((math.log(row["flops"]), row["test"]) for row in plain)
    inside = len(ends) > 1 and ends[0][0] - 0.1 <= math.log(cost) <= ends[-1][0] + 0.1
    return float(np.interp(math.log(cost), *zip(*ends, strict=True))) if inside else math.nan


def format_trial(row: dict[str, Any]) -> str:
    """Return one line of the grid."""
    point = f"{row['schedule']}, minibatch {row['batch']}, rate {row['lr']:g}"
    return f"grid: {row['method']}, {point}: {row['error']:.1%} of validation images wrong, {row['seconds']:.0f} s"


def draw_picture(rows: list[dict[str, Any]]) -> None:
    """Draw validation accuracy against FLOPs for each network and length, and test accuracy at the ends of the runs."""
    import matplotlib.pyplot as plt

    panels = sorted({(list(NETWORKS).index(row["network"]), row["network"], row["epochs"]) for row in rows})
    figure, grid = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 4.6), layout="constrained", squeeze=False)  # fmt: skip
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = dict(zip(methods, plt.get_cmap("tab20")(np.linspace(0, 1, len(methods))), strict=True))
    shown = {}
    for axes, (_, network, epochs) in zip(grid[0], panels, strict=True):
        for row in [row for row in rows if (row["network"], row["epochs"]) == (network, epochs)]:
            name, marker = row["method"], "osD^v<"[methods.index(row["method"]) % 6]
            points = [(flops / 1e12, 100 * accuracy) for flops, _, accuracy, _ in row["curve"]]
            axes.plot(*zip(*points, strict=True), color=colours[name], alpha=0.45, linewidth=1)
            end = (row["flops"] / 1e12, 100 * row["test"])
            shown[name] = axes.scatter(*end, color=colours[name], s=34, marker=marker, zorder=3)
        axes.set(xscale="log", xlabel="FLOPs of training (10¹²), everything counted", ylabel="accuracy, %", title=f"{network}, {epochs:g} epochs")  # fmt: skip
        axes.minorticks_off()
        low, high = axes.get_xlim()
        ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= tick <= high]
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.spines[["top", "right"]].set_visible(False)
    named = [name for name in methods if name in shown]
    figure.legend([shown[name] for name in named], named, loc="outside lower center", ncols=2, frameon=False, fontsize=8)  # fmt: skip
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def list_points(rows: list[dict[str, Any]], setting: dict[str, Any], grid: Iterable[Point] | None) -> list[Point]:
    """Return the points at which a method runs: those of the options, or the best that was tried."""
    if grid is not None:
        return list(grid)
    best = find_best_row(rows, setting, by="error")
    return [Point(best["schedule"], best["batch"], best["lr"])]


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_grid_parser(__doc__, RESULTS, RATES)
    parser.add_argument("--schedules", nargs="*", default=["wsd", "one-cycle"], help="schedules of the grid")
    parser.add_argument("--batch", type=int, nargs="*", default=[64, 128], help="images of a minibatch, of the grid")
    parser.add_argument("--fixed", action="store_true", help="run the results at the points of the options")
    parser.add_argument("--epochs", type=float, default=16.0, help="epochs of plain training")
    parser.add_argument("--tuned-at", type=float, help="epochs of the grid that the results take their points from")
    parser.add_argument("--directions", action="store_true", help="the rows of short runs over every direction")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--width", type=int, help="channels of the first stage (default: those of the network)")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seen", type=int, default=5000, help="images of a validation. The test takes ten times as many, at most all")  # fmt: skip
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="only these methods")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    options = parse_options()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows))
        draw_picture([row for row in rows if row["seed"] != TUNING])
        return
    every = list_directions() if options.directions else list_methods()
    methods = {n: m for n, m in every.items() if has_directions(options.network, m) and (not options.only or n in options.only)}  # fmt: skip
    on_grid = options.tune or options.fixed
    grid = list(starmap(Point, product(options.schedules, options.batch, options.rates))) if on_grid else None
    table = {"network": options.network, "width": options.width or NETWORKS[options.network][1], "epochs": options.epochs, "bf16": options.bf16, "seen": options.seen}  # fmt: skip
    data, calls = load_dataset("cifar10"), []
    for seed, name in product([TUNING] if options.tune else range(options.seeds), methods):
        tuned = {"method": name, **table, "epochs": options.tuned_at or options.epochs}
        for point in list_points(rows, tuned, grid):
            settings = {"method": name, **table, **asdict(point), "seed": seed}
            calls.append((settings, partial(train_once, settings, methods[name], data, options.device)))
    prepare_device(options.device)
    for row in run_missing(options.out, KEY, calls, describe_machine(options.device)):
        test = "" if row["test"] is None else f"test {row['test']:.4f} "
        print(f"{row['method']} {row['seed']} {row['schedule']} {row['batch']} {row['lr']:g}: {test}valid {row['valid']:.4f} {row['seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
