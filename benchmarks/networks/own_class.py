"""Claim: the coarse level of most networks can be built in their own class, with proven equal outputs. Others are refused by name.

For each network with random weights: coarsen by half, convert with `own_class` or note the reason for a refusal, and measure the
processor time of the conversion and of the coarsening. Each network is a line of JSON in ``benchmarks/results/own_class.jsonl``.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/networks/own_class.py [--only SUBSTRING ...] [--summary]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import BuiltNetwork, all_networks
from zoo import run_apart

RESULTS = Path(__file__).parent.parent / "results" / "own_class.jsonl"
LIMIT = 120  # seconds for each network
NETWORKS = (
    "torchvision:alexnet", "torchvision:vgg11_bn", "torchvision:resnet18", "torchvision:resnext50_32x4d", "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small", "torchvision:densenet121", "torchvision:googlenet", "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5", "torchvision:efficientnet_b0", "torchvision:regnet_x_400mf", "torchvision:mnasnet0_5",
    "torchvision:convnext_tiny", "torchvision:swin_t", "torchvision:vit_b_16", "torchvision:lraspp_mobilenet_v3_large",
    "timm:resnetv2_50", "timm:seresnet18", "timm:mobilenetv4_conv_small", "timm:convnextv2_atto", "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224", "timm:mixer_s32_224", "timm:poolformer_s12", "timm:levit_128s", "timm:pvt_v2_b0",
    "timm:edgenext_xx_small", "timm:hrnet_w18_small", "timm:eva02_tiny_patch14_224",
)  # fmt: skip
FAMILIES = ("recurrent", "pyg", "transformers")  # all networks of these families


def convert_back(make: Callable[[], BuiltNetwork]) -> dict[str, Any]:
    """Return a row about the conversion of a coarse network to its own class, with its seconds."""
    from netgraph.coarsen.hierarchy.hierarchy import build_hierarchy
    from netgraph.coarsen.user_class.convert import own_class
    from netgraph.errors import NetgraphError

    torch.manual_seed(0)
    model, example = make()
    started = time.process_time()
    hierarchy = build_hierarchy(model, example)
    made = time.process_time()
    row: dict[str, Any] = {"coarsening": made - started}
    try:
        own = own_class(hierarchy, example)
        row |= {"given back": True, "parameters": sum(p.numel() for p in own.parameters())}
    except NetgraphError as error:
        row |= {"given back": False, "why": str(error)}
    return {**row, "seconds": time.process_time() - made}


def format_counts(rows: list[dict[str, Any]]) -> str:
    """Return the counts that the documentation quotes."""
    lines = []
    for family, n in Counter(row["name"].partition(":")[0] for row in rows).items():
        of = [row for row in rows if row["name"].startswith(f"{family}:")]
        lines.append(f"{family}: {sum(bool(row.get('given back')) for row in of)} of {n}")
    came = sum(bool(row.get("given back")) for row in rows)
    ratios = [row["seconds"] / row["coarsening"] for row in rows if "seconds" in row]
    refused = [row for row in rows if not row.get("given back")]
    lines.append(
        f"in all {came} of {len(rows)}; seconds over those of the coarsening: median {statistics.median(ratios):.2f}"
    )
    return "\n".join([*lines, *(f"  {row['name']}: {row.get('why') or row.get('crashed')}" for row in refused)])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--summary", action="store_true", help="print the summary of the results that are there")
    options = parser.parse_args()
    if options.summary:
        print(format_counts([row for row in map(json.loads, RESULTS.read_text().splitlines()) if "name" in row]))
        return
    names = [n for n, _ in all_networks() if n in NETWORKS or n.partition(":")[0] in FAMILIES]
    names = [n for n in names if not options.only or any(part in n for part in options.only)]
    rows = []
    with RESULTS.open("w") as file:
        file.write(
            json.dumps({"machine": platform.platform(), "torch": torch.__version__, "threads": 1, "seed": 0}) + "\n"
        )
        for name in names:
            rows.append({"name": name, **run_apart(convert_back, name, LIMIT)})
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            print(name, json.dumps(rows[-1])[:200], flush=True)
    print(format_counts(rows))


if __name__ == "__main__":
    main()
