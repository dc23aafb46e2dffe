"""Claim: means weighted by importance leave less error than plain means, with and without ridge, and importances prune better than magnitude.

A perceptron (784-256-256-10, three epochs) and a convolutional network (16 and 32 channels with batch norms, 64 neurons, two epochs) are
trained on MNIST, 37 seconds of processor time a seed. Every axis keeps the same share of its units. 512 training inputs without labels give
importances and repair. Accuracies and relative function errors are on 4,000 test inputs. ``weighted cost`` joins by Ward's distance of weighted
points, and ``weighted edges`` matches by affinities that are weaker between important units: both use the root of the importance.

``--ranking`` prunes to a budget of FLOPs and compares error curves of axes that are measured, as `netgraph.build_hierarchy` does, with curves that
are the sum of the importances of the units that go.

    .venv/bin/python benchmarks/coarsening/importance.py --folder nets --seeds 3
    .venv/bin/python benchmarks/coarsening/importance.py --folder nets --seeds 3 --ranking

One thread. Each row is written as soon as it is measured, and existing rows are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import Row, read_rows, row_key, run_missing
from merging import TestScore, mean_and_deviation

import netgraph as ng
from netgraph.affinity import AllPairs
from netgraph.coarsen import AxisGraph, declare_traits, heavy_edge_matching
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.matching.unit_importance import ROWS
from netgraph.models import fit, load_dataset, mlp
from netgraph.models.data.datasets import Dataset

RESULTS = Path(__file__).parent.parent / "results" / "importance.jsonl"
KEY = ("method", "importance", "network", "seed", "ratio", "repair")
RANKING = RESULTS.with_name("importance_ranking.jsonl")
RANKING_KEY = ("method", "network", "seed", "budget", "repair")
RATIOS, SEEN, JUDGED = (0.75, 0.5, 0.25), 512, 4000
KINDS = ("none", "magnitude", "activation", "taylor", "fisher")


def build_cnn() -> nn.Module:
    """Return the convolutional network, untrained."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "mlp": (partial(mlp, (784, 256, 256, 10)), {"epochs": 3, "batch": 128}),
    "cnn": (build_cnn, {"epochs": 2, "batch": 128, "lr": 2e-3}),
}


def load_trained(name: str, seed: int, data: Dataset, folder: Path) -> nn.Module:
    """Return a trained network. Train it first if the folder lacks it."""
    make, options = NETWORKS[name]
    torch.manual_seed(seed)
    model, path = make(), folder / f"importance-{name}-{seed}.pt"
    if not path.exists():
        fit(model, data, seed=seed, **options)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def weigh(graph: AxisGraph) -> NDArray[np.float64]:
    """Return the root of the importance of each unit, with a mean of 1."""
    assert graph.importance is not None
    root = np.sqrt(graph.importance)
    return root / root.mean() + 1e-6


