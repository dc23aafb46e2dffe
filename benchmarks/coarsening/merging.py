"""Claim: merged and repaired networks keep the accuracy of the original, and are no worse than pruned networks of the same size.

Test accuracy and relative function error |outputs - base's| / |base's| (without labels) for each network, share of units kept, method and
rung of repair. ``mlp`` with its first seed is measured with every coarsener at the affinity `cosine`, every affinity at `hem` (k-means
and Ward use none), and four coarseners with a budget of units. Its other seeds use `SOME`, and the larger networks `FEW`, without tuning.
Networks with residual streams are also measured with whole streams. The same run has `magnitude`, which prunes, and `random`, with
the same repairs (ridge refits a pruned network by least squares), and the L1 pruning of torch-pruning, also with re-estimated norms.
Repair uses training inputs without labels. Accuracies and errors are on test inputs. Heads merge in one basis. Networks without batch
norm skip the rung that re-estimates its statistics.

    .venv/bin/python benchmarks/coarsening/trained.py --folder nets               # once, an hour or more
    .venv/bin/python benchmarks/coarsening/merging.py --folder nets --seeds 3

One thread. Each row is written as soon as it is measured, and existing rows are not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from trained import RECIPES, load_data, load_trained

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import read_rows, row_key

import netgraph as ng
from netgraph.coarsen.network.functional_error import compute_outputs, function_error
from netgraph.coarsen.network.head_alignment import find_rotatable_axes, rotate_to_one_basis
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.repair.pipeline import repair_network
from netgraph.models.data.datasets import Dataset
from netgraph.tracing.layers import find_layers
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.choices import RUNGS

RESULTS = Path(__file__).parent.parent / "results" / "merging.jsonl"
RATIOS = {
    "mlp": (0.75, 0.5, 0.25),
    "resnet20": (0.75, 0.55),
    "vgg": (0.75, 0.5, 0.25),
    "transformer": (0.75, 0.5, 0.25),
}
COARSENERS = (
    "hem", "hem-augmented", "hem-random", "random", "magnitude", "metis", "graclus", "pairwise", "local-variation",
    "spectral", "louvain", "kmeans", "ward",
)  # fmt: skip
AFFINITIES = ("both", "correlation", "normed", "radial", "relu")
FEW = ("magnitude", "random", "hem", "ward")  # on the larger networks, without tuning
SOME = ("magnitude", "random", "hem", "kmeans", "ward")  # on mlp, with further seeds
STREAMS = ("resnet20", "transformer")  # networks with residual streams
KEY = ("network", "seed", "seen", "ratio", "coarsener", "affinity", "spread", "repair")  # identifies a row
SEEN = {"mlp": 4096, "resnet20": 512, "vgg": 512, "transformer": 256}  # training inputs for repair and affinities
JUDGED = {"mlp": 10_000, "resnet20": 1000, "vgg": 1000, "transformer": 500}  # test inputs


SPREADS = {
    False: "", True: ", budget of units", "inner": ", streams whole", "inner budget": ", streams whole, budget of units",
}  # fmt: skip


class MergeMethod(NamedTuple):
    """Arguments of `netgraph.build_hierarchy`.

    With ``spread=True``, a budget of units is spread over the axes. With ``"inner"``, residual streams (axes that several layers
    write) stay whole, and all other axes lose equally more units. With ``"inner budget"``, a budget is spread over the other axes.
    """

    coarsener: str
    affinity: str = "cosine"
    spread: bool | str = False


class TestScore:
    """Accuracy and relative function error of networks on test data.

    Parameters
    ----------
    base : torch.nn.Module
        The original network.
    data : Dataset
        The data set.
    n : int
        Number of test inputs.
    """

    def __init__(self, base: nn.Module, data: Dataset, n: int) -> None:
        chosen = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:n]
        self.batches = [data.ready(data.test.inputs[rows]) for rows in chosen.split(250)]
        self.targets = data.test.targets[chosen]
        self.base_outputs = compute_outputs(base, self.batches)
        self.base = self._accuracy(self.base_outputs)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        outputs = compute_outputs(network, self.batches)
        return {"accuracy": self._accuracy(outputs), "error": round(function_error(self.base_outputs, outputs), 4)}

    def _accuracy(self, outputs: list[list[Tensor]]) -> float:
        guesses = torch.cat([batch[0].argmax(1) for batch in outputs])
        return round(100 * float((guesses == self.targets).float().mean()), 2)


def list_methods(name: str, seed: int, options: argparse.Namespace) -> list[MergeMethod]:
    """Return the methods for a network: all of them, or the most informative ones."""
    if options.everything or (name == "mlp" and not seed):
        methods = [MergeMethod(c) for c in COARSENERS] + [MergeMethod("hem", a) for a in AFFINITIES]
        spreads = ["magnitude", "hem", "kmeans", "ward"]
    else:
        methods = [MergeMethod(c) for c in (SOME if name == "mlp" else FEW)]
        spreads = ["ward"] if name == "mlp" else ["magnitude", "ward"] * options.budgets
    methods += [MergeMethod(c, spread=True) for c in spreads]
    if name in STREAMS:
        methods += [MergeMethod(c, spread="inner") for c in FEW] + [
            MergeMethod("ward", spread="inner budget")
        ] * options.budgets
    return [way for way in methods if not options.coarsener or way.coarsener in options.coarsener]


def measure_network(name: str, seed: int, options: argparse.Namespace, known: set[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one network that are not measured yet."""
    base, data = load_trained(name, seed, options.folder), load_data(name)
    rungs = [rung for rung in RUNGS if rung != "tune" or options.everything or options.tune or name == "mlp"]
    n_seen = options.seen or SEEN[name]
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed + 1))[:n_seen]
    seen, judge = data.ready(data.train.inputs[chosen]), TestScore(base, data, JUDGED[name])
    if not any(isinstance(module, nn.BatchNorm2d) for module in base.modules()):
        rungs.remove("norms")
    spec = ng.trace(base, seen[:2])
    head = {"network": name, "seed": seed, "base": judge.base, "judged": JUDGED[name], "seen": n_seen}
    for ratio in options.ratio or RATIOS[name]:
        for way in list_methods(name, seed, options):
            if not known.issuperset((name, seed, n_seen, ratio, *way, rung) for rung in rungs):
                for rung, scores in measure_merging(base, spec, seen, judge, way, ratio, rungs):
                    yield head | {"ratio": ratio, **way._asdict(), "repair": rung, **scores}
        method = {"coarsener": "torch-pruning L1", "affinity": "", "spread": False}
        if (name, seed, n_seen, ratio, *method.values(), "none") not in known:
            for rung, scores in measure_pruning(base, seen, judge, ratio):
                yield head | {"ratio": ratio, **method, "repair": rung, **scores}


