"""Claim: what coarsening channels, space and depth saves in training on CIFAR-10, beside plain runs of equal cost.

ResNet-20 and a VGG-like network, real CIFAR-10 with crops and flips, SGD with Nesterov momentum and one cycle of the rate,
channels innermost; ``--bf16`` where the processor multiplies such numbers, a GPU where there is one. ``--tune`` runs plain training
for half as long over `RATES` with seed 100, which no result uses, and the best rate is taken. Then for each seed every method
runs in turn: plain, and plain for a half and a quarter as long; the small networks alone; nested iteration over each direction; gated FAS.
The ledger counts matching, transfers, tau and line searches. Seconds are processor time of one thread: the machine is shared.

    NETGRAPH_DATA=... python benchmarks/training/cifar10_cnn.py --tune
    NETGRAPH_DATA=... python benchmarks/training/cifar10_cnn.py --seeds 3      # to benchmarks/results/cifar10_cnn.jsonl
    python benchmarks/training/cifar10_cnn.py --report                         # tables, and docs/pictures/cifar10_cnn.svg
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

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
TUNING = 100  # the seed of the grid
POINTS = 10  # measurements along a run
COLOURS = [*(f"C{i}" for i in range(10)), "black", "gold", "navy", "teal", "crimson", "deeppink"]
SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NOW = time.perf_counter if DEVICE == "cuda" else time.process_time


@dataclass(frozen=True)
class Network:
    """A network, its own width, and how many epochs let three seeds of both be over within an hour on two cores."""

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
        What coarse levels are coarse in; empty for one level.
    share : tuple of float
        Of the steps, finest level first.
    cycle : str
    alone : str
        ``level``: the coarse level is trained, and stays what it is; ``width``: a network of half the width is.
    length : float
        Of the run, over what was asked for.
    gate : Gate
    """

    directions: str = ""
    share: tuple[float, ...] = (1.0,)
    cycle: str = "kaskade"
    alone: str = ""
    length: float = 1.0
    gate: Gate = field(default_factory=Gate)

    def hierarchy(self, model: torch.nn.Module, inputs: torch.Tensor) -> ng.Hierarchy:
        """Return the levels that are trained, channels innermost."""
        found = ng.build_hierarchy(
            model, inputs, directions=self.directions or "channels", n_levels=max(len(self.share), 2)
        )
        ng.init_coarse_weights(found)
        levels = (
            found.levels if len(self.share) > 1 else found.levels[1:2] if self.alone == "level" else found.levels[:1]
        )
        for level in levels:
            level.model.to(memory_format=torch.channels_last)
        return replace(found, levels=levels)


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
ONE_SIZE = {"vgg": ("space", "depth")}  # five poolings need all of 32 pixels, and no blocks are residual


def has_directions(network: str, method: Method) -> bool:
    """Whether a network has the directions that a method coarsens."""
    return not any(direction in method.directions for direction in ONE_SIZE.get(network, ()))


def first_rows(split: DataSplit, n: int) -> DataSplit:
    """Return the first rows of a split."""
    return DataSplit(split.inputs[:n], split.targets[:n])


class Validation:
    """Validation figures of a run, and the seconds that it took without them."""

    def __init__(self, data: Dataset, n_images: int) -> None:
        self.few = replace(data, valid=first_rows(data.valid, n_images), test=first_rows(data.test, 10 * n_images))
        self.begun, self.own, self.seconds = NOW(), 0.0, list[float]()

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        begun = NOW()
        figures = evaluate(network, self.few, split="valid").figures()
        self.seconds.append(begun - self.begun - self.own)
        self.own += NOW() - begun
        return figures


