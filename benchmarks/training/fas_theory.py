"""Claim: where its theory holds, FAS lowers a loss with fewer operations than its smoother alone.

Problems of one full batch, without noise and with an ill-conditioned smooth part:

- ``poisson``: a physics-informed network. A tanh perceptron of coordinates, as 1 x 1 convolutions on a grid of 32 x 32 points, in float64. The loss
  is the mean square of -Δu - f by five-point differences (Raissi, Perdikaris, Karniadakis, J. Comput. Phys. 378, 2019).
- ``autoencoder``: 196-64-32-8-32-64-196 with tanh on 256 images of MNIST at 14 x 14 pixels (Martens, "Deep learning via Hessian-free
  optimization", ICML 2010, section 6, in small).
- ``darcy``: a U-Net that learns the solutions of Darcy's equation on 32 x 32 cells from 16 fields.

The smoother alone, V-cycles, full multigrid and nested iteration have at most the operations of ``STEPS`` evaluations of loss and gradient.
Smoothers are LBFGS with a strong Wolfe line search, which has no rate, and SGD with momentum and Adam, whose rate is the best of `RATES` for
each method. History and steps of a cycle were chosen on ``poisson`` with seed 100, which no result uses. The gate is open unless the name says otherwise, and the schedule constant. Costs are those of the ledger, so tau, transfers and
line searches count. Seconds are processor time of one thread. ``reached`` is the share of the operations of the smoother alone after which a
method was at the loss that the smoother alone ended with.

    NETGRAPH_DATA=... python benchmarks/training/fas_theory.py                # to benchmarks/results/fas_theory.jsonl
    python benchmarks/training/fas_theory.py --report
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import count_events, describe_machine, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_single_level
from netgraph.fas.ledger import STEP
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.darcy import load_darcy
from netgraph.models.data.datasets import load_dataset
from netgraph.models.restoration import ResidualNet, UNet
from netgraph.models.training.operators import mean_relative_error

RESULTS = Path(__file__).parent.parent / "results" / "fas_theory.jsonl"
KEY = ("problem", "smoother", "method", "seed", "lr")  # identifies a row
STEPS = {"poisson": 1000, "autoencoder": 800, "darcy": 200}  # evaluations of loss and gradient
RATES = {"sgd": (0.01, 0.1), "adam": (3e-3, 1e-2), "lbfgs": (1.0,)}


# problems


class Poisson(nn.Module):
    """u(x, y) = x (1 - x) y (1 - y) N(x, y), which is 0 on the boundary of the unit square."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, width, 1), nn.Conv2d(width, width, 1)
        self.third, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(width, 1, 1)

    def forward(self, points: Tensor) -> Tensor:
        """Return u (1, 1, n, n) at points (1, 2, n, n)."""
        hidden = torch.tanh(self.third(torch.tanh(self.second(torch.tanh(self.first(points))))))
        bubble = (points * (1 - points)).prod(1, keepdim=True)
        return 16 * bubble * self.last(hidden)


def squared_residual(u: Tensor, source: Tensor) -> Tensor:
    """Return the mean square of -Δu - f at the inner points of a grid of any resolution."""
    stencil = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]], dtype=u.dtype) * u.shape[-1] ** 2
    return (functional.conv2d(u, stencil[None, None]) - source[..., 1:-1, 1:-1]).square().mean()


def make_source(points: Tensor) -> Tensor:
    """Return f of the solution sin(πx) sin(πy) + 0.3 sin(3πx) sin(4πy)."""
    x, y = math.pi * points[:, :1], math.pi * points[:, 1:]
    return math.pi**2 * (2 * torch.sin(x) * torch.sin(y) + 7.5 * torch.sin(3 * x) * torch.sin(4 * y))


@dataclass
class Setting:
    """A network, its one minibatch, its loss, and how the minibatch gets a lower resolution."""

    network: nn.Module
    batch: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    restrict: str | None = None


def make_poisson(seed: int) -> Setting:
    """Return the physics-informed network."""
    torch.manual_seed(seed)
    middles = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    points = torch.stack([middles.expand(32, 32), middles[:, None].expand(32, 32)])[None]
    return Setting(Poisson().double(), (points, make_source(points)), squared_residual, "average")


def make_autoencoder(seed: int) -> Setting:
    """Return the deep autoencoder. Targets are the images."""
    torch.manual_seed(seed)
    images = functional.avg_pool2d(load_dataset("mnist").train.inputs[:256], 2).flatten(1)
    sizes = (196, 64, 32, 8, 32, 64, 196)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return Setting(nn.Sequential(*layers[:-1]), (images, images), functional.mse_loss)


@cache
def make_fields() -> tuple[Tensor, Tensor]:
    """Return the fields and solutions of ``darcy``."""
    data = load_darcy(32, sizes=(16, 1, 1))
    return data.ready(data.train.inputs), data.train.targets


def make_darcy(seed: int, build: Callable[..., nn.Module]) -> Setting:
    """Return a network that learns an operator."""
    torch.manual_seed(seed)
    network = build(width=8, channels=1, more_inputs=2, shortcut=False)
    return Setting(network, make_fields(), mean_relative_error, "average")


