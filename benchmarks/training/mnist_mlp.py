"""Claim: nested iteration and gated FAS on MNIST, compared at the final loss of a tuned plain run.

The network is 784-1024-1024-10 (``--widths`` takes others) on real MNIST: 55,000 images for training, 5,000 for validation, 10,000 for
the test accuracy. Every method runs with its own full schedule: plain training, the coarse networks alone, nested iteration, and FAS with
tau, gate and line search. ``--ablations`` change one thing of one of them. With ``--augment`` images are shifted by up to 2 pixels, so that
a long run does not overfit, and the methods are those of `list_grown`.

``--tune`` runs a grid of rates and minibatches with seed 100, which no result uses. The results take each method's best point, or with
``--fixed`` the points of the options. The ledger counts matching, transfers, tau and line searches. Seconds are processor time of one
thread, because the machine is shared.

    NETGRAPH_DATA=... python benchmarks/training/mnist_mlp.py --augment --epochs 20 --schedule wsd --tune
    NETGRAPH_DATA=... python benchmarks/training/mnist_mlp.py --augment --epochs 20 --schedule wsd    # to benchmarks/results/mnist_mlp.jsonl
    NETGRAPH_DATA=... python benchmarks/training/mnist_mlp.py --fixed --rates 1e-3 --ablations        # 4 epochs, one cycle
    python benchmarks/training/mnist_mlp.py --report                                                  # tables, and docs/pictures/mnist_mlp.svg
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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
from netgraph.fas.options.groups import Adapt, Gate, Smoothing, Split, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.data.augmentation import random_crop
from netgraph.models.data.datasets import Dataset, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.perceptron import mlp
from netgraph.models.training.evaluation import evaluate
from netgraph.viz.figures.drawing import OKABE_ITO

RESULTS = Path(__file__).parent.parent / "results" / "mnist_mlp.jsonl"
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "mnist_mlp.svg"
RATES = (5e-4, 1e-3, 2e-3)
COLOURS, MARKERS = (*OKABE_ITO, "black"), "ooossDD"  # one for each method: alone, nested, FAS
TABLE = ("widths", "augment", "epochs", "schedule")  # what a point of the grid depends on, beside the method
POINT = ("batch", "lr")  # of the grid
KEY = ("method", *TABLE, *POINT, "seed")  # identifies a row
ADAMW = torch.optim.AdamW
INF = float("inf")
TRIED = Gate(gap=INF, tau=INF, kappa=0.0, share=INF)  # the line search alone decides
OPEN = replace(TRIED, search=())


class Method:
    """One way to train.

    Parameters
    ----------
    solver : callable
        Builds the solver from a learning rate, epochs and a seed.
    levels : int
        Number of levels.
    shrink : int
        Divisor of the hidden widths, for a small network alone.
    length : float
        Length of the run, as a multiple of the epochs asked for.
    drawn : bool
        Draw new first weights of coarse levels, instead of injecting them.
    **hierarchy
        Arguments of `netgraph.build_hierarchy`.
    """

    def __init__(
        self,
        solver: Callable[..., FAS],
        levels: int = 1,
        shrink: int = 1,
        *,
        length: float = 1.0,
        drawn: bool = True,
        **hierarchy: Any,
    ) -> None:
        self.solver, self.levels, self.shrink, self.length = solver, levels, shrink, length
        self.drawn, self.hierarchy = drawn, hierarchy

    def make(self, model: torch.nn.Module, data: Dataset) -> Any:
        """Return a hierarchy of ``levels`` levels. One level needs no matching."""
        hierarchy = ng.build_hierarchy(model, data.train.inputs[:2], n_levels=max(self.levels, 2), **self.hierarchy)
        if self.drawn:
            ng.init_coarse_weights(hierarchy)
        return hierarchy if self.levels > 1 else replace(hierarchy, levels=hierarchy.levels[:1])


def cycle_solver(
    cycle: str, share: tuple[float, ...] | None = None, *, per_level: bool = False, **options: Any
) -> Callable[..., FAS]:
    """Return a function that builds a multilevel solver from a learning rate, epochs and a seed."""
    return lambda **how: FAS(cycle, ADAMW, share=share, schedule_per_level=per_level, options=Options(**options), **how)


def plain_solver(**how: Any) -> FAS:
    """Return plain training."""
    return make_plain_solver(optimizer=ADAMW, **how)


METHODS = {
    "plain": Method(plain_solver),
    "half the width alone": Method(plain_solver, shrink=2),
    "a quarter of the width alone": Method(plain_solver, shrink=4),
    "nested iteration, 2 levels": Method(cycle_solver("kaskade", (0.3, 0.7)), 2),
    "nested iteration, 3 levels": Method(cycle_solver("kaskade", (0.25, 0.25, 0.5)), 3),
    "gated FAS, V-cycles, 2 levels": Method(cycle_solver("v"), 2),
    "gated FAS, full, 2 levels": Method(cycle_solver("full", (0.3, 0.7)), 2),
}
ABLATIONS = {
    "nested 2: injected first weights": Method(cycle_solver("kaskade", (0.3, 0.7)), 2, drawn=False),
    "nested 2: no noise": Method(cycle_solver("kaskade", (0.3, 0.7), split=Split("none")), 2),
    "nested 2: noise on everything": Method(cycle_solver("kaskade", (0.3, 0.7), split=Split("everything", 0.3)), 2),
    "nested 2: gamma 1": Method(cycle_solver("kaskade", (0.3, 0.7), split=Split(gamma=1.0)), 2),
    "nested 2: moments reset": Method(cycle_solver("kaskade", (0.3, 0.7), smoothing=Smoothing(moments=False)), 2),
    "nested 2: half of the steps fine": Method(cycle_solver("kaskade", (0.5, 0.5)), 2),
    "nested 2: random pairs": Method(cycle_solver("kaskade", (0.3, 0.7)), 2, coarsener="random"),
    "nested 2: a schedule for each level": Method(cycle_solver("kaskade", (0.3, 0.7), per_level=True), 2),
    "V 2: whatever it costs": Method(cycle_solver("v", gate=Gate(share=INF)), 2),
    "V 2: no gate": Method(cycle_solver("v", gate=TRIED), 2),
    "V 2: no gate, no line search": Method(cycle_solver("v", gate=OPEN), 2),
    "V 2: no gate, moments reset": Method(cycle_solver("v", gate=TRIED, smoothing=Smoothing(moments=False)), 2),
    "full 2: whatever it costs": Method(cycle_solver("full", (0.3, 0.7), gate=Gate(share=INF)), 2),
    "full 2: no gate": Method(cycle_solver("full", (0.3, 0.7), gate=TRIED), 2),
    "full 2: no gate, half of the turns fine": Method(cycle_solver("full", (0.5, 0.5), gate=TRIED), 2),
    "additive 2: no gate": Method(cycle_solver("additive", gate=TRIED), 2),
    "F 3 levels: no gate": Method(cycle_solver("f", gate=TRIED), 3),
    "V 2: no gate, no tau": Method(cycle_solver("v", tau=Tau("none"), gate=TRIED), 2),
    "V 2: no gate, a tau for each minibatch": Method(cycle_solver("v", tau=Tau("several"), gate=TRIED), 2),
    "V 2: no gate, matched again every 20 cycles": Method(cycle_solver("v", adapt=Adapt(rematch=20), gate=TRIED), 2),
    "W 3 levels: no gate": Method(cycle_solver("w", gate=TRIED), 3),
}


def list_grown() -> dict[str, Method]:
    """Return the methods of long runs on shifted images."""
    return {
        "plain": Method(plain_solver),
        "plain, 0.6 as long": Method(plain_solver, length=0.6),
        "half the width alone": Method(plain_solver, shrink=2),
        "half the width, grown at 0.6": Method(cycle_solver("kaskade", (0.4, 0.6)), 2),
        "half the width, grown at 0.7": Method(cycle_solver("kaskade", (0.3, 0.7)), 2),
    }


def shift_images(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Shift flat images by up to 2 pixels along both axes."""
    return random_crop(inputs.unflatten(1, (1, 28, 28)), generator, pad=2).flatten(1)


