"""Claim: merged, repaired networks keep the accuracy of the whole one, and are no worse than pruned ones of the same size.

Accuracy on test data and relative function error, |outputs - base's| / |base's|, without labels, for each network, share
of units kept, way of merging and rung of repair. On ``mlp`` with its first seed every coarsener stands with the affinity `cosine`,
every affinity with `hem` (k-means and Ward hear none), and four coarseners with a budget of units besides, with other seeds those
of `SOME`; on the larger networks, without tuning, those of `FEW`, where there are residual streams also with these whole. Beside them, in the same run: `magnitude`, which prunes, and `random`, with the same repairs (with
ridge, pruning is refitted by least squares), and torch-pruning's L1, also with norms' statistics estimated anew.
Repair sees training inputs without labels; accuracies and errors are of test inputs. Heads merge in one basis, and
where there is no batch norm the rung that estimates its statistics is left out.

    .venv/bin/python benchmarks/coarsening/trained.py --folder nets               # once, an hour or more
    .venv/bin/python benchmarks/coarsening/merging.py --folder nets --seeds 3

One thread. A row is written as soon as it is known, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from trained import RECIPES, load_data, load_trained

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
STREAMS = ("resnet20", "transformer")  # have residual streams
SEEN = {"mlp": 4096, "resnet20": 512, "vgg": 512, "transformer": 256}  # training inputs for repair and choice
JUDGED = {"mlp": 10_000, "resnet20": 1000, "vgg": 1000, "transformer": 500}  # test inputs


SPREADS = {
    False: "", True: ", budget of units", "inner": ", streams whole", "inner budget": ", streams whole, budget of units",
}  # fmt: skip


class MergeMethod(NamedTuple):
    """What is asked of `netgraph.build_hierarchy`: the ratio of units kept on each axis, or a budget ``spread`` over them.

    With ``spread="inner"`` residual streams, the axes that several layers make, stay whole and the others make up for it,
    all alike; with ``"inner budget"`` a budget is spread over these others.
    """

    coarsener: str
    affinity: str = "cosine"
    spread: bool | str = False


class TestScore:
    """Judges networks by test data.

    Parameters
    ----------
    base : torch.nn.Module
    data : Dataset
    n : int
        Test inputs.
    """

    def __init__(self, base: nn.Module, data: Dataset, n: int) -> None:
        chosen = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:n]
        self.batches = [data.ready(data.test.inputs[rows]) for rows in chosen.split(250)]
        self.targets = data.test.targets[chosen]
        self.wanted = compute_outputs(base, self.batches)
        self.base = self._right(self.wanted)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        found = compute_outputs(network, self.batches)
        return {"accuracy": self._right(found), "error": round(function_error(self.wanted, found), 4)}

    def _right(self, found: list[list[Tensor]]) -> float:
        guesses = torch.cat([batch[0].argmax(1) for batch in found])
        return round(100 * float((guesses == self.targets).float().mean()), 2)


def list_methods(name: str, seed: int, given: argparse.Namespace) -> list[MergeMethod]:
    """Return what is tried on a network: all, or what tells most."""
    if given.everything or (name == "mlp" and not seed):
        found = [MergeMethod(c) for c in COARSENERS] + [MergeMethod("hem", a) for a in AFFINITIES]
        spreads = ["magnitude", "hem", "kmeans", "ward"]
    else:
        found = [MergeMethod(c) for c in (SOME if name == "mlp" else FEW)]
        spreads = ["ward"] if name == "mlp" else ["magnitude", "ward"] * given.budgets
    found += [MergeMethod(c, spread=True) for c in spreads]
    if name in STREAMS:
        found += [MergeMethod(c, spread="inner") for c in FEW] + [
            MergeMethod("ward", spread="inner budget")
        ] * given.budgets
    return [way for way in found if not given.coarsener or way.coarsener in given.coarsener]


def rows(name: str, seed: int, given: argparse.Namespace, known: set[Any]) -> Iterator[dict[str, Any]]:
    """Yield the measurements of one network that are not known yet."""
    base, data = load_trained(name, seed, given.folder), load_data(name)
    rungs = [rung for rung in RUNGS if rung != "tune" or given.everything or given.tune or name == "mlp"]
    n_seen = given.seen or SEEN[name]
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed + 1))[:n_seen]
    seen, judge = data.ready(data.train.inputs[chosen]), TestScore(base, data, JUDGED[name])
    if not any(isinstance(module, nn.BatchNorm2d) for module in base.modules()):
        rungs.remove("norms")
    spec = ng.trace(base, seen[:2])
    head = {"network": name, "seed": seed, "base": judge.base, "judged": JUDGED[name], "seen": n_seen}
    for ratio in given.ratio or RATIOS[name]:
        for way in list_methods(name, seed, given):
            if not known.issuperset((name, seed, n_seen, ratio, *way, rung) for rung in rungs):
                for rung, found in measure_merging(base, spec, seen, judge, way, ratio, rungs):
                    yield head | {"ratio": ratio, **way._asdict(), "repair": rung, **found}
        method = {"coarsener": "torch-pruning L1", "affinity": "", "spread": False}
        if (name, seed, n_seen, ratio, *method.values(), "none") not in known:
            for rung, found in measure_pruning(base, seen, judge, ratio):
                yield head | {"ratio": ratio, **method, "repair": rung, **found}


def measure_merging(
    base: nn.Module,
    spec: UnitSpec,
    seen: Tensor,
    judge: TestScore,
    way: MergeMethod,
    ratio: float,
    rungs: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every rung of repair of one merging; a budget is spread twice, without data and with."""
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
    """Return the ratio of each axis that keeps a share of all units and every unit of residual streams."""
    within = [axis for axis in spec.free if axis.name not in residual_streams(spec)]
    removed = (1 - ratio) * sum(axis.size for axis in spec.free) / sum(axis.size for axis in within)
    return {"*": 1.0} | {axis.name: 1 - removed for axis in within}


