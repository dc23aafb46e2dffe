"""Claim: savings from coarsening channels, space and depth during training on CIFAR-10, compared with plain runs of equal cost.

ResNet-20 and a VGG-like network, real CIFAR-10 with crops and flips, SGD with Nesterov momentum and one cycle of the rate, memory
format channels_last. ``--bf16`` pays if the processor multiplies such numbers. A GPU is used if there is one. ``--tune`` runs plain
training for half as long over `RATES` with seed 100, which no result uses, and results use the best rate. Then, for each seed,
every method runs in turn: plain training, plain training for a half and a quarter as long, the small networks alone, nested
iteration over each direction, and gated FAS. The ledger counts matching, transfers, tau and line searches. Seconds are processor
time of one thread, because the machine is shared.

    NETGRAPH_DATA=... python benchmarks/training/cifar10_cnn.py --tune
    NETGRAPH_DATA=... python benchmarks/training/cifar10_cnn.py --seeds 3      # to benchmarks/results/cifar10_cnn.jsonl
    python benchmarks/training/cifar10_cnn.py --report                         # tables, and docs/pictures/cifar10_cnn.svg
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import TimedValidation, count_events, read_rows, run_missing

import netgraph as ng
from netgraph.fas.options import Gate, Options, Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.cnn import resnet20, vgg
from netgraph.models.data.augmentation import crop_and_flip
from netgraph.models.data.datasets import Dataset, DataSplit, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.training.evaluation import evaluate

RESULTS = Path(__file__).parent.parent / "results" / "cifar10_cnn.jsonl"
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "cifar10_cnn.svg"
RATES = (0.05, 0.1, 0.2, 0.4)
TUNING = 100  # seed of the grid
POINTS = 10  # validations along a run
COLOURS = [*(f"C{i}" for i in range(10)), "black", "gold", "navy", "teal", "crimson", "deeppink"]
SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOCK = time.perf_counter if DEVICE == "cuda" else time.process_time
KEY = ("method", "seed", "network", "width", "lr", "batch", "epochs", "bf16")  # identifies a row


@dataclass(frozen=True)
class Network:
    """A network, its width, and its number of epochs. Three seeds of both networks take an hour on two cores."""

    make: Callable[..., torch.nn.Module]
    width: int
    epochs: float


NETWORKS = {"resnet20": Network(resnet20, 16, 3), "vgg": Network(vgg, 32, 2)}


@dataclass(frozen=True)
class Method:
    """One way to train.

    Parameters
    ----------
    directions : str
        Directions of coarsening. Empty for one level.
    share : tuple of float
        Share of the steps on each level, finest first.
    cycle : str
        Name of the cycle.
    alone : str
        ``level``: train the coarse level alone. ``width``: train a network of half the width.
    length : float
        Length of the run, as a multiple of the epochs asked for.
    gate : Gate
        Gate of coarse steps.
    """

    directions: str = ""
    share: tuple[float, ...] = (1.0,)
    cycle: str = "kaskade"
    alone: str = ""
    length: float = 1.0
    gate: Gate = field(default_factory=Gate)

    def hierarchy(self, model: torch.nn.Module, inputs: torch.Tensor) -> ng.Hierarchy:
        """Return the levels that are trained, in memory format channels_last."""
        hierarchy = ng.build_hierarchy(
            model, inputs, directions=self.directions or "channels", n_levels=max(len(self.share), 2)
        )
        ng.init_coarse_weights(hierarchy)
        levels = hierarchy.levels
        if len(self.share) == 1:
            levels = levels[1:2] if self.alone == "level" else levels[:1]
        for level in levels:
            level.model.to(memory_format=torch.channels_last)
        return replace(hierarchy, levels=levels)


NESTED = (0.3, 0.7)
METHODS = {
    "plain": Method(),
    "plain, half as long": Method(length=0.5),
    "plain, a quarter as long": Method(length=0.25),
    "half of the channels alone": Method(alone="width"),
    "half of the channels for the cost of plain": Method(alone="width", length=3.0),
    "half the resolution alone": Method("space", alone="level"),
    "nested iteration over channels": Method("channels", NESTED),
    "nested iteration over channels, twice as long": Method("channels", NESTED, length=2.0),
    "nested iteration over space": Method("space", NESTED),
    "nested iteration over depth": Method("depth", NESTED),
    "nested iteration over channels and space": Method("channels+space", NESTED),
    "nested iteration over all three": Method("channels+space+depth", NESTED),
    "nested iteration over channels, then space": Method("channels,space", (0.3, 0.4, 0.3)),
    "nested iteration over depth, then channels": Method("depth,channels", (0.25, 0.25, 0.5)),
    "gated FAS, full, over channels": Method("channels", NESTED, "full"),
    "FAS, full, over depth, whatever it costs": Method("depth", NESTED, "full", gate=Gate(share=math.inf)),
}
ONE_SIZE = {"vgg": ("space", "depth")}  # five poolings need 32 pixels, and there are no residual blocks


def has_directions(network: str, method: Method) -> bool:
    """Return True if a network has the directions that a method coarsens."""
    return not any(direction in method.directions for direction in ONE_SIZE.get(network, ()))


def first_rows(split: DataSplit, n: int) -> DataSplit:
    """Return the first rows of a split."""
    return DataSplit(split.inputs[:n], split.targets[:n])


def train_once(name: str, method: Method, data: Dataset, seed: int, how: dict[str, Any]) -> dict[str, Any]:
    """Train once, and return a row of results."""
    network, n_images = NETWORKS[how["network"]], how["seen"]
    few = replace(data, valid=first_rows(data.valid, n_images), test=first_rows(data.test, 10 * n_images))
    validation = TimedValidation(lambda model: evaluate(model, few, split="valid").figures(), CLOCK)
    torch.manual_seed(seed)
    model = network.make(width=how["width"] // (2 if method.alone == "width" else 1)).to(DEVICE)
    loader = Loader(data, how["batch"], augment=crop_and_flip, seed=seed)
    hierarchy = method.hierarchy(model, data.ready(data.train.inputs[:2]).to(DEVICE))
    epochs = how["epochs"] * method.length
    solver = FAS(
        method.cycle, SGD, how["lr"], epochs=epochs, share=method.share, weight_decay=5e-4, seed=seed,
        options=Options(smoothing=Smoothing(bf16=how["bf16"]), gate=method.gate),
    )  # fmt: skip
    problem = Problem(loader, functional.cross_entropy, valid=validation)
    solution = solver.solve(hierarchy, problem, evaluations=math.ceil(epochs * len(loader) / POINTS))
    seconds, records = validation.seconds, solution.events("evaluate")
    return {
        "method": name, "seed": seed, **how, "seconds": seconds, "flops": solution.flops,
        "test": evaluate(solution.model, few).accuracy if seed != TUNING else None,
        "valid": records[-1]["figures"]["accuracy"], "loss": records[-1]["figures"]["loss"],
        "reason": solution.reason, **count_events(solution),
        "curve": [
            [r["flops"], s, r["figures"]["accuracy"], r["level"]] for r, s in zip(records, validation.marks, strict=True)
        ],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def plain_accuracy_at(rows: list[dict[str, Any]], cost: float) -> float:
    """Return the test accuracy of plain runs at a cost in FLOPs, interpolated in the logarithm of the cost. NaN outside."""
    ends = sorted((math.log(row["flops"]), row["test"]) for row in rows if row["method"].startswith("plain"))
    inside = len(ends) > 1 and ends[0][0] - 0.1 <= math.log(cost) <= ends[-1][0] + 0.1
    return float(np.interp(math.log(cost), *zip(*ends, strict=True))) if inside else math.nan


def cost_to_reach(row: dict[str, Any], accuracy: float) -> tuple[float, float]:
    """Return FLOPs and seconds until a run's validation accuracy reaches a value, infinite if it never does."""
    if math.isnan(accuracy):
        return math.nan, math.nan
    return next(((flops, s) for flops, s, reached, _ in row["curve"] if reached >= accuracy), (math.inf, math.inf))