PROBLEMS: dict[str, Callable[[int], Setting]] = {
    "poisson": make_poisson,
    "autoencoder": make_autoencoder,
    "darcy": partial(make_darcy, build=partial(UNet, 2)),
    "darcy, residual network": partial(make_darcy, build=partial(ResidualNet, 4)),
}


# smoothers and methods


def make_lbfgs(groups: Any, lr: float) -> torch.optim.Optimizer:
    """Return LBFGS of five iterations a step, without the absolute tolerances of torch."""
    return torch.optim.LBFGS(
        groups, lr=lr, max_iter=5, history_size=60, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )


SMOOTHERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "lbfgs": make_lbfgs,
}
FEW = {"lbfgs": Smoothing(pre=1, post=1, coarse=10)}  # steps of five iterations each
MANY = Smoothing(pre=4, post=4, coarse=20)


@dataclass(frozen=True)
class Method:
    """A cycle on levels."""

    cycle: str = "v"
    n_levels: int = 2
    levels: dict[str, Any] = field(default_factory=dict)  # of build_hierarchy
    tau: str = "common"
    gate: Gate = field(default_factory=Gate.open)


SPACE, WIDTH = {"directions": "space"}, {"directions": "channels"}
RANDOM = {**WIDTH, "coarsener": "random"}
METHODS = {
    "alone": Method(n_levels=1),
    "space: V, 2 levels": Method("v", 2, SPACE),
    "space: V, 3 levels": Method("v", 3, SPACE),
    "space: full, 3 levels": Method("full", 3, SPACE),
    "space: nested, 3 levels": Method("kaskade", 3, SPACE),
    "space: V, 2 levels, no tau": Method("v", 2, SPACE, tau="none"),
    "space: V, 2 levels, default gate": Method("v", 2, SPACE, gate=Gate()),
    "width: V, 2 levels": Method("v", 2, WIDTH),
    "width: V, 2 levels, random pairs": Method("v", 2, RANDOM),
    "width: V, 2 levels, default gate": Method("v", 2, WIDTH, gate=Gate()),
    "width: nested, 2 levels": Method("kaskade", 2, WIDTH),
    "depth: V, 2 levels": Method("v", 2, {"directions": "depth"}),
}


def build_levels(setting: Setting, method: Method) -> Hierarchy:
    """Return the levels of a method."""
    example = setting.batch[0][:2]
    if method.n_levels == 1:
        return build_single_level(setting.network, example)
    hierarchy = ng.build_hierarchy(setting.network, example, n_levels=method.n_levels, **method.levels)
    if method.cycle in ("full", "kaskade"):
        ng.init_coarse_weights(hierarchy)
    return hierarchy


def make_solver(smoother: str, method: Method, lr: float, steps: int, seed: int) -> FAS:
    """Return the solver. Cycles end with the budget, and nested iteration has a plan of its cost."""
    smoothing = FEW.get(smoother, MANY)
    options = Options(smoothing, Tau(method.tau, batches=1), method.gate)
    per_step = 6.5 if smoother == "lbfgs" else 1.0  # evaluations of a step
    if method.n_levels == 1 or method.cycle == "kaskade":
        share = 1.0 if method.n_levels == 1 else 0.45 if method.n_levels == 3 else 0.4
        length: dict[str, Any] = {"epochs": steps / per_step / share}
    elif method.cycle == "full":
        length = {"cycles": max(round(steps / (60 if smoother == "lbfgs" else 40)), 2)}  # a third on coarse levels
    else:
        length = {"cycles": 10**4}
    cycle = "kaskade" if method.n_levels == 1 else method.cycle
    return FAS(cycle, SMOOTHERS[smoother], lr, schedule="constant", options=options, seed=seed, **length)