def train_once(name: str, method: Method, data: Dataset, seed: int, how: dict[str, Any]) -> dict[str, Any]:
    """Train once, and return a line of results."""
    network, watch = NETWORKS[how["network"]], Validation(data, how["seen"])
    torch.manual_seed(seed)
    model = network.make(width=how["width"] // (2 if method.alone == "width" else 1)).to(DEVICE)
    loader = Loader(data, how["batch"], augment=crop_and_flip, seed=seed)
    hierarchy = method.hierarchy(model, data.ready(data.train.inputs[:2]).to(DEVICE))
    epochs = how["epochs"] * method.length
    solver = FAS(
        method.cycle, SGD, how["lr"], epochs=epochs, share=method.share, weight_decay=5e-4, seed=seed,
        options=Options(smoothing=Smoothing(bf16=how["bf16"]), gate=method.gate),
    )  # fmt: skip
    problem = Problem(loader, functional.cross_entropy, valid=watch)
    solution = solver.solve(hierarchy, problem, evaluations=math.ceil(epochs * len(loader) / POINTS))
    seconds = NOW() - watch.begun - watch.own
    measured = solution.events("evaluate")
    return {
        "method": name, "seed": seed, **how, "seconds": seconds, "flops": solution.flops,
        "test": evaluate(solution.model, watch.few).accuracy if seed != TUNING else None,
        "valid": measured[-1]["figures"]["accuracy"], "loss": measured[-1]["figures"]["loss"],
        "reason": solution.reason, "events": dict(Counter(record["event"] for record in solution.history)),
        "accepted": sum(record["length"] > 0 for record in solution.events("up")),
        "curve": [[r["flops"], s, r["figures"]["accuracy"], r["level"]] for r, s in zip(measured, watch.seconds, strict=True)],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were measured."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if "method" in row]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what makes a row: one that is there is not run again."""
    return tuple(row[name] for name in ("method", "seed", "network", "width", "lr", "batch", "epochs", "bf16"))


# reading


def plain_accuracy_at(rows: list[dict[str, Any]], cost: float) -> float:
    """Return what plain runs of a seed reach for so many operations, between their ends by the logarithm of cost."""
    ends = sorted((math.log(row["flops"]), row["test"]) for row in rows if row["method"].startswith("plain"))
    inside = len(ends) > 1 and ends[0][0] - 0.1 <= math.log(cost) <= ends[-1][0] + 0.1
    return float(np.interp(math.log(cost), *zip(*ends, strict=True))) if inside else math.nan


def cost_to_reach(row: dict[str, Any], accuracy: float) -> tuple[float, float]:
    """Return the operations and seconds after which a run's validation accuracy is that high, infinite where it never is."""
    if math.isnan(accuracy):
        return math.nan, math.nan
    return next(((flops, s) for flops, s, found, _ in row["curve"] if found >= accuracy), (math.inf, math.inf))


def format_method(name: str, own: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return a method's line: medians over seeds, each seed held against the plain runs of the same seed."""
    found: dict[str, list[float]] = {}
    for row in own:
        beside = [other for other in rows if other["seed"] == row["seed"]]
        plain = next((other for other in beside if other["method"] == "plain"), row)
        small = max((o["curve"][-1][2] for o in beside if METHODS[o["method"]].alone), default=math.nan)
        costs = {"plain": cost_to_reach(row, plain["curve"][-1][2]), "small": cost_to_reach(row, small)}
        cells = {"test": row["test"], "beside": row["test"] - plain_accuracy_at(beside, row["flops"])}
        for i, kind in enumerate(("flops", "seconds")):
            cells[kind] = row[kind] / plain[kind]
            cells |= {f"{whose} {kind}": cost[i] / plain[kind] for whose, cost in costs.items()}
        for key, value in cells.items():
            found.setdefault(key, []).append(value)
    median = {key: statistics.median(values) for key, values in found.items()}
    spread = f" ({min(found['test']):.1%}–{max(found['test']):.1%})" if len(own) > 1 else ""
    beside_ = "" if math.isnan(median["beside"]) else f"{100 * median['beside']:+.1f}"
    plain_cost, small_cost = (
        _format_costs(median[f"{whose} flops"], median[f"{whose} seconds"]) for whose in ("plain", "small")
    )
    return (
        f"| {name} | {len(own)} | {median['test']:.1%}{spread} | {median['flops']:.2f} | {median['seconds']:.2f} | {beside_} | "
        f"{plain_cost} | {small_cost} |"
    )


def _format_costs(flops: float, seconds: float) -> str:
    return "" if math.isnan(flops) else "never" if math.isinf(flops) else f"{flops:.2f}, {seconds:.2f}"


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table for each network, its grid, and the corrections that FAS took."""
    texts = []
    for kind in dict.fromkeys((row["network"], row["width"], row["epochs"]) for row in rows if row["seed"] != TUNING):
        mine = [row for row in rows if (row["network"], row["width"], row["epochs"]) == kind and row["seed"] != TUNING]
        how = f"rate {mine[0]['lr']:g}, batches of {mine[0]['batch']}, {10 * mine[0]['seen']:,} test images"
        texts.append(f"{kind[0]}, width {kind[1]}, {kind[2]:g} epochs, {how}")
        head = "| method | n | test accuracy | FLOPs / plain | seconds / plain | points over plain at its FLOPs | "
        lines = [
            head + "FLOPs, seconds to plain's end | to the best small one's end |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in (name for name in METHODS if any(row["method"] == name for row in mine)):
            lines.append(format_method(name, [row for row in mine if row["method"] == name], mine))
        asked = sum(row["events"].get(event, 0) for row in mine for event in ("up", "skip"))
        texts += ["\n".join(lines), f"corrections taken: {sum(row['accepted'] for row in mine)} of {asked}"]
    tuned = [row for row in rows if row["seed"] == TUNING]
    for row in sorted(tuned, key=lambda row: (row["network"], -row["valid"])):
        texts.append(
            f"grid: {row['network']}, {row['epochs']:g} epochs, rate {row['lr']:g}: {row['valid']:.1%} of validation images right"
        )
    return "\n\n".join(texts)


def draw_picture(rows: list[dict[str, Any]]) -> None:
    """Draw validation accuracy against operations along a network's longest runs, faint, and test accuracy at their ends."""
    import matplotlib.pyplot as plt

    names = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
    figure, grid = plt.subplots(1, len(names), figsize=(5.2 * len(names), 4.6), layout="constrained", squeeze=False)
    for axes, network in zip(grid[0], names, strict=True):
        mine = [row for row in rows if row["network"] == network]
        mine = [row for row in mine if row["epochs"] == max(other["epochs"] for other in mine)]
        for i, name in enumerate(METHODS):
            own, marker = [row for row in mine if row["method"] == name], "osD^v<"[i % 6]
            for row in own:
                points = [(flops / 1e12, 100 * accuracy) for flops, _, accuracy, _ in row["curve"]]
                axes.plot(*zip(*points, strict=True), color=COLOURS[i], alpha=0.45, linewidth=1)
            if own:
                ends = [(row["flops"] / 1e12, 100 * row["test"]) for row in own]
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


def tuned(rows: list[dict[str, Any]], network: str, width: int) -> float:
    """Return the best rate of the grid."""
    grid = [row for row in rows if row["seed"] == TUNING and (row["network"], row["width"]) == (network, width)]
    if not grid:
        raise SystemExit(f"{network} of width {width} has no grid yet; run --tune first, or give --lr")
    return float(max(grid, key=lambda row: row["valid"])["lr"])


def list_jobs(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[tuple[str, Method, int, dict[str, Any]]]:
    """Return what is to be run: method, seed and how."""
    jobs = []
    for network in options.network or NETWORKS:
        width = options.width or NETWORKS[network].width
        lr = 0.0 if options.tune else options.lr or tuned(rows, network, width)
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
    parser.add_argument("--network", choices=NETWORKS, action="append", help="by default all")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, help="by default the network's own")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, help="of the first stage; by default the network's own")
    parser.add_argument("--lr", type=float, help="by default the best of the grid")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument(
        "--seen", type=int, default=1000, help="validation images of a measurement; of test images ten times as many"
    )
    parser.add_argument("--only", nargs="*", help="methods whose names hold one of these words")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        rows = rows_in(options.out)
        print(format_report(rows))
        draw_picture([row for row in rows if row["seed"] != TUNING])
        return
    torch.set_num_threads(1)
    data, rows = load_dataset("cifar10"), rows_in(options.out)
    done = {key_of(row) for row in rows}
    with options.out.open("a") as file:
        file.write(json.dumps({"machine": platform.platform(), "torch": torch.__version__, "device": DEVICE}) + "\n")
        for name, method, seed, how in list_jobs(options, rows):
            if key_of({"method": name, "seed": seed, **how}) in done:
                continue
            row = train_once(name, method, data, seed, how)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                how["network"],
                name,
                seed,
                how["lr"],
                f"test {row['test']} valid {row['valid']:.3f} {row['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
