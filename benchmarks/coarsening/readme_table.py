"""Claim: the table of merged networks in README.md.

Accuracies and seconds are those of `benchmarks/results/merging.jsonl` (means over its seeds; ward and ridge). Parameters and
FLOPs depend on sizes alone, so they are counted on a network with random weights, merged in the same way.

    .venv/bin/python benchmarks/coarsening/readme_table.py
"""

from __future__ import annotations

import json
from statistics import mean, median
from typing import Any

import torch
from merging import RESULTS, inner_ratios
from trained import RECIPES

import netgraph as ng

ROWS = (  # name in the table, network, example, share of units kept, whether residual streams stay whole
    ("Perceptron 784-256-256-10, MNIST", "mlp", torch.zeros(2, 784), 0.25, False),
    ("ResNet-20, CIFAR-10", "resnet20", torch.zeros(2, 3, 32, 32), 0.75, True),
    ("VGG-11 of half width, CIFAR-10", "vgg", torch.zeros(2, 3, 32, 32), 0.75, False),
    ("Transformer encoder, IMDB", "transformer", torch.ones(2, 256, dtype=torch.int64), 0.5, True),
)


def count_sizes(network: str, example: torch.Tensor, ratio: float, whole_streams: bool) -> tuple[Any, Any]:
    """Return the fine and the coarse level of a network with random weights."""
    torch.manual_seed(0)
    model = RECIPES[network].make().eval()
    ratios = inner_ratios(ng.trace(model, example), ratio) if whole_streams else ratio
    hierarchy = ng.build_hierarchy(model, example, coarsener="ward", ratio=ratios, n_levels=2)
    return hierarchy.levels[0], hierarchy.levels[1]


def select_rows(network: str, ratio: float, whole_streams: bool) -> list[dict[str, Any]]:
    """Return the measured rows of one network, one for each seed."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    wanted = {"network": network, "ratio": ratio, "coarsener": "ward", "affinity": "cosine", "repair": "ridge"}
    wanted["spread"] = "inner" if whole_streams else False
    chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    fewest = min(row["seen"] for row in chosen)
    return [row for row in chosen if row["seen"] == fewest]


def main() -> None:
    """Print the table as Markdown."""
    print(
        "| Network | Units kept | Parameters | FLOPs per sample | Accuracy | Seconds | Seeds |\n|---|---|---|---|---|---|---|"
    )
    for title, network, example, ratio, whole_streams in ROWS:
        fine, coarse = count_sizes(network, example, ratio, whole_streams)
        rows = select_rows(network, ratio, whole_streams)
        kept = f"{ratio:.0%}" + (", streams whole" if whole_streams else "")
        before, after = mean(row["base"] for row in rows), mean(row["accuracy"] for row in rows)
        print(
            f"| {title} | {kept} | {fine.n_parameters / 1e3:,.0f} k to {coarse.n_parameters / 1e3:,.0f} k "
            f"| {fine.flops / 2e6:,.2f} M to {coarse.flops / 2e6:,.2f} M | {before:.1f} % to {after:.1f} % "
            f"| {median(row['seconds'] for row in rows):.1f} | {len(rows)} |"
        )


if __name__ == "__main__":
    main()
