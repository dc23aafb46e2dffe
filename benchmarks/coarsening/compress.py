"""Claim: at equal FLOPs and with equal tuning, compressed networks keep at least the accuracy of pruned ones.

A trained ResNet-20 (`trained.py`) loses half of its FLOPs or milliseconds by `netgraph.compress` (merged and repaired; merged along
latency; with fewer blocks; pruned by magnitude and refitted by least squares), and by torch-pruning (L1 norms and Taylor, uniform and global, norms
estimated again). Then every network is tuned alike: `netgraph.coarsen.fine_tune` towards labels and the original, ``--epochs`` of it.
The small network trained from new for these epochs is the control. Accuracy on the 10,000 test images. Milliseconds are medians of
runs in turn with the original, on one thread, of each network in its own class.

    NETGRAPH_DATA=... python benchmarks/coarsening/trained.py --folder nets --network resnet20 --seeds 3
    NETGRAPH_DATA=... python benchmarks/coarsening/compress.py --folder nets --seeds 3       # to benchmarks/results/compress.jsonl
    python benchmarks/coarsening/compress.py --report

torch-pruning comes with ``pip install torch-pruning==1.6.1``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from merging import reestimate_norms
from torch import Tensor, nn
from torch.nn import functional
from trained import BF16, load_data, load_trained

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import Row, describe_machine, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen import fine_tune, measure_costs
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.models.cnn import resnet20
from netgraph.models.data.augmentation import crop_and_flip
from netgraph.models.data.datasets import Dataset
from netgraph.models.training.evaluation import evaluate

RESULTS = Path(__file__).parent.parent / "results" / "compress.jsonl"
KEY = ("method", "target", "seed", "epochs")
ROWS = 512  # for calibration
LR = 2e-3  # of tuning, for every method
SEARCHES = 12  # bisections of the pruning ratio

Make = Callable[[nn.Module, Tensor, Tensor, float], nn.Module]


def merge(
    kind: str, coarsener: str, directions: str, base: nn.Module, inputs: Tensor, targets: Tensor, share: float
) -> nn.Module:
    """Return the network that `netgraph.compress` makes."""
    options = CoarsenOptions(coarsener=coarsener, repair="ridge", directions=directions)
    return ng.compress(base, inputs, targets=targets, target=f"{kind}={share}", options=options).model


def prune(
    importance: str, is_global: bool, base: nn.Module, inputs: Tensor, targets: Tensor, share: float
) -> nn.Module:
    """Return a network that torch-pruning makes, at the pruning ratio whose FLOPs are the share, with norms estimated again."""
    low, high, best = 0.0, 0.95, None
    whole = count_flops(base, inputs[:1])
    for _ in range(SEARCHES):
        ratio = (low + high) / 2
        network = prune_once(importance, is_global, base, inputs, targets, ratio)
        if count_flops(network, inputs[:1]) <= share * whole:
            high, best = ratio, network
        else:
            low = ratio
    assert best is not None
    reestimate_norms(best, inputs)
    return best


def prune_once(
    importance: str, is_global: bool, base: nn.Module, inputs: Tensor, targets: Tensor, ratio: float
) -> nn.Module:
    """Return a network that torch-pruning makes at a pruning ratio."""
    import torch_pruning

    network = deepcopy(base)
    measure = (
        torch_pruning.importance.TaylorImportance()
        if importance == "Taylor"
        else torch_pruning.importance.MagnitudeImportance(p=1)
    )
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MagnitudePruner(
        network, inputs[:2], importance=measure, pruning_ratio=ratio, global_pruning=is_global, ignored_layers=[last]
    )
    if importance == "Taylor":
        functional.cross_entropy(network(inputs), targets).backward()
    pruner.step()
    network.zero_grad()
    return network.eval()


def begin_anew(base: nn.Module, inputs: Tensor, targets: Tensor, share: float) -> nn.Module:
    """Return an untrained network of the width whose FLOPs are the share."""
    whole = count_flops(base, inputs[:1])
    widths = range(16, 3, -1)
    return next(n for w in widths if count_flops(n := resnet20(width=w), inputs[:1]) <= share * whole)


def count_flops(network: nn.Module, inputs: Tensor) -> int:
    """Return the FLOPs of one forward pass, by PyTorch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs)
    return int(counter.get_total_flops())


