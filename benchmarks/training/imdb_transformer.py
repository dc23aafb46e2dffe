"""Claim: cost of multilevel training on IMDB, to the final loss of a tuned plain run, for a classifier and a language model.

The encoder (``--task classify``) and the tied decoder (``--task lm``) of `SIZES`, on the first `LENGTH` words of real reviews. 22,500
reviews are for training. Validation uses the first 1,000 of the 2,500 held out (300 for the language model), the test accuracy
2,500. ``--tune`` runs plain training over `GRID` with seed 100, which no result uses. Its best run is `TUNED`. Then, for each seed,
every method runs in turn with as many optimizer steps as plain training: the small network alone, nested iteration over width, depth
and both, FAS with tau, gate and line search regardless of cost (``gate.share=inf``), the V-cycle of Zou et al. (ICLR 2024), and
growth as in Net2Net (Chen et al., ICLR 2016). ``--more`` adds `MORE`: other small networks, and methods with one thing changed.
``--epochs`` makes runs shorter or longer. Seconds are processor time of one thread without validation, because the machine is
shared.

    NETGRAPH_DATA=... python benchmarks/training/imdb_transformer.py --tune
    NETGRAPH_DATA=... python benchmarks/training/imdb_transformer.py --seeds 3 --more  # to benchmarks/results/imdb_transformer.jsonl
    NETGRAPH_DATA=... python benchmarks/training/imdb_transformer.py --task lm --seeds 3
    python benchmarks/training/imdb_transformer.py --report                            # tables, and docs/pictures/imdb_transformer.svg
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import TimedValidation, count_events, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Split, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.data.datasets import Dataset, load_dataset
from netgraph.models.data.datasets import DataSplit as Part
from netgraph.models.data.loader import Loader
from netgraph.models.data.tokenizer import UNKNOWN
from netgraph.models.training.evaluation import evaluate
from netgraph.models.training.tasks import make_cross_entropy
from netgraph.models.transformer import Decoder, Encoder

RESULTS = Path(__file__).parent.parent / "results" / "imdb_transformer.jsonl"
PICTURE = Path(__file__).parent.parent.parent / "docs" / "pictures" / "imdb_transformer.svg"
LENGTH, WORDS = 64, 5000
SIZES = {
    "classify": {"width": 64, "n_heads": 4, "n_hidden": 128, "depth": 4},
    "lm": {"width": 128, "n_heads": 4, "n_hidden": 512, "depth": 4},
}
WIDE = ("width", "n_heads", "n_hidden")
HALVES = {"width": WIDE, "depth": ("depth",), "both": (*WIDE, "depth")}
ALONG = {"width": "channels", "depth": "depth", "both": "channels+depth"}
TASKS = {"classify": "classifier", "lm": "language model"}
RECIPE = {"lr": 4e-3, "batch": 32, "epochs": 0.5, "dropout": 0.1, "weight_decay": 0.01}
GRID = {
    "classify": [{}, {"lr": 1e-3}, {"lr": 2e-3}, {"lr": 8e-3}],
    "lm": [{"epochs": 0.25, "lr": lr} for lr in (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)],
}
TUNED: dict[str, dict[str, Any]] = {"classify": RECIPE, "lm": {**RECIPE, "lr": 8e-3}}
TUNING, EVALUATIONS = 100, 8
KEY = ("task", "method", "seed", *RECIPE)  # identifies a row
ADAMW = torch.optim.AdamW
SHARE = (0.3, 0.7)  # share of the steps on each level, finest first
ALWAYS = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"))


class Method:
    """One way to train.

    Parameters
    ----------
    solver : callable
        Builds the solver from the number of steps and the options of every solver.
    halved : str
        Sizes that coarsening halves, a key of `HALVES`.
    alone : bool
        Train the small network alone.
    drawn : bool
        Draw new first weights of coarse levels, instead of injecting them.
    **merging
        Arguments of `netgraph.build_hierarchy`.
    """

    def __init__(
        self, solver: Callable[..., FAS], halved: str = "", *, alone: bool = False, drawn: bool = True, **merging: Any
    ) -> None:
        self.solver, self.halved, self.alone, self.drawn, self.merging = solver, halved, alone, drawn, merging

    def sizes(self, task: str) -> dict[str, int]:
        """Return the sizes of the network to train."""
        halved = HALVES[self.halved] if self.alone else ()
        return {key: size // 2 if key in halved else size for key, size in SIZES[task].items()}

    def levels(self, model: torch.nn.Module, example: torch.Tensor) -> ng.Hierarchy:
        """Return a hierarchy of two levels, or of one."""
        if self.alone or not self.halved:
            return build_single_level(model, example)
        hierarchy = ng.build_hierarchy(model, example, directions=ALONG[self.halved], **self.merging)
        if self.drawn:
            ng.init_coarse_weights(hierarchy)
        return hierarchy


def plain_solver(steps: int, **how: Any) -> FAS:
    """Return plain training."""
    return make_plain_solver(optimizer=ADAMW, **how)


def nested_solver(*, cycle: str = "kaskade", per_level: bool = False, **groups: Any) -> Callable[..., FAS]:
    """Return a builder of nested iteration or ``full`` cycles, which train the coarse network first."""

    def build(steps: int, **how: Any) -> FAS:
        return FAS(cycle, ADAMW, share=SHARE, options=Options(**groups), schedule_per_level=per_level, **how)

    return build


def zou_solver(weight: float, *, fine: float = SHARE[0]) -> Callable[..., FAS]:
    """Return a builder of one V-cycle without tau: a few fine steps, the coarse network, then a mix of both weights."""

    def build(steps: int, **how: Any) -> FAS:
        pre, below = round(0.05 * steps), round((1 - fine) * steps)
        options = Options(
            Smoothing(pre, steps - pre - below, below, moments=False), Tau("none", below), replace(ALWAYS, blend=weight)
        )  # the coarse level sees as many minibatches as it takes steps
        return FAS("v", ADAMW, options=options, **how)

    return build


def growth_solver(rate: float) -> Callable[..., FAS]:
    """Return a builder of growth: the small network with its own schedule, then random copies at a share of the rate."""

    def build(steps: int, **how: Any) -> FAS:
        options = Options(levels={0: {"lr": rate * how["lr"]}})
        return FAS("kaskade", ADAMW, share=SHARE, options=options, schedule_per_level=True, **how)

    return build


METHODS = {
    "plain": Method(plain_solver),
    "half of both alone": Method(plain_solver, "both", alone=True),
    "nested iteration, width": Method(nested_solver(), "width"),
    "nested iteration, depth": Method(nested_solver(), "depth"),
    "nested iteration, both": Method(nested_solver(), "both"),
    "gated FAS, full, both": Method(nested_solver(cycle="full", gate=Gate(share=float("inf"))), "both"),
    "Zou's cycle, weight 0.5": Method(zou_solver(0.5), "both", coarsener="adjacent", depth_by="copy"),
    "Net2Net growth": Method(growth_solver(0.1), "width", coarsener="random"),
}
MORE = {
    "half the width alone": Method(plain_solver, "width", alone=True),
    "half the depth alone": Method(plain_solver, "depth", alone=True),
    "Zou's cycle, weight 0.25": Method(zou_solver(0.25), "both", coarsener="adjacent", depth_by="copy"),
    "Zou's cycle, half of the steps fine": Method(
        zou_solver(0.5, fine=0.5), "both", coarsener="adjacent", depth_by="copy"
    ),
    "nested, width: injected first weights": Method(nested_solver(), "width", drawn=False),
    "nested, depth: injected first weights": Method(nested_solver(), "depth", drawn=False),
    "nested, both: injected first weights": Method(nested_solver(), "both", drawn=False),
    "nested, both: no noise": Method(nested_solver(split=Split("none")), "both"),
    "nested, width: no noise": Method(nested_solver(split=Split("none")), "width"),
    "nested, both: adjacent pairs": Method(nested_solver(), "both", coarsener="adjacent"),
    "nested, both: a schedule for each level": Method(nested_solver(per_level=True), "both"),
    "Net2Net: the full rate": Method(growth_solver(1.0), "width", coarsener="random"),
}


def load_reviews(task: str) -> Dataset:
    """Return reviews of one length with rare words unknown, and smaller splits for validation and test."""
    data = load_dataset("imdb", length=LENGTH + (task == "lm"))

    def part(split: Part, n: int | None = None) -> Part:
        return Part(split.inputs.masked_fill(split.inputs >= WORDS, UNKNOWN)[:n], split.targets[:n])

    spread = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[
        :2500
    ]  # rows are sorted by label
    test = part(Part(data.test.inputs[spread], data.test.targets[spread]))
    data = replace(data, train=part(data.train), valid=part(data.valid, 300 if task == "lm" else 1000), test=test)
    return (data.next_tokens() if task == "lm" else data).fixed_length()


def build_network(task: str, sizes: dict[str, Any], dropout: float) -> torch.nn.Module:
    """Return an untrained network."""
    return (Decoder if task == "lm" else Encoder)(WORDS, **sizes, length=LENGTH, dropout=dropout)


def train_once(
    task: str, name: str, method: Method, data: Dataset, seed: int, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Train once, and return a row of results."""
    batch = 16 if task == "lm" else 250
    torch.manual_seed(seed)
    model = build_network(task, method.sizes(task), recipe["dropout"])
    loader = Loader(data, recipe["batch"], seed=seed)
    validation = TimedValidation(lambda network: evaluate(network, data, split="valid", batch=batch).figures())
    steps = round(recipe["epochs"] * len(loader))
    how = {key: recipe[key] for key in ("lr", "epochs", "weight_decay")}
    levels = method.levels(model, data.ready(data.train.inputs[:2]))
    problem = Problem(loader, make_cross_entropy(), valid=validation)
    solver = method.solver(steps, seed=seed, **how)
    solution = solver.solve(levels, problem, evaluations=max(steps // EVALUATIONS, 1))
    seconds, records = validation.seconds, solution.events("evaluate")
    return {
        "task": task, "method": name, "seed": seed, **recipe, "steps": steps, "seconds": seconds, "flops": solution.flops,
        **records[-1]["figures"], "test": evaluate(model, data, batch=batch).accuracy if task == "classify" else None,
        **count_events(solution),
        "curve": [
            [r["flops"], at, r["figures"]["loss"], r["figures"]["accuracy"], r["level"]]
            for r, at in zip(records, validation.marks, strict=True)
        ],
        "ledger": solution.ledger.rows(),
    }  # fmt: skip


def cost_to_reach(row: dict[str, Any], base: dict[str, Any]) -> tuple[float, float] | None:
    """Return FLOPs and seconds until a run reaches the final loss of plain, relative to plain. None if it never does."""
    point = next((point for point in row["curve"] if point[2] <= base["loss"]), None)
    return None if point is None else (point[0] / base["flops"], point[1] / base["seconds"])


def format_report(rows: list[dict[str, Any]], task: str) -> str:
    """Return a table with one line for each method.

    Values are medians over seeds, with their spread. Costs are relative to the plain run of the same seed.
    """
    rows = [row for row in rows if row["task"] == task and row["seed"] != TUNING]
    kinds = dict.fromkeys((row["method"], row["epochs"]) for row in rows)
    base = {row["seed"]: row for row in rows if row["method"] == "plain" and row["epochs"] == TUNED[task]["epochs"]}
    figure = "test accuracy" if task == "classify" else "words predicted"
    lines = [
        f"| {TASKS[task]} | epochs | n | validation loss | {figure} | FLOPs / plain | seconds / plain | to plain's loss: FLOPs, seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, epochs in sorted(kinds, key=lambda kind: [*METHODS, *MORE].index(kind[0])):
        runs = [r for r in rows if (r["method"], r["epochs"]) == (name, epochs) and r["seed"] in base]
        if runs:
            lines.append(_format_method(name, epochs, runs, base))
    return "\n".join(lines)


def _format_method(name: str, epochs: float, runs: list[dict[str, Any]], base: dict[int, dict[str, Any]]) -> str:
    losses = [row["loss"] for row in runs]
    spread = f" ({min(losses):.4f}–{max(losses):.4f})" if len(runs) > 1 else ""
    flops, seconds = (statistics.median(r[key] / base[r["seed"]][key] for r in runs) for key in ("flops", "seconds"))
    reached = [cost for cost in (cost_to_reach(row, base[row["seed"]]) for row in runs) if cost]
    cost = "never"
    if reached:
        cost = (
            ", ".join(f"{statistics.median(way):.2f}" for way in zip(*reached, strict=True))
            + f" in {len(reached)} of {len(runs)}"
        )
    right = statistics.median(row["accuracy"] if row["test"] is None else row["test"] for row in runs)
    return (
        f"| {name} | {epochs:g} | {len(runs)} | {statistics.median(losses):.4f}{spread} | {right:.1%} | {flops:.2f} | "
        f"{seconds:.2f} | {cost} |"
    )


def format_grid(rows: list[dict[str, Any]], task: str) -> str:
    """Return a table with one line for each run of the grid, best first."""
    lines = [f"| {TASKS[task]}: rate | epochs | dropout | weight decay | validation loss |", "|---|---|---|---|---|"]
    runs = [row for row in rows if row["seed"] == TUNING and row["task"] == task]
    for row in sorted(runs, key=lambda row: row["loss"]):
        lines.append(
            "| "
            + " | ".join(f"{row[k]:g}" for k in ("lr", "epochs", "dropout", "weight_decay"))
            + f" | {row['loss']:.4f} |"
        )
    return "\n".join(lines)


def draw_picture(rows: list[dict[str, Any]]) -> None:
    """Draw validation loss against FLOPs relative to plain for each task. The dotted line is the final loss of plain."""
    import matplotlib.pyplot as plt

    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    figure, panes = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 4.4), layout="constrained", squeeze=False)
    for task, axes in zip(tasks, panes[0], strict=True):
        task_rows = [row for row in rows if row["task"] == task and row["seed"] != TUNING and row["method"] in METHODS]
        base = statistics.median(row["flops"] for row in task_rows if row["method"] == "plain")
        for i, name in enumerate(METHODS):
            runs = [row for row in task_rows if row["method"] == name]
            for row in runs:
                axes.plot(
                    [p[0] / base for p in row["curve"]], [p[2] for p in row["curve"]], color=f"C{i}", alpha=0.35, lw=1
                )
            axes.scatter(
                [r["flops"] / base for r in runs], [r["loss"] for r in runs], color=f"C{i}", s=22, zorder=3, label=name
            )
        axes.axhline(
            statistics.median(r["loss"] for r in task_rows if r["method"] == "plain"), color="0.6", lw=0.8, ls=":"
        )
        axes.set(
            title=TASKS[task], xlabel="FLOPs of training over plain's, everything counted", ylabel="validation loss"
        )
        axes.set_ylim(top=max(point[2] for row in task_rows for point in row["curve"][1:]))
        axes.spines[["top", "right"]].set_visible(False)
    panes[0, -1].legend(frameon=False, fontsize=8)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def list_jobs(options: argparse.Namespace) -> list[tuple[str, Method, int, dict[str, Any]]]:
    """Return the runs to do: name, method, seed and recipe."""
    if options.tune:
        return [("plain", METHODS["plain"], TUNING, {**RECIPE, **change}) for change in GRID[options.task]]
    recipe = {**TUNED[options.task], **({"epochs": options.epochs} if options.epochs else {})}
    jobs = [(name, method, seed, recipe) for seed in range(options.seeds) for name, method in METHODS.items()]
    jobs += [(name, method, 0, recipe) for name, method in MORE.items() if options.more]
    return [job for job in jobs if not options.only or any(word in job[0] for word in options.only)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="classify")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--more", action="store_true", help="run `MORE` too, with the first seed")
    parser.add_argument("--only", nargs="*", help="only methods whose names contain one of these words")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        rows = read_rows(options.out)
        tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
        print(*(make(rows, task) for make in (format_report, format_grid) for task in tasks), sep="\n\n")
        draw_picture(rows)
        return
    torch.set_num_threads(1)
    # build one hierarchy first, so that no run pays for the compilation of kernels
    small = build_network("classify", SIZES["classify"], 0.0)
    Method(plain_solver, "both").levels(small, torch.ones(2, LENGTH, dtype=torch.int64))
    data, task = load_reviews(options.task), options.task
    machine = {"machine": platform.platform(), "torch": torch.__version__, "threads": 1}
    calls = [
        (
            {"task": task, "method": name, "seed": seed, **recipe},
            partial(train_once, task, name, method, data, seed, recipe),
        )
        for name, method, seed, recipe in list_jobs(options)
    ]
    for row in run_missing(options.out, KEY, calls, machine):
        figures = f"loss {row['loss']:.4f} right {row['accuracy']:.3f} {row['seconds']:.0f} s"
        print(task, row["method"], row["seed"], figures, flush=True)


if __name__ == "__main__":
    main()
