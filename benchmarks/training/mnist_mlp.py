"""Claim: nested iteration and gated FAS on MNIST, compared at the final loss of a tuned plain run.

The network is 784-1024-1024-10 (``--widths`` takes others) on real MNIST: 55,000 images for training, 5,000 for validation, 10,000 for
the test accuracy. ``--tune`` runs plain training over `GRID` with seed 100, which no result uses. Its best run is `TUNED`.
Then, for each seed, every method runs in turn with its own full schedule: plain training, the coarse networks alone, nested
iteration, and FAS with tau, gate and line search. `ABLATIONS` change one thing of one of them. The ledger counts matching,
transfers, tau and line searches. Seconds are processor time of one thread, because the machine is shared.

    NETGRAPH_DATA=... python benchmarks/training/mnist_mlp.py --tune
    NETGRAPH_DATA=... python benchmarks/training/mnist_mlp.py --seeds 3 --ablations    # to benchmarks/results/mnist_mlp.jsonl
    python benchmarks/training/mnist_mlp.py --report                                   # tables, and docs/pictures/mnist_mlp.svg
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import TimedValidation, count_events, read_rows, run_missing

import netgraph as ng
from netgraph.fas.options import Adapt, Gate, Options, Smoothing, Split, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.data.datasets import Dataset, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.perceptron import mlp
from netgraph.models.training.evaluation import evaluate
from netgraph.viz.figures.drawing import OKABE_ITO

RESULTS = Path(__file__).parent.parent / "results" / "mnist_mlp.jsonl"
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "mnist_mlp.svg"
GRID = [
    {"lr": lr, "batch": batch, "epochs": epochs, "schedule": schedule}
    for lr, batch, epochs, schedule in (
        (5e-4, 128, 4, "one-cycle"), (1e-3, 128, 4, "one-cycle"), (2e-3, 128, 4, "one-cycle"), (5e-4, 256, 4, "one-cycle"),
        (1e-3, 256, 4, "one-cycle"), (2e-3, 256, 4, "one-cycle"), (2.5e-4, 128, 8, "one-cycle"), (5e-4, 128, 8, "one-cycle"), (1e-3, 128, 8, "one-cycle"),
        (2e-3, 128, 8, "one-cycle"), (4e-3, 128, 8, "one-cycle"), (5e-4, 256, 8, "one-cycle"), (1e-3, 256, 8, "one-cycle"),
        (1e-3, 128, 8, "cosine"), (1e-3, 128, 16, "one-cycle"),
    )
]  # fmt: skip
TUNED = {"lr": 1e-3, "batch": 128, "epochs": 4, "schedule": "one-cycle"}
TUNING = 100  # seed of the grid
COLOURS, MARKERS = (*OKABE_ITO, "black"), "ooossDD"  # one for each method: alone, nested, FAS
KEY = ("method", "seed", "lr", "batch", "epochs", "schedule", "widths")  # identifies a row
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
    drawn : bool
        Draw new first weights of coarse levels, instead of injecting them.
    **hierarchy
        Arguments of `netgraph.build_hierarchy`.
    """

    def __init__(
        self, solver: Callable[..., FAS], levels: int = 1, shrink: int = 1, *, drawn: bool = True, **hierarchy: Any
    ) -> None:
        self.solver, self.levels, self.shrink, self.drawn, self.hierarchy = solver, levels, shrink, drawn, hierarchy

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


