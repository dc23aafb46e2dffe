"""Claim: with ridge, merged and pruned networks of public packages keep about as much of what their users measure; without, both lose it.

Five networks, by their own measures: top-1 agreement (EfficientNet-Lite0), cosine of embeddings and agreement of the nearest sentence
(MiniLM), share of frames within 50 cents of the pitch (CREPE), equal error of speaker verification (Resemblyzer), energies and forces
(ANI-1x). Pitch and speakers are judged by what is true, the others by the network before. 75 % and 50 % of the units of each axis stay.
``magnitude`` prunes, and ``surgeon`` prunes by `importance="surgeon"`; with ``ridge`` the pruned network is refitted by least squares. torch-pruning prunes by L1 norms. ``streams whole``
merges no residual stream, and more of the other axes; ``heads whole`` merges no heads. ``sizes chosen`` takes the sizes that
`netgraph.compress` chooses by measured errors, for the parameters that 75 % and 50 % of every axis leave; ``sizes chosen after repair``
measures these errors after repair. No method sees labels.

    NETGRAPH_DATA=... .venv/bin/python benchmarks/coarsening/trained_packages.py --seeds 3

The packages are installed with pip, pinned, in a temporary folder, or in ``--folder``, which keeps them. Seeds choose the calibration
inputs. One thread. Each row is written as soon as it is measured, and existing rows are not measured again.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from merging import inner_ratios, residual_streams
from packaged_networks import SOURCES, PackagedNetwork, install_packages, run_rows
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import Row, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.tracing.unit_spec import UnitSpec
from netgraph.utils.choices import DATA_RUNGS

RESULTS = Path(__file__).parent.parent / "results" / "trained_packages.jsonl"
KEY = ("network", "seed", "ratio", "method", "repair")
PRUNER = "torch-pruning==1.6.1"
RATIOS = (0.75, 0.5)
RUNGS = {
    "ward": ("none", "rescale", "norms", "ridge"),
    "magnitude": ("none", "ridge"),
    "ward, streams whole": ("none", "ridge"),
    "magnitude, streams whole": ("ridge",),
    "surgeon": ("ridge",),
    "surgeon, streams whole": ("ridge",),
    "ward, heads whole": ("ridge",),
    "ward, sizes chosen": ("ridge",),
    "surgeon, sizes chosen": ("ridge",),
    "magnitude, sizes chosen": ("ridge",),
    "ward, sizes chosen after repair": ("ridge",),
    "torch-pruning L1": ("none", "norms"),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def take_rows(inputs: Any, n: int) -> Any:
    """Return the first rows of inputs, a tensor or a tuple of tensors."""
    return tuple(part[:n] for part in inputs) if isinstance(inputs, tuple) else inputs[:n]


def list_jobs(
    name: str, seed: int, packaged: PackagedNetwork, spec: UnitSpec, *, tune: bool, methods: Sequence[str]
) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield the settings of each row of a network, and a function that measures it."""
    head = {"network": name, "seed": seed}
    for method, network in {"full": packaged.network, **packaged.peers}.items():
        yield (
            (settings := head | {"ratio": 1.0, "method": method, "repair": "none"}),
            partial(measure_whole, settings, packaged, network),
        )
    has_norms = any(isinstance(module, NORMS) for module in packaged.network.modules())
    for ratio in RATIOS:
        for method, rungs in RUNGS.items():
            if (
                ("streams" in method and not can_keep_streams(spec, ratio))
                or ("heads" in method and not packaged.heads)
                or method not in methods
            ):
                continue
            for rung in (*rungs, *("tune" for _ in range(tune and method in ("ward", "magnitude")))):
                if rung == "norms" and not has_norms:
                    continue
                settings = head | {"ratio": ratio, "method": method, "repair": rung}
                measure = choose_measure(method, spec)
                yield settings, partial(measure, settings, packaged)


def choose_measure(method: str, spec: UnitSpec) -> Callable[[Row, PackagedNetwork], Row]:
    """Return the function that measures the rows of a method."""
    if method == "torch-pruning L1":
        return measure_pruning
    return partial(measure_chosen if "chosen" in method else measure_merging, spec=spec)


def can_keep_streams(spec: UnitSpec, ratio: float) -> bool:
    """Return True if there are residual streams, and the other axes have enough units to lose in their place."""
    return bool(residual_streams(spec)) and min(inner_ratios(spec, ratio).values()) > 0


def measure_whole(settings: Row, packaged: PackagedNetwork, network: nn.Module) -> Row:
    """Return the row of a network that lost nothing."""
    return settings | packaged.judge(network) | count_parameters(network)


def count_parameters(network: nn.Module) -> Row:
    """Return the number of parameters of a network, as an entry of a row."""
    return {"parameters": sum(parameter.numel() for parameter in network.parameters())}


def measure_merging(settings: Row, packaged: PackagedNetwork, *, spec: UnitSpec) -> Row:
    """Return the row of a network that netgraph made smaller."""
    by, _, whole = settings["method"].partition(", ")
    started, rung, ratio = time.process_time(), settings["repair"], settings["ratio"]
    if whole == "streams whole":
        ratio = inner_ratios(spec, ratio)
    elif whole == "heads whole":
        names = {name for name, module in packaged.network.named_modules() if module in packaged.heads}
        ratio = {axis.name: 1.0 if axis.name in names else ratio for axis in spec.free}
    level = ng.build_hierarchy(
        packaged.network, take_rows(packaged.seen, packaged.n_example), n_levels=2, ratio=ratio, spec=spec, repair=rung,
        data=packaged.seen if rung in DATA_RUNGS else None, **choose_units(by),
    ).levels[1]  # fmt: skip
    seconds = round(time.process_time() - started, 2)
    small = level.model.eval()
    return settings | packaged.judge(small) | {"parameters": level.n_parameters, "seconds": seconds}