def train_once(settings: dict[str, Any], method: Method, data: Dataset) -> dict[str, Any]:
    """Train once with the settings of a row, and return the row with its results."""
    seed, widths = settings["seed"], settings["widths"]
    torch.manual_seed(seed)
    model = mlp((widths[0], *(w // method.shrink for w in widths[1:-1]), widths[-1]))
    loader = Loader(data, settings["batch"], augment=shift_images if settings["augment"] else None, seed=seed)
    validation = TimedValidation(lambda network: evaluate(network, data, split="valid").figures())
    hierarchy = method.make(model, data)
    problem = Problem(loader, functional.cross_entropy, valid=validation)
    solver = method.solver(
        lr=settings["lr"], epochs=settings["epochs"] * method.length, schedule=settings["schedule"], seed=seed
    )
    solution = solver.solve(hierarchy, problem, evaluations=430)
    seconds = validation.seconds
    evaluations = [record for record in solution.events("evaluate") if record["level"] == 0 or method.levels == 1]
    return {
        **settings, "seconds": seconds, "flops": solution.flops,
        "loss": evaluations[-1]["figures"]["loss"], "accuracy": evaluations[-1]["figures"]["accuracy"],
        "test": evaluate(model, data).accuracy, **count_events(solution),
        "curve": [[r["flops"], r["figures"]["loss"], r["figures"]["accuracy"], r["level"]] for r in solution.events("evaluate")],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table with one line for each method and its settings.

    Values are medians over seeds, with their spread. Costs are relative to the longest plain runs.
    """
    runs = [row for row in rows if row["seed"] != TUNING]
    plain = [row for row in runs if row["method"] == "plain"]
    longest = [row for row in plain if row["epochs"] == max(other["epochs"] for other in plain)]
    base = {kind: statistics.median(row[kind] for row in longest) for kind in ("flops", "seconds")} if plain else {}
    columns = ("method", "epochs", "schedule", *POINT)
    lines = [
        "| method | epochs | schedule | minibatch | rate | n | validation loss | test accuracy | FLOPs / plain | seconds / plain | corrections |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys(row_key(row, columns) for row in runs):
        lines.append(format_line([row for row in runs if row_key(row, columns) == key], base))
    return "\n".join(lines)


def format_line(runs: list[dict[str, Any]], base: dict[str, float]) -> str:
    """Return one line of the table."""
    row, losses = runs[0], [row["loss"] for row in runs]
    asked = sum(row["events"].get(kind, 0) for row in runs for kind in ("up", "skip"))
    taken = f"{sum(row['accepted'] for row in runs)} of {asked}" if asked else ""
    costs = " | ".join(f"{statistics.median(row[kind] for row in runs) / base[kind]:.2f}" for kind in base) or " | "
    spread = f" ({min(losses):.4f}–{max(losses):.4f})" if len(runs) > 1 else ""
    return (
        f"| {row['method']} | {row['epochs']:g} | {row['schedule']} | {row['batch']} | {row['lr']:g} | {len(runs)} | "
        f"{statistics.median(losses):.4f}{spread} | {statistics.median(row['test'] for row in runs):.2%} | {costs} | {taken} |"
    )


def format_grid(rows: list[dict[str, Any]]) -> str:
    """Return a table with one line for each run of the grid, the best of each method first."""
    lines = ["| method | rate | batch | epochs | schedule | validation loss |", "|---|---|---|---|---|---|"]
    for row in sorted((row for row in rows if row["seed"] == TUNING), key=lambda row: (row["method"], row["loss"])):
        point = f"{row['lr']:g} | {row['batch']} | {row['epochs']:g} | {row['schedule']}"
        lines.append(f"| {row['method']} | {point} | {row['loss']:.4f} |")
    return "\n".join(lines)


def draw_picture(rows: list[dict[str, Any]]) -> None:
    """Draw validation loss against FLOPs for every method but the ablations. Lines are runs, markers their ends."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for i, name in enumerate(n for n in METHODS if any(row["method"] == n for row in rows)):
        runs = [row for row in rows if row["method"] == name]
        for row in runs:
            points = [(flops / 1e12, loss) for flops, loss, _, _ in row["curve"]]
            axes.plot(*zip(*points, strict=True), color=COLOURS[i], alpha=0.35, linewidth=1)
        ends = [(row["flops"] / 1e12, row["loss"]) for row in runs]
        axes.scatter(*zip(*ends, strict=True), color=COLOURS[i], marker=MARKERS[i], s=22, zorder=3, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs of training (10¹²), everything counted",
        ylabel="validation loss",
        ylim=(0.05, 0.4),
    )
    axes.set_xticks([0.1, 0.3, 1, 3], labels=["0.1", "0.3", "1", "3"])
    axes.set_yticks([0.06, 0.08, 0.1, 0.2, 0.4], labels=["0.06", "0.08", "0.1", "0.2", "0.4"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_grid_parser(__doc__, RESULTS, RATES)
    parser.add_argument("--batch", type=int, nargs="*", default=[128], help="images of a minibatch, of the grid")
    parser.add_argument("--fixed", action="store_true", help="run the results at the points of the options")
    parser.add_argument("--augment", action="store_true", help="shift images by up to 2 pixels")
    parser.add_argument("--ablations", action="store_true", help="run the ablations too, with the first seed")
    parser.add_argument("--only", nargs="*", help="only these methods")
    parser.add_argument("--epochs", type=float, default=4.0, help="epochs of plain training")
    parser.add_argument("--schedule", default="one-cycle", help="schedule of all methods, such as wsd")
    parser.add_argument("--widths", type=int, nargs="*", default=[1024, 1024])
    return parser.parse_args()


def list_jobs(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Method]]:
    """Return the runs to do: the settings of a row, and its method."""
    methods = list_grown() if options.augment else METHODS
    seeds = [TUNING] if options.tune else range(options.seeds)
    runs = [(seed, name, method) for seed in seeds for name, method in methods.items()]
    runs += [(0, name, method) for name, method in ABLATIONS.items() if options.ablations]
    table = {"widths": (784, *options.widths, 10), "augment": options.augment, "epochs": options.epochs, "schedule": options.schedule}  # fmt: skip
    jobs = []
    for seed, name, method in runs:
        if options.only and name not in options.only:
            continue
        points = list(product(options.batch, options.rates))
        if not (options.tune or options.fixed):
            best = find_best_row(rows, {"method": name, **table, "widths": list(table["widths"])})
            points = [(best["batch"], best["lr"])]
        jobs += [({"method": name, **table, "batch": batch, "lr": lr, "seed": seed}, method) for batch, lr in points]
    return jobs


def main() -> None:
    """Run the benchmark."""
    options = parse_options()
    rows = read_rows(options.out)
    if options.report:
        for widths, augment in dict.fromkeys(row_key(row, ("widths", "augment")) for row in rows):
            these = [row for row in rows if row_key(row, ("widths", "augment")) == (widths, augment)]
            print(f"\n{'-'.join(map(str, widths))}{', shifted images' if augment else ''}\n")
            print(format_report(these), format_grid(these), sep="\n\n")
        drawn = [row for row in rows if row["seed"] != TUNING and row["method"] in METHODS and not row["augment"]]
        if drawn:
            draw_picture([row for row in drawn if row["widths"][1:-1] == options.widths])
        return
    prepare_device("cpu")
    data = load_dataset("mnist").flat()
    calls = [(settings, partial(train_once, settings, method, data)) for settings, method in list_jobs(options, rows)]
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        figures = f"loss {row['loss']:.4f} test {row['test']:.4f} {row['seconds']:.0f} s"
        print(row["method"], row["seed"], row["batch"], row["lr"], figures, flush=True)


if __name__ == "__main__":
    main()