def measure_merging(
    base: nn.Module,
    spec: UnitSpec,
    seen: Tensor,
    judge: TestScore,
    way: MergeMethod,
    ratio: float,
    rungs: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every rung of repair for one method. A budget is spread twice, without data and with data."""
    budget = way.spread in (True, "inner budget")
    size: dict[str, Any] = (
        {"budget": f"units={ratio}"} if budget else {"ratio": inner_ratios(spec, ratio) if way.spread else ratio}
    )
    size |= {"keep": residual_streams(spec)} if way.spread == "inner budget" else {}
    rotating = find_rotatable_axes(base, spec, seen[:2], [axis.name for axis in spec.free])
    for kinds in (rungs[:2], rungs[2:]) if budget else (rungs,):
        started, informed = time.process_time(), budget and "ridge" in kinds
        level = ng.build_hierarchy(
            base, seen[:2], n_levels=2, coarsener=way.coarsener, affinity=way.affinity, spec=spec,
            data=seen if informed or way.affinity == "correlation" else None, repair="ridge" if informed else "none",
            **size,
        ).levels[1]  # fmt: skip
        spent = time.process_time() - started
        for rung in kinds:
            started, fine = time.process_time(), rotate_to_one_basis(base, spec, level.transfers, rotating)
            network = coarse_network(fine, spec, level.transfers).eval()
            repair_network(fine, spec, level.transfers, network, rung=rung, data=seen)
            seconds = round(spent + time.process_time() - started, 2)
            yield rung, judge(network) | {"parameters": level.n_parameters, "units": level.n_units, "seconds": seconds}


def inner_ratios(spec: UnitSpec, ratio: float) -> dict[str, float]:
    """Return the ratio of each axis, for a share of all units, with every unit of residual streams kept."""
    within = [axis for axis in spec.free if axis.name not in residual_streams(spec)]
    removed = (1 - ratio) * sum(axis.size for axis in spec.free) / sum(axis.size for axis in within)
    return {"*": 1.0} | {axis.name: 1 - removed for axis in within}


def residual_streams(spec: UnitSpec) -> list[str]:
    """Return the residual streams, the axes that several layers write. Depthwise convolutions write what they read."""
    makers = Counter(layer.axis for layer in find_layers(spec) if spec.parameters[layer.weight][1])
    return [axis.name for axis in spec.free if makers[axis.name] > 1]


def measure_pruning(
    base: nn.Module, seen: Tensor, judge: TestScore, ratio: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the L1 pruning of torch-pruning at a ratio, as it is and with re-estimated batch norms."""
    import torch_pruning

    network = deepcopy(base)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    heads = {m.query: m.n_heads for m in network.modules() if hasattr(m, "n_heads")}
    try:
        pruner = torch_pruning.pruner.MagnitudePruner(
            network, seen[:2], importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=1 - ratio, ignored_layers=[last], num_heads=heads,
        )  # fmt: skip
        pruner.step()
        counts = {"parameters": sum(p.numel() for p in network.parameters())}
        yield "none", judge(network) | counts
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            reestimate_norms(network, seen)
            yield "norms", judge(network) | counts
    except Exception as error:  # a failure of another package is a result
        yield "none", {"refused": f"{type(error).__name__}: {str(error)[:120]}"}


@torch.no_grad()
def reestimate_norms(network: nn.Module, seen: Tensor) -> None:
    """Re-estimate the statistics of batch norms on all data."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in seen.split(256):
        network(batch)
    network.eval()


def format_table(name: str) -> str:
    """Return a network's rows as a Markdown table: accuracy (mean ± standard deviation over seeds), and mean error."""
    rows = [row for row in read_rows(RESULTS, "network") if row["network"] == name and "accuracy" in row]
    bases = [row["base"] for row in {row["seed"]: row for row in rows}.values()]
    lines = [
        f"{name}: base {mean_and_deviation(bases)}, {len(bases)} seeds",
        "",
        "| kept | way | " + " | ".join(RUNGS) + " |",
    ]
    lines.append("|---|---|" + "---|" * len(RUNGS))
    groups: dict[Any, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        way = row["coarsener"] + (f", {row['affinity']}" if row["affinity"] not in ("", "cosine") else "")
        way += SPREADS[row["spread"]] + (f", {row['seen']:,} inputs seen" if row["seen"] != SEEN[name] else "")
        groups.setdefault((-row["ratio"], way), {}).setdefault(row["repair"], []).append(row)
    for (ratio, way), rungs in sorted(groups.items()):
        cells = [_format_cell(rungs.get(rung, [])) for rung in RUNGS]
        lines.append(f"| {-ratio:.0%} | {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _format_cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    return (
        f"{mean_and_deviation([row['accuracy'] for row in rows])} ({statistics.mean(row['error'] for row in rows):.2f})"
    )


def mean_and_deviation(values: list[float]) -> str:
    """Return the mean, with the standard deviation if there are several values."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def main() -> None:
    """Measure the missing rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--network", choices=RECIPES, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--ratio", type=float, action="append", help="share of units kept (default: those of the network)"
    )
    parser.add_argument("--coarsener", action="append", help="default: all of the network")
    parser.add_argument(
        "--seen", type=int, help="training inputs for repair and affinities (default: those of the network)"
    )
    parser.add_argument("--tune", action="store_true", help="tune the larger networks too")
    parser.add_argument(
        "--everything", action="store_true", help="all methods on every network, not only on the first seed of mlp"
    )
    parser.add_argument("--budgets", action="store_true", help="budgets of units on the larger networks too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    for name in options.network or RECIPES:
        for seed in range(options.seeds):
            known = {row_key(row, KEY) for row in read_rows(RESULTS, "network")}
            for row in measure_network(name, seed, options, known):
                if row_key(row, KEY) not in known:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
        print(format_table(name), flush=True)


if __name__ == "__main__":
    main()