def choose_units(by: str) -> dict[str, Any]:
    """Return the options of a hierarchy that say which units merge or go."""
    return {"coarsener": "magnitude", "importance": by} if by == "surgeon" else {"coarsener": by}


def measure_chosen(settings: Row, packaged: PackagedNetwork, *, spec: UnitSpec) -> Row:
    """Return the row of a network with the sizes that compress chooses, for the parameters that equal ratios leave."""
    by, _, how = settings["method"].partition(", ")
    example = take_rows(packaged.seen, packaged.n_example)
    whole, equal = ng.build_hierarchy(
        packaged.network,
        example,
        n_levels=2,
        coarsener=by if by == "ward" else "magnitude",
        ratio=settings["ratio"],
        spec=spec,
    ).levels
    started = time.process_time()
    result = ng.compress(
        packaged.network, packaged.seen, target=f"parameters={equal.n_parameters / whole.n_parameters}", example=example,
        options=CoarsenOptions(repair=settings["repair"], **choose_units(by)), repaired_errors=how.endswith("repair"),
    )  # fmt: skip
    seconds = round(time.process_time() - started, 2)
    chosen = {name: n for name, (_, n) in result.axes.items()}
    return (
        settings | packaged.judge(result.model) | count_parameters(result.model) | {"seconds": seconds, "sizes": chosen}
    )


def measure_pruning(settings: Row, packaged: PackagedNetwork) -> Row:
    """Return the row of a network that torch-pruning made smaller by L1 norms. A failure is a result."""
    import torch_pruning

    started, copies = time.process_time(), {}
    network = deepcopy(packaged.network, copies)
    outputs = [copies[id(module)] for module in packaged.outputs]
    heads = {copies[id(module)]: n for module, n in packaged.heads.items()}
    example = take_rows(packaged.seen, packaged.n_example)
    try:
        pruner = torch_pruning.pruner.MagnitudePruner(
            network, example, importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=1 - settings["ratio"], ignored_layers=outputs, num_heads=heads,
        )  # fmt: skip
        pruner.step()
        write_sizes(network)
        if settings["repair"] == "norms":
            reestimate_norms(network, packaged.seen)
        figures = packaged.judge(network) | count_parameters(network)
    except Exception as error:  # a failure of another package is a result
        return settings | {"refused": f"{type(error).__name__}: {str(error)[:160]}"}
    return settings | figures | {"seconds": round(time.process_time() - started, 2)}


def write_sizes(network: nn.Module) -> None:
    """Write the new sizes where the networks keep them: a BERT those of its heads, CREPE that of its flattened features."""
    for module in network.modules():
        if hasattr(module, "attention_head_size") and hasattr(module, "query"):
            module.attention_head_size = module.query.out_features // module.num_attention_heads
            module.all_head_size = module.query.out_features
        if hasattr(module, "in_features") and hasattr(module, "classifier"):
            module.in_features = module.classifier.in_features


def reestimate_norms(network: nn.Module, seen: Any) -> None:
    """Estimate the statistics of batch norms again, on all calibration inputs."""
    for module in network.modules():
        if isinstance(module, NORMS):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    run_rows(network, seen)
    network.eval()


def format_table(name: str, results: Path) -> str:
    """Return the rows of a network as a Markdown table, the mean of each figure over the seeds, with the deviation."""
    rows = [row for row in read_rows(results) if row["network"] == name]
    figures = [
        key for key in next(row for row in rows if row["method"] == "full") if key not in (*KEY, "seconds", "sizes")
    ]
    lines = [
        f"| {name}, kept | method | repair | " + " | ".join(figures) + " |",
        "|---|---|---|" + "---|" * len(figures),
    ]
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["method"], row["repair"]), []).append(row)
    for (ratio, method, repair), group in groups.items():
        cells = [_format_cell([row[key] for row in group if key in row]) for key in figures]
        refused = group[0].get("refused", "")
        lines.append(f"| {ratio:.0%} | {method} | {repair} | " + " | ".join(cells) + " |" + f" {refused}".rstrip())
    return "\n".join(lines)


def _format_cell(values: list[float]) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    if isinstance(values[0], int):
        return f"{mean:,.0f}"
    return f"{mean:.4g}" + (
        f" ± {statistics.stdev(values):.1g}" if len(values) > 1 and statistics.stdev(values) else ""
    )


def main() -> None:
    """Measure the missing rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SOURCES, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="also tune, which takes long for larger networks")
    parser.add_argument(
        "--method", choices=RUNGS, action="append", help="default: all without chosen sizes, which take long"
    )
    parser.add_argument("--folder", type=Path, help="folder that keeps the packages (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the rows, whose missing ones are measured")
    options = parser.parse_args()
    methods = options.method or [method for method in RUNGS if "chosen" not in method]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prepare_torchvision()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.network or SOURCES:
            packages = (*SOURCES[name].packages, PRUNER)
            install_packages(packages, folder)
            machine = {"python": platform.python_version(), "torch": torch.__version__, "packages": packages}
            for seed in range(options.seeds):
                packaged = SOURCES[name].load(folder, seed)
                spec = ng.trace(packaged.network, take_rows(packaged.seen, packaged.n_example))
                for row in run_missing(
                    options.out,
                    KEY,
                    list_jobs(name, seed, packaged, spec, tune=options.tune, methods=methods),
                    machine if seed == 0 else None,
                ):
                    print(row, file=sys.stderr, flush=True)
            print(format_table(name, options.out), flush=True)


if __name__ == "__main__":
    main()