def residual_streams(spec: UnitSpec) -> list[str]:
    """Return the axes that several layers make."""
    makers = Counter(layer.axis for layer in find_layers(spec))
    return [axis.name for axis in spec.free if makers[axis.name] > 1]


def measure_pruning(
    base: nn.Module, seen: Tensor, judge: TestScore, ratio: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield torch-pruning's L1 at a ratio, as it is and with its batch norms' statistics estimated anew."""
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
    except Exception as error:  # what another package cannot do is a result
        yield "none", {"refused": f"{type(error).__name__}: {str(error)[:120]}"}


@torch.no_grad()
def reestimate_norms(network: nn.Module, seen: Tensor) -> None:
    """Estimate the statistics of batch norms on all data at once."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in seen.split(256):
        network(batch)
    network.eval()


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a row is of."""
    return tuple(row[k] for k in ("network", "seed", "seen", "ratio", "coarsener", "affinity", "spread", "repair"))


def read_rows() -> list[dict[str, Any]]:
    """Return the rows that are there."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def format_table(name: str) -> str:
    """Return a network's rows as a Markdown table: mean accuracy ± deviation over seeds, and mean error."""
    found = [row for row in read_rows() if row["network"] == name and "accuracy" in row]
    bases = [row["base"] for row in {row["seed"]: row for row in found}.values()]
    lines = [f"{name}: base {spread(bases)}, {len(bases)} seeds", "", "| kept | way | " + " | ".join(RUNGS) + " |"]
    lines.append("|---|---|" + "---|" * len(RUNGS))
    groups: dict[Any, dict[str, list[dict[str, Any]]]] = {}
    for row in found:
        way = row["coarsener"] + (f", {row['affinity']}" if row["affinity"] not in ("", "cosine") else "")
        way += SPREADS[row["spread"]] + (f", {row['seen']:,} inputs seen" if row["seen"] != SEEN[name] else "")
        groups.setdefault((-row["ratio"], way), {}).setdefault(row["repair"], []).append(row)
    for (ratio, way), rungs in sorted(groups.items()):
        cells = [_format_cell(rungs.get(rung, [])) for rung in RUNGS]
        lines.append(f"| {-ratio:.0%} | {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _format_cell(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    return f"{spread([row['accuracy'] for row in found])} ({statistics.mean(row['error'] for row in found):.2f})"


def spread(values: list[float]) -> str:
    """Return the mean and, of several, the standard deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def main() -> None:
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of trained networks")
    parser.add_argument("--network", choices=RECIPES, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ratio", type=float, action="append", help="of units kept; by default those of the network")
    parser.add_argument("--coarsener", action="append", help="by default all of the network")
    parser.add_argument(
        "--seen", type=int, help="training inputs for repair and choice; by default those of the network"
    )
    parser.add_argument("--tune", action="store_true", help="tuning on the larger networks too")
    parser.add_argument("--everything", action="store_true", help="all on every network, not on mlp's first seed alone")
    parser.add_argument("--budgets", action="store_true", help="budgets of units on the larger networks too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    for name in given.network or RECIPES:
        for seed in range(given.seeds):
            known = {row_key(row) for row in read_rows()}
            for row in rows(name, seed, given, known):
                if row_key(row) not in known:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
        print(format_table(name), flush=True)


if __name__ == "__main__":
    main()