METHODS: dict[str, tuple[str, Make]] = {
    "netgraph": ("flops", partial(merge, "flops", "ward", "channels")),
    "netgraph, by milliseconds": ("latency", partial(merge, "latency", "ward", "channels")),
    "netgraph, blocks too": ("flops", partial(merge, "flops", "ward", "channels+depth")),
    "netgraph, blocks too, by milliseconds": ("latency", partial(merge, "latency", "ward", "channels+depth")),
    "magnitude with least squares": ("flops", partial(merge, "flops", "magnitude", "channels")),
    "torch-pruning L1, uniform": ("flops", partial(prune, "L1", False)),
    "torch-pruning L1, global": ("flops", partial(prune, "L1", True)),
    "torch-pruning Taylor, uniform": ("flops", partial(prune, "Taylor", False)),
    "torch-pruning Taylor, global": ("flops", partial(prune, "Taylor", True)),
    "trained from new": ("flops", begin_anew),
}


def measure_method(method: str, share: float, seed: int, epochs: int, folder: Path) -> Row:
    """Make a smaller network, tune it, and return its row."""
    base, data = load_trained("resnet20", seed, folder), load_data("resnet20")
    kind, make = METHODS[method]
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed + 1))[:ROWS]
    inputs, targets = data.ready(data.train.inputs[chosen]), data.train.targets[chosen]
    torch.manual_seed(seed)
    started = time.process_time()
    network = make(base, inputs, targets, share)
    made = time.process_time() - started
    before = evaluate(network, data).accuracy
    started = time.process_time()
    tune(network, base, data, epochs, seed)
    tuning = time.process_time() - started
    fine, coarse = measure_costs(
        [base, network], inputs[:1], flops=[count_flops(n, inputs[:1]) for n in (base, network)]
    )
    return {
        "method": method, "target": f"{kind}={share:g}", "seed": seed, "epochs": epochs, "base": evaluate(base, data).accuracy,
        "untuned": before, "tuned": evaluate(network, data).accuracy, "seconds": made, "tuning": tuning,
        "parameters": coarse.parameters / fine.parameters, "flops": coarse.flops / fine.flops,
        "milliseconds": [a.median / b.median for a, b in zip(coarse.latency, fine.latency, strict=True)],
    }  # fmt: skip


def tune(network: nn.Module, base: nn.Module, data: Dataset, epochs: int, seed: int) -> None:
    """Train a network towards labels and the original, the same for every method."""
    if epochs:
        fine_tune(
            network, base, data.ready(data.train.inputs), data.train.targets, epochs=epochs, batch=128, lr=LR, bf16=BF16,
            mode="train", augment=crop_and_flip, seed=seed,
        )  # fmt: skip
    network.eval()


def format_report(rows: list[Row]) -> str:
    """Return a table for each number of epochs: medians over seeds, least to most."""
    lines = []
    for epochs in sorted({row["epochs"] for row in rows}):
        these = [row for row in rows if row["epochs"] == epochs]
        lines += [
            f"\ntuned for {epochs} epochs, original {format_percent(these, 'base')}\n",
            "| method | target | n | untuned | tuned | parameters | FLOPs | ms, batch 1 | ms, batch 32 |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for method, target in dict.fromkeys((row["method"], row["target"]) for row in these):
            runs = [row for row in these if (row["method"], row["target"]) == (method, target)]
            shares = [statistics.median(row[key] for row in runs) for key in ("parameters", "flops")]
            shares += [statistics.median(row["milliseconds"][i] for row in runs) for i in (0, 1)]
            cells = [method, target, str(len(runs)), format_percent(runs, "untuned"), format_percent(runs, "tuned")]
            lines.append("| " + " | ".join([*cells, *(f"{share:.2f}" for share in shares)]) + " |")
    return "\n".join(lines)


def format_percent(runs: list[Row], key: str) -> str:
    """Return the median of accuracies, with least and most where there are several."""
    values = sorted(100 * row[key] for row in runs)
    spread = f" ({values[0]:.1f}–{values[-1]:.1f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.1f} %{spread}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder of trained networks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of tuning")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--only", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(format_report(read_rows(options.out)))
        return
    torch.set_num_threads(1)
    calls = []
    for seed in range(options.seeds):
        for name in options.only:
            settings = {
                "method": name,
                "target": f"{METHODS[name][0]}={options.share:g}",
                "seed": seed,
                "epochs": options.epochs,
            }
            calls.append((settings, partial(measure_method, name, options.share, seed, options.epochs, options.folder)))
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        print(
            f"{row['method']} {row['seed']}: {row['untuned']:.4f}, tuned {row['tuned']:.4f}, FLOPs {row['flops']:.2f}, "
            f"milliseconds {row['milliseconds'][1]:.2f}, {row['seconds']:.0f} + {row['tuning']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