def format_method(name: str, runs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return a method's line of the table: medians over seeds. Each run is compared with the plain run of its seed."""
    values: dict[str, list[float]] = {}
    for row in runs:
        same_seed = [other for other in rows if other["seed"] == row["seed"]]
        plain = next((other for other in same_seed if other["method"] == "plain"), row)
        small = max((o["curve"][-1][2] for o in same_seed if METHODS[o["method"]].alone), default=math.nan)
        costs = {"plain": cost_to_reach(row, plain["curve"][-1][2]), "small": cost_to_reach(row, small)}
        cells = {"test": row["test"], "gain": row["test"] - plain_accuracy_at(same_seed, row["flops"])}
        for i, kind in enumerate(("flops", "seconds")):
            cells[kind] = row[kind] / plain[kind]
            cells |= {f"{target} {kind}": cost[i] / plain[kind] for target, cost in costs.items()}
        for key, value in cells.items():
            values.setdefault(key, []).append(value)
    median = {key: statistics.median(numbers) for key, numbers in values.items()}
    spread = f" ({min(values['test']):.1%}–{max(values['test']):.1%})" if len(runs) > 1 else ""
    gain = "" if math.isnan(median["gain"]) else f"{100 * median['gain']:+.1f}"
    plain_cost, small_cost = (
        _format_costs(median[f"{target} flops"], median[f"{target} seconds"]) for target in ("plain", "small")
    )
    return (
        f"| {name} | {len(runs)} | {median['test']:.1%}{spread} | {median['flops']:.2f} | {median['seconds']:.2f} | {gain} | "
        f"{plain_cost} | {small_cost} |"
    )


def _format_costs(flops: float, seconds: float) -> str:
    return "" if math.isnan(flops) else "never" if math.isinf(flops) else f"{flops:.2f}, {seconds:.2f}"


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table for each network, the number of accepted corrections, and the grid."""
    texts = []
    for kind in dict.fromkeys((row["network"], row["width"], row["epochs"]) for row in rows if row["seed"] != TUNING):
        runs = [row for row in rows if (row["network"], row["width"], row["epochs"]) == kind and row["seed"] != TUNING]
        how = f"rate {runs[0]['lr']:g}, batches of {runs[0]['batch']}, {10 * runs[0]['seen']:,} test images"
        texts.append(f"{kind[0]}, width {kind[1]}, {kind[2]:g} epochs, {how}")
        head = "| method | n | test accuracy | FLOPs / plain | seconds / plain | points over plain at its FLOPs | "
        lines = [
            head + "FLOPs, seconds to plain's end | to the best small one's end |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in (name for name in METHODS if any(row["method"] == name for row in runs)):
            lines.append(format_method(name, [row for row in runs if row["method"] == name], runs))
        asked = sum(row["events"].get(event, 0) for row in runs for event in ("up", "skip"))
        texts += ["\n".join(lines), f"corrections taken: {sum(row['accepted'] for row in runs)} of {asked}"]
    grid_runs = [row for row in rows if row["seed"] == TUNING]
    for row in sorted(grid_runs, key=lambda row: (row["network"], -row["valid"])):
        texts.append(
            f"grid: {row['network']}, {row['epochs']:g} epochs, rate {row['lr']:g}: {row['valid']:.1%} of validation images right"
        )
    return "\n\n".join(texts)


def draw_picture(rows: list[dict[str, Any]]) -> None:
    """Draw validation accuracy against FLOPs for each network's longest runs, and test accuracy at their ends."""
    import matplotlib.pyplot as plt

    names = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
    figure, grid = plt.subplots(1, len(names), figsize=(5.2 * len(names), 4.6), layout="constrained", squeeze=False)
    for axes, network in zip(grid[0], names, strict=True):
        runs = [row for row in rows if row["network"] == network]
        runs = [row for row in runs if row["epochs"] == max(other["epochs"] for other in runs)]
        for i, name in enumerate(METHODS):
            method_runs, marker = [row for row in runs if row["method"] == name], "osD^v<"[i % 6]
            for row in method_runs:
                points = [(flops / 1e12, 100 * accuracy) for flops, _, accuracy, _ in row["curve"]]
                axes.plot(*zip(*points, strict=True), color=COLOURS[i], alpha=0.45, linewidth=1)
            if method_runs:
                ends = [(row["flops"] / 1e12, 100 * row["test"]) for row in method_runs]
                axes.scatter(*zip(*ends, strict=True), color=COLOURS[i], s=34, marker=marker, zorder=3, label=name)
        axes.set(
            xscale="log", xlabel="FLOPs of training (10¹²), everything counted", ylabel="accuracy, %", title=network
        )
        axes.minorticks_off()
        low, high = axes.get_xlim()
        ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.spines[["top", "right"]].set_visible(False)
    shown = {label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    named = [name for name in METHODS if name in shown]
    figure.legend(
        [shown[name] for name in named], named, loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def best_rate(rows: list[dict[str, Any]], network: str, width: int) -> float:
    """Return the best learning rate of the grid."""
    grid = [row for row in rows if row["seed"] == TUNING and (row["network"], row["width"]) == (network, width)]
    if not grid:
        raise SystemExit(f"{network} of width {width} has no grid yet. Run --tune first, or give --lr.")
    return float(max(grid, key=lambda row: row["valid"])["lr"])


def list_jobs(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[tuple[str, Method, int, dict[str, Any]]]:
    """Return the runs to do: name, method, seed and settings."""
    jobs = []
    for network in options.network or NETWORKS:
        width = options.width or NETWORKS[network].width
        lr = 0.0 if options.tune else options.lr or best_rate(rows, network, width)
        how = {
            "network": network, "width": width, "lr": lr, "batch": options.batch, "epochs": options.epochs or NETWORKS[network].epochs, "bf16": options.bf16, "seen": options.seen,
        }  # fmt: skip
        if options.tune:
            jobs += [
                ("plain", METHODS["plain"], TUNING, {**how, "lr": lr, "epochs": how["epochs"] / 2}) for lr in RATES
            ]
            continue
        for seed, (name, method) in itertools.product(range(options.seeds), METHODS.items()):
            if has_directions(network, method) and (not options.only or any(word in name for word in options.only)):
                jobs.append((name, method, seed, how))
    return jobs


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all networks")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, help="default: that of the network")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, help="channels of the first stage (default: those of the network)")
    parser.add_argument("--lr", type=float, help="default: the best rate of the grid")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument(
        "--seen", type=int, default=1000, help="images of a validation. The test uses ten times as many"
    )
    parser.add_argument("--only", nargs="*", help="only methods whose names contain one of these words")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.report:
        print(format_report(rows))
        draw_picture([row for row in rows if row["seed"] != TUNING])
        return
    torch.set_num_threads(1)
    data = load_dataset("cifar10")
    machine = {"machine": platform.platform(), "torch": torch.__version__, "device": DEVICE}
    calls = [
        ({"method": name, "seed": seed, **how}, partial(train_once, name, method, data, seed, how))
        for name, method, seed, how in list_jobs(options, rows)
    ]
    for row in run_missing(options.out, KEY, calls, machine):
        figures = f"test {row['test']} valid {row['valid']:.3f} {row['seconds']:.0f} s"
        print(row["network"], row["method"], row["seed"], row["lr"], figures, flush=True)


if __name__ == "__main__":
    main()