def train_once(
    name: str, method: Method, data: Dataset, seed: int, widths: tuple[int, ...], how: dict[str, Any]
) -> dict[str, Any]:
    """Train once, and return a row of results."""
    batch, how = how["batch"], {key: value for key, value in how.items() if key != "batch"}
    torch.manual_seed(seed)
    model = mlp((widths[0], *(w // method.shrink for w in widths[1:-1]), widths[-1]))
    loader = Loader(data, batch, seed=seed)
    validation = TimedValidation(lambda network: evaluate(network, data, split="valid").figures())
    hierarchy = method.make(model, data)
    problem = Problem(loader, functional.cross_entropy, valid=validation)
    solution = method.solver(seed=seed, **how).solve(hierarchy, problem, evaluations=430)
    seconds = validation.seconds
    evaluations = [record for record in solution.events("evaluate") if record["level"] == 0 or method.levels == 1]
    return {
        "method": name, "seed": seed, "widths": widths, **how, "batch": batch, "seconds": seconds, "flops": solution.flops,
        "loss": evaluations[-1]["figures"]["loss"], "accuracy": evaluations[-1]["figures"]["accuracy"],
        "test": evaluate(model, data).accuracy, **count_events(solution),
        "curve": [[r["flops"], r["figures"]["loss"], r["figures"]["accuracy"], r["level"]] for r in solution.events("evaluate")],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table with one line for each method and number of epochs.

    Values are medians over seeds, with their spread. Costs are relative to the tuned plain run.
    """
    plain_runs = [row for row in rows if row["method"] == "plain" and row["seed"] != TUNING]
    tuned = [row for row in plain_runs if (row["epochs"], row["schedule"]) == (TUNED["epochs"], TUNED["schedule"])]
    plain_runs = tuned or plain_runs
    base = {kind: statistics.median(row[kind] for row in plain_runs) for kind in ("flops", "seconds")}
    lines = [
        "| method | epochs | schedule | n | validation loss | test accuracy | FLOPs / plain | seconds / plain | corrections |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, epochs, schedule in dict.fromkeys(
        (row["method"], row["epochs"], row["schedule"]) for row in rows if row["seed"] != TUNING
    ):
        group = (name, epochs, schedule)
        runs = [
            row for row in rows
            if (row["method"], row["epochs"], row["schedule"]) == group and row["seed"] != TUNING
        ]  # fmt: skip
        losses = [row["loss"] for row in runs]
        asked = sum(row["events"].get(kind, 0) for row in runs for kind in ("up", "skip"))
        taken = f"{sum(row['accepted'] for row in runs)} of {asked}" if asked else ""
        cost = {kind: statistics.median(row[kind] for row in runs) / base[kind] for kind in base}
        spread = f" ({min(losses):.4f}–{max(losses):.4f})" if len(runs) > 1 else ""
        lines.append(
            f"| {name} | {epochs:g} | {schedule} | {len(runs)} | {statistics.median(losses):.4f}{spread} | "
            f"{statistics.median(row['test'] for row in runs):.2%} | "
            f"{cost['flops']:.2f} | {cost['seconds']:.2f} | {taken} |"
        )
    return "\n".join(lines)


def format_grid(rows: list[dict[str, Any]]) -> str:
    """Return a table with one line for each run of the grid, best first."""
    lines = ["| rate | batch | epochs | schedule | validation loss |", "|---|---|---|---|---|"]
    for row in sorted((row for row in rows if row["seed"] == TUNING), key=lambda row: row["loss"]):
        lines.append(f"| {row['lr']:g} | {row['batch']} | {row['epochs']:g} | {row['schedule']} | {row['loss']:.4f} |")
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


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ablations", action="store_true", help="run the ablations too, with the first seed")
    parser.add_argument("--only", nargs="*", help="only methods whose names contain one of these words")
    parser.add_argument("--epochs", type=float, default=TUNED["epochs"])
    parser.add_argument("--schedule", default=TUNED["schedule"], help="schedule of all methods, such as wsd")
    parser.add_argument("--widths", type=int, nargs="*", default=[1024, 1024])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        rows = [row for row in read_rows(options.out) if row["widths"][1:-1] == options.widths]
        print(format_report(rows), format_grid(rows), sep="\n\n")
        draw_picture([row for row in rows if row["seed"] != TUNING])
        return
    torch.set_num_threads(1)
    data, widths = load_dataset("mnist").flat(), (784, *options.widths, 10)
    if options.tune:
        jobs = [("plain", METHODS["plain"], TUNING, how) for how in GRID]
    else:
        how = {**TUNED, "epochs": options.epochs, "schedule": options.schedule}
        jobs = [(name, method, seed, how) for seed in range(options.seeds) for name, method in METHODS.items()]
        jobs += [(name, method, 0, how) for name, method in ABLATIONS.items() if options.ablations]
        jobs = [job for job in jobs if not options.only or any(word in job[0] for word in options.only)]
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1}
    calls = [
        (
            {"method": name, "seed": seed, "widths": widths, **how},
            partial(train_once, name, method, data, seed, widths, how),
        )
        for name, method, seed, how in jobs
    ]
    for row in run_missing(options.out, KEY, calls, machine):
        print(
            row["method"],
            row["seed"],
            f"loss {row['loss']:.4f} test {row['test']:.4f} {row['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