@declare_traits(ignores_edges=True)
def weighted_ward(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Join by Ward's distance of weighted points, |x - y|² w v / (w + v) (Lance and Williams, Comput. J. 9(4), 1967)."""
    x, w, labels = np.asarray(graph.features, dtype=np.float64), weigh(graph), np.arange(graph.n_units)
    distances = np.square(x[:, None] - x[None]).sum(2) * (w[:, None] * w / (w[:, None] + w))
    np.fill_diagonal(distances, np.inf)
    for _ in range(graph.n_units - n_coarse):
        i, j = np.unravel_index(np.argmin(distances), distances.shape)
        joined = (w[i] + w) * distances[i] + (w[j] + w) * distances[j] - w * distances[i, j]
        distances[i] = distances[:, i] = joined / (w[i] + w[j] + w)
        distances[j] = distances[:, j] = distances[i, i] = np.inf
        w[i] += w[j]
        labels[labels == j] = i
    return np.unique(labels, return_inverse=True)[1]


def weighted_hem(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Match by affinities that fall with the importance of both ends, 1 / (1 + h (1 - a)), h the harmonic mean of their weights."""
    w, a = weigh(graph), graph.affinity.toarray()
    h = 2 * w[:, None] * w / (w[:, None] + w)
    weaker = np.where(a > 0, 1 / (1 + h * (1 - a)), 0).astype(a.dtype)
    np.fill_diagonal(weaker, 0)
    other = AxisGraph(graph.name, AllPairs(weaker), graph.weight, None, graph.equal, graph.fixed)
    return heavy_edge_matching(other, n_coarse, seed=seed)


METHODS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "magnitude": ("magnitude", KINDS),
    "ward": ("ward", KINDS),
    "hem": ("hem", ("none", "taylor", "fisher")),
    "ward, weighted cost": (weighted_ward, ("fisher",)),
    "hem, weighted edges": (weighted_hem, ("fisher",)),
}


def open_case(name: str, seed: int, folder: Path) -> tuple[nn.Module, Any, Any, TestScore]:
    """Return a trained network, its trace, its calibration inputs, and the judge of coarse networks."""
    data = load_dataset("mnist")
    data = data.flat() if name == "mlp" else data
    model = load_trained(name, seed, data, folder)
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed + 1))[:SEEN]
    seen = data.ready(data.train.inputs[chosen])
    return model, ng.trace(model, seen[:2]), seen, TestScore(model, data, JUDGED)


def list_jobs(name: str, seed: int, folder: Path) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield the settings of each row, and the function that measures it."""
    model, spec, seen, score = open_case(name, seed, folder)
    for ratio in RATIOS:
        for method, (coarsener, kinds) in METHODS.items():
            for importance in kinds:
                for repair in ("none", "ridge"):
                    row = dict(zip(KEY, (method, importance, name, seed, ratio, repair), strict=True))
                    options = {"coarsener": coarsener, "importance": importance, "ratio": ratio, "repair": repair}
                    yield row, partial(measure, model, spec, seen, score, options, row)


def begin_with_estimates(builder: LevelBuilder, n_rows: int | None = None) -> tuple[Any, Any, Any]:
    """Begin a step whose judges estimate the error of an axis: the root of the sum of the importances that go."""
    step, *_ = BEGIN(builder, n_rows)
    outputs = [tensor for batch in builder.data.expected for tensor in batch]
    squares = sum(float(tensor.double().square().sum()) for tensor in outputs) / sum(map(len, outputs))

    def judge(axis: str, transfer: ng.Transfer) -> float:
        gone = (
            step.build_graph(axis).importance[transfer.aggregates < 0].sum()
        )  # four times the square of a gate, of ROWS rows
        return float(np.sqrt(gone / 4 / ROWS / squares))

    return step, judge, judge


BEGIN = LevelBuilder.begin_channels


def list_rankings(name: str, seed: int, folder: Path) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield the rows that compare measured curves of axes with estimated ones."""
    model, spec, seen, score = open_case(name, seed, folder)
    for budget in ("flops=0.5", "flops=0.25"):
        for repair in ("none", "ridge"):
            for method in ("measured", "estimated"):
                row = dict(zip(RANKING_KEY, (method, name, seed, budget, repair), strict=True))
                yield row, partial(rank, model, spec, seen, score, row)


def rank(model: nn.Module, spec: Any, seen: Any, score: TestScore, row: Row) -> Row:
    """Prune to a budget, and return one row of results."""
    begin = (
        begin_with_estimates if row["method"] == "estimated" else BEGIN
    )  # the toolkit has no such judge: it did not pay
    options = {"coarsener": "magnitude", "importance": "fisher", "budget": row["budget"], "repair": row["repair"]}
    started = time.process_time()
    with patch.object(LevelBuilder, "begin_channels", begin):
        measured = measure(model, spec, seen, score, options, row)
    return measured | {"seconds": round(time.process_time() - started, 2)}


def measure(model: nn.Module, spec: Any, seen: Any, score: TestScore, options: Row, row: Row) -> Row:
    """Return one row of results."""
    level = ng.build_hierarchy(model, seen[:2], spec=spec, data=seen, **options).levels[1]
    return row | {"base": score.base} | score(level.model)


def format_table(name: str) -> str:
    """Return the rows of a network as a Markdown table: mean accuracy, and mean error."""
    rows = [row for row in read_rows(RESULTS) if row["network"] == name]
    bases = [row["base"] for row in {row["seed"]: row for row in rows}.values()]
    lines = [f"{name}: base {mean_and_deviation(bases)}, {len(bases)} seeds", "", "| method | importance | "]
    lines[-1] += " | ".join(f"{ratio:.0%}, `{repair}`" for ratio in RATIOS for repair in ("none", "ridge")) + " |"
    lines.append("|---|---|" + "---|" * 6)
    for method, (_, kinds) in METHODS.items():
        for kind in kinds:
            cells = []
            for ratio in RATIOS:
                for repair in ("none", "ridge"):
                    values = [
                        r
                        for r in rows
                        if [r[key] for key in KEY if key not in ("network", "seed")] == [method, kind, ratio, repair]
                    ]
                    mean = [np.mean([r[key] for r in values]) if values else np.nan for key in ("accuracy", "error")]
                    cells.append(f"{mean[0]:.1f} ({mean[1]:.3f})")
            lines.append(f"| {method} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_ranking() -> str:
    """Return the means of the rankings as a Markdown table."""
    rows = read_rows(RANKING)
    lines = ["| network | FLOPs kept | repair | measured | estimated |", "|---|---|---|---|---|"]
    for name, budget, repair in dict.fromkeys((row["network"], row["budget"], row["repair"]) for row in rows):
        cells = []
        for method in ("measured", "estimated"):
            values = [row for row in rows if row_key(row, RANKING_KEY) == (method, name, row["seed"], budget, repair)]
            mean = [np.mean([row[key] for row in values]) for key in ("accuracy", "error", "seconds")]
            cells.append(f"{mean[0]:.1f} ({mean[1]:.2f}), {mean[2]:.1f} s")
        lines.append(f"| {name} | {budget.removeprefix('flops=')} | `{repair}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the missing rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--ranking", action="store_true", help="compare error curves of axes that are measured and estimated"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs, path, key = (list_rankings, RANKING, RANKING_KEY) if options.ranking else (list_jobs, RESULTS, KEY)
    for name in NETWORKS:
        for seed in range(options.seeds):
            for row in run_missing(path, key, jobs(name, seed, options.folder)):
                print(row, flush=True)
        if not options.ranking:
            print(format_table(name), flush=True)
    if options.ranking:
        print(format_ranking(), flush=True)


if __name__ == "__main__":
    main()
