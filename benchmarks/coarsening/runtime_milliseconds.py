"""Claim, met in one of four: half of the FLOPs of ResNet-50 are at most 0.6 of its milliseconds, in PyTorch and ONNX Runtime, at batch 1 and 32.

`netgraph.compress` takes ResNet-50 of torchvision to half of its FLOPs, or of its milliseconds. Weights are random, because a wheel
has none: sizes are chosen by the errors of these weights on random images, so the table speaks of milliseconds and not of accuracy.
Both networks run in turn, and the share is the ratio of first deciles. The report says where the FLOPs lie before and after, by
kernel and stage.

    python benchmarks/coarsening/runtime_milliseconds.py --threads 2        # to benchmarks/results/runtime_milliseconds.jsonl
    python benchmarks/coarsening/runtime_milliseconds.py --report
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import Row, describe_machine, read_rows, run_missing

import netgraph as ng
from netgraph.coarsen.compression.latency import compare_latencies, measure_latencies
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.io.model_zoo import build_network

RESULTS = Path(__file__).parent.parent / "results" / "runtime_milliseconds.jsonl"
KEY = ("network", "target", "round_to", "pixels", "threads")
BATCHES = (1, 32)
SECONDS = 6.0
ROWS = 16  # images on which errors are measured


class OnnxNetwork(nn.Module):
    """A network in ONNX Runtime, called as a module, so that both runtimes are measured by the same clock."""

    def __init__(self, network: nn.Module, example: Tensor, threads: int) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            ng.export(network, path, example=example)
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of a minibatch."""
        return torch.from_numpy(self.session.run(None, {self.name: images.numpy()})[0])


def share_milliseconds(fine: nn.Module, coarse: nn.Module, example: Tensor) -> dict[str, Any]:
    """Return milliseconds before and after, and the share that is left, for each batch."""
    row = {}
    for batch in BATCHES:
        before, after = measure_latencies([fine, coarse], example, batch=batch, seconds=SECONDS)
        row[f"batch {batch}"] = {
            "before": before.low, "after": after.low, "share": compare_latencies(before, after), "medians": after.median / before.median,
        }  # fmt: skip
    return row


def count_convolutions(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the FLOPs of one image by stage and kernel, such as ``layer3 3x3``."""
    counted: Counter[str] = Counter()

    def count(path: str, layer: nn.Module, _inputs: Any, result: Tensor) -> None:
        weight = layer.weight
        kernel = "x".join(str(n) for n in weight.shape[2:]) or "linear"
        counted[f"{path.partition('.')[0]} {kernel}"] += (
            2 * weight.numel() * (result[0, 0].numel() if result.dim() > 2 else 1)
        )

    hooks = [
        layer.register_forward_hook(partial(count, path))
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(example[:1])
    for hook in hooks:
        hook.remove()
    return dict(counted)


def measure_target(name: str, target: str, round_to: int, pixels: int, threads: int) -> Row:
    """Compress the network for a target, and return its row."""
    torch.manual_seed(0)
    network, images = build_network(name, {}).eval(), torch.randn(ROWS, 3, pixels, pixels)
    example = images[:2]
    options = CoarsenOptions(coarsener="ward", repair="none", round_to=round_to)
    started = time.process_time()
    result = ng.compress(network, images, target=target, example=example, options=options)
    seconds = time.process_time() - started
    small = result.model.eval()
    eager = share_milliseconds(network, small, example)
    fast = share_milliseconds(OnnxNetwork(network, example, threads), OnnxNetwork(small, example, threads), example)
    fine, coarse = (count_convolutions(n, example) for n in (network, small))
    return {
        "network": name, "target": target, "round_to": round_to, "pixels": pixels, "threads": threads,
        "flops": sum(coarse.values()) / sum(fine.values()), "parameters": count_numbers(small) / count_numbers(network),
        "PyTorch": eager, "ONNX Runtime": fast, "flops_before": fine, "flops_after": coarse, "seconds": seconds,
    }  # fmt: skip


def count_numbers(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def format_report(rows: list[Row]) -> str:
    """Return the table of shares, and one of FLOPs by stage and kernel."""
    heads = [f"{runtime}, batch {batch}" for runtime in ("PyTorch", "ONNX Runtime") for batch in BATCHES]
    lines = ["| target | sizes | FLOPs | parameters | " + " | ".join(heads) + " |", "|---" * (4 + len(heads)) + "|"]
    for row in rows:
        shares = [
            row[runtime][f"batch {batch}"]["share"] for runtime in ("PyTorch", "ONNX Runtime") for batch in BATCHES
        ]
        sizes = f"multiples of {row['round_to']}" if row["round_to"] > 1 else "as chosen"
        cells = [
            row["target"],
            sizes,
            f"{row['flops']:.2f}",
            f"{row['parameters']:.2f}",
            *(f"{share:.2f}" for share in shares),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for row in rows:
        lines += [
            f"\n{row['target']}, GFLOPs before and after\n",
            "| layers | before | after | share |",
            "|---|---|---|---|",
        ]
        for part, before in row["flops_before"].items():
            after = row["flops_after"].get(part, 0.0)
            lines.append(f"| {part} | {before / 1e9:.2f} | {after / 1e9:.2f} | {after / before:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="torchvision:resnet50")
    parser.add_argument("--targets", nargs="*", default=["flops=0.5", "latency=0.5"])
    parser.add_argument("--round-to", type=int, default=1, help="sizes are multiples of it; 1 leaves it to the target")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(format_report(read_rows(options.out, "target")))
        return
    torch.set_num_threads(options.threads)
    calls = []
    for target in options.targets:
        values = (options.network, target, options.round_to, options.pixels, options.threads)
        calls.append((dict(zip(KEY, values, strict=True)), partial(measure_target, *values)))
    for row in run_missing(options.out, KEY, calls, describe_machine()):
        print(format_report([row]), flush=True)


if __name__ == "__main__":
    main()
