"""Claim: none yet. Ideas that might make a gated coarse step pay on MNIST, one row for each idea (docs/tried.md).

The network is 784-256-256-10 (``--widths`` takes others). It is small enough to be limited by its width and to be trained for
long (``--epochs 30``). The ideas stand next to plain training, half the width alone and nested iteration. They are cycles after
nested iteration, on levels that are matched again during training, within a bound on the gap, or with coarse networks that ridge
regression on 512 images repairs before a step. ``gate.share`` is 0.05, which lets coarse steps be tried. The FLOPs of a repair
are not counted.

    NETGRAPH_DATA=... python benchmarks/training/mnist_ideas.py --epochs 4     # to benchmarks/results/mnist_ideas.jsonl
    python benchmarks/training/mnist_ideas.py --report
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from mnist_mlp import KEY, Method, cycle_solver, format_report, plain_solver, train_once
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import BuildInputs
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.coarsen.repair.pipeline import repair_network
from netgraph.fas.levels.maps import HierarchyMaps, live_state
from netgraph.fas.options.groups import Adapt, Gate
from netgraph.models.data.datasets import Dataset, load_dataset

RESULTS = Path(__file__).parent.parent / "results" / "mnist_ideas.jsonl"
ROWS = 512  # images for measuring the gap and for repairs
TRIED = Gate(share=0.05)


class GapBounded(Method):
    """Levels that are matched again during training, within a bound on the gap."""

    def make(self, model: torch.nn.Module, data: Dataset) -> ng.Hierarchy:
        """Return two levels by matching, with a function that builds them again."""
        inputs, targets = data.train.inputs[:ROWS], data.train.targets[:ROWS]

        @torch.no_grad()
        def loss(network: torch.nn.Module) -> float:
            return float(functional.cross_entropy(network(inputs), targets))

        hierarchy = super().make(model, data)
        options = CoarsenOptions(n_levels=2, ratio="gap:0.05")
        return replace(hierarchy, options=options, inputs=BuildInputs(inputs[:2], loss=loss))


class RidgeRepaired(Method):
    """A coarse network whose layers are fitted to the fine outputs each time that a state is injected."""

    def make(self, model: torch.nn.Module, data: Dataset) -> HierarchyMaps:
        """Return the maps of two levels."""
        return RidgeRepairedMaps(super().make(model, data), data.train.inputs[:ROWS])


class RidgeRepairedMaps(HierarchyMaps):
    """Maps whose injection of a complete state ends with ridge regression."""

    def __init__(self, hierarchy: ng.Hierarchy, inputs: Tensor) -> None:
        super().__init__(hierarchy)
        self.inputs = inputs

    def inject(self, level: int, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the injected state, repaired if it is the state of the fine network."""
        fine, coarse = self.models[level], self.models[level + 1]
        if any(n not in state or state[n].data_ptr() != t.data_ptr() for n, t in live_state(fine).items()):
            return super().inject(level, state)  # not the state of the network
        levels = self.hierarchy.levels
        repair_network(
            fine, levels[level].spec, levels[level + 1].transfers, coarse, rung="ridge", data=self.inputs, batch=ROWS
        )
        return {name: tensor.clone() for name, tensor in live_state(coarse).items()}


SHARE = (0.3, 0.7)
IDEAS = {
    "plain": Method(plain_solver),
    "half the width alone": Method(plain_solver, shrink=2),
    "nested iteration, 2 levels": Method(cycle_solver("kaskade", SHARE), 2),
    "full, 2 levels": Method(cycle_solver("full", SHARE, gate=TRIED), 2),
    "full, matched again every 20 cycles": Method(cycle_solver("full", SHARE, gate=TRIED, adapt=Adapt(rematch=20)), 2),
    "full, matched again every 20 cycles within gap:0.05": GapBounded(
        cycle_solver("full", SHARE, gate=TRIED, adapt=Adapt(rematch=20)), 2
    ),
    "full, coarse network repaired by ridge": RidgeRepaired(cycle_solver("full", SHARE, gate=TRIED), 2),
    "V, 2 levels": Method(cycle_solver("v", gate=TRIED), 2),
    "V, matched again every 20 cycles within gap:0.05": GapBounded(
        cycle_solver("v", gate=TRIED, adapt=Adapt(rematch=20)), 2
    ),
    "V, coarse network repaired by ridge": RidgeRepaired(cycle_solver("v", gate=TRIED), 2),
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="only ideas whose names contain one of these words")
    parser.add_argument("--widths", type=int, nargs="*", default=[256, 256])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        rows = read_rows(options.out)
        for epochs, *widths in sorted({(row["epochs"], *row["widths"]) for row in rows}):
            runs = [row for row in rows if [row["epochs"], *row["widths"]] == [epochs, *widths]]
            print(f"{epochs:g} epochs, {widths}", format_report(runs), sep="\n")
        return
    torch.set_num_threads(1)
    data, widths = load_dataset("mnist").flat(), (784, *options.widths, 10)
    table = {"widths": widths, "augment": False, "epochs": options.epochs, "schedule": "one-cycle", "batch": 128, "lr": 1e-3}  # fmt: skip
    jobs = [
        ({"method": name, **table, "seed": seed}, method)
        for seed in range(options.seeds)
        for name, method in IDEAS.items()
        if not options.only or any(word in name for word in options.only)
    ]
    calls = [(settings, partial(train_once, settings, method, data)) for settings, method in jobs]
    for row in run_missing(options.out, KEY, calls):
        print(row["method"], row["seed"], f"loss {row['loss']:.4f} {row['accepted']} {row['events']}", flush=True)


if __name__ == "__main__":
    main()