def measure(problem: str, smoother: str, name: str, seed: int, lr: float, scale: float = 1.0) -> dict[str, Any]:
    """Solve once within the budget, and return a row of results."""
    setting, method, steps = PROBLEMS[problem](seed), METHODS[name], round(scale * STEPS[problem.partition(",")[0]])
    levels = build_levels(setting, method)
    rows = len(setting.batch[0])
    curve: list[tuple[float, float]] = []

    def watch(run: Any, record: dict[str, Any]) -> None:
        if record["event"] == "smooth" and record["level"] == 0:
            curve.append((record["flops"], record["loss"]))
        if record["flops"] >= budget:
            run.stop("the budget is spent")

    problem_of = Problem([setting.batch], setting.loss, restrict=setting.restrict)
    solver = make_solver(smoother, method, lr, steps, seed)
    run = solver.begin(levels, problem_of, callbacks=[watch], every=1)
    budget = STEP * rows * run.maps.flops[0] * steps
    begun = time.thread_time()
    solution = solver.finish(run)
    seconds = time.thread_time() - begun
    loss = setting.loss(setting.network(setting.batch[0]), setting.batch[1])
    loss.backward()
    size = float(nn.utils.get_total_norm([p.grad for p in setting.network.parameters() if p.grad is not None]))
    downs = solution.events("down")
    return {
        "problem": problem, "smoother": smoother, "method": name, "seed": seed, "lr": lr, "loss": float(loss.detach()), "gradient": size,
        "seconds": seconds, "flops": solution.flops, "budget": budget, "curve": thin(curve), **count_events(solution),
        "tau": [d["tau"] / max(d["restricted"], 1e-300) for d in downs if d["level"] == 0][:: max(len(downs) // 40, 1)],
        "skipped": sorted({r["why"].partition(" is ")[0] for r in solution.events("skip")}), "ledger": solution.ledger.rows(),
    }  # fmt: skip


def thin(curve: list[tuple[float, float]], n: int = 150) -> list[tuple[float, float]]:
    """Return at most about n points of a curve."""
    return curve[:: max(len(curve) // n, 1)]


# report


def find_reached(row: dict[str, Any], loss: float) -> float:
    """Return the operations after which a run was at a loss, or infinity."""
    points = [*row["curve"], (row["flops"], row["loss"])]
    return next((flops for flops, value in points if value <= loss), math.inf)


def pick_best(rows: list[dict[str, Any]], problem: str, smoother: str, name: str) -> list[dict[str, Any]]:
    """Return the rows of all seeds at the rate whose median loss is lowest."""
    runs = [r for r in rows if (r["problem"], r["smoother"], r["method"]) == (problem, smoother, name)]
    by_rate = {lr: [r for r in runs if r["lr"] == lr] for lr in {r["lr"] for r in runs}}
    finite = {lr: statistics.median(r["loss"] for r in group) for lr, group in by_rate.items()}
    return by_rate[min(finite, key=lambda lr: (math.isnan(finite[lr]), finite[lr]))] if finite else []


def format_report(rows: list[dict[str, Any]]) -> str:
    """Return a table for each problem and smoother: medians over seeds."""
    parts = []
    for problem, smoother in dict.fromkeys((r["problem"], r["smoother"]) for r in rows):
        alone = pick_best(rows, problem, smoother, "alone")
        if not alone:
            continue
        parts += [
            f"\n{problem}, {smoother}\n",
            "| method | rate | n | loss | loss / alone | gradient | FLOPs / alone | reached | seconds / alone | corrections | tau / restricted gradient |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name in METHODS:
            runs = pick_best(rows, problem, smoother, name)
            if runs:
                parts.append(format_row(name, runs, alone))
    return "\n".join(parts)


def format_row(name: str, runs: list[dict[str, Any]], alone: list[dict[str, Any]]) -> str:
    """Return one line of a table. Ratios compare runs of one seed."""
    of_seed = {r["seed"]: r for r in alone}
    pairs = [(r, of_seed[r["seed"]]) for r in runs if r["seed"] in of_seed]
    ratio = {key: statistics.median(r[key] / a[key] for r, a in pairs) for key in ("loss", "flops", "seconds")}
    reached = statistics.median(find_reached(r, a["loss"]) / a["flops"] for r, a in pairs)
    gradient = statistics.median(r["gradient"] for r in runs)
    begun = sum(r["events"].get("up", 0) + r["events"].get("skip", 0) for r in runs)
    corrections = f"{sum(r['accepted'] for r in runs)} of {begun}" if begun else ""
    tau = [value for r in runs for value in r["tau"] if math.isfinite(value)]
    return (
        f"| {name} | {runs[0]['lr']:g} | {len(runs)} | {statistics.median(r['loss'] for r in runs):.3g} | {ratio['loss']:.2f} | "
        f"{gradient:.2g} | {ratio['flops']:.2f} | {'never' if math.isinf(reached) else f'{reached:.2f}'} | {ratio['seconds']:.2f} | "
        f"{corrections} | {f'{statistics.median(tau):.2g}' if tau else ''} |"
    )


def fits(problem: str, name: str) -> bool:
    """Return True if a problem has the levels of a method."""
    direction = name.partition(":")[0]
    if problem == "darcy, residual network":
        return name == "alone" or direction == "depth"
    return direction != "depth" and (direction != "space" or problem != "autoencoder")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--smoothers", nargs="*", choices=SMOOTHERS, default=["lbfgs"])
    parser.add_argument("--only", nargs="*", help="only methods whose names contain one of these words")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the budget, for a trial")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(format_report(read_rows(options.out)))
        return
    torch.set_num_threads(1)
    calls = []
    for seed in range(options.seeds):
        for problem in options.problems:
            for smoother in options.smoothers:
                for name in (n for n in METHODS if fits(problem, n)):
                    if options.only and not any(word in name for word in options.only):
                        continue
                    for lr in RATES[smoother]:
                        key = {"problem": problem, "smoother": smoother, "method": name, "seed": seed, "lr": lr}
                        calls.append((key, partial(measure, problem, smoother, name, seed, lr, options.scale)))
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        print(
            f"{row['problem']}, {row['smoother']} {row['lr']:g}, {row['method']}: loss {row['loss']:.3g}, gradient {row['gradient']:.2g}, "
            f"{row['accepted']} accepted of {row['events']}, {row['seconds']:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
