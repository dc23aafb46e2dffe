"""Claim: averaging blocks loses less if their inner channels are matched first.

Residual networks trained on scikit-learn's digits. The blocks of every chain merge in pairs at once, without repair. The table has the
relative error of the function and the test accuracy for three ways: blocks averaged as they are numbered, averaged after matching
(`netgraph.coarsen.directions.block_alignment`), and with the second block of each pair left out. It takes minutes.

    python benchmarks/coarsening/block_order.py            # to benchmarks/results/block_order.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import netgraph as ng
from netgraph.analysis.remove_blocks import drop_blocks
from netgraph.coarsen.directions.depth import DepthMap
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.models.cnn import resnet, wide_resnet
from netgraph.models.data.datasets import Dataset, load_dataset
from netgraph.models.training.evaluation import evaluate
from netgraph.models.training.trainer import fit
from netgraph.recording.recorder import named_state

RESULTS = Path(__file__).parent.parent / "results" / "block_order.json"
NETWORKS = {
    "resnet, 3 blocks a stage": lambda: resnet(3, width=8, channels=1),
    "resnet, 5 blocks a stage": lambda: resnet(5, width=8, channels=1),
    "wide resnet, 3 blocks a stage": lambda: wide_resnet(22, 2, width=4, channels=1),
}
SEEDS = 2


@torch.no_grad()
def compare_outputs(model: nn.Module, coarse: nn.Module, data: Dataset) -> tuple[float, float]:
    """Return the relative error of a coarse network's outputs, and its accuracy."""
    inputs = data.ready(data.test.inputs)
    fine, merged = model.eval()(inputs), coarse.eval()(inputs)
    return float((merged - fine).norm() / fine.norm()), evaluate(coarse, data).accuracy


def measure_orders(model: nn.Module, data: Dataset) -> dict[str, tuple[float, float]]:
    """Return error and accuracy for each way to merge the pairs."""
    example = data.ready(data.test.inputs[:2])
    spec, state = ng.trace(model, example), traced_state(model)
    chains = ng.build_hierarchy(model, example, directions="depth").levels[1].chains
    cut = drop_blocks(spec, named_state(model), [block for step in chains for block in step.dropped])

    def network(parameters: Mapping[str, Tensor]) -> nn.Module:
        return coarse_network(model, cut, {}, state={n: t for n, t in parameters.items() if n in cut.parameters})

    numbered = [replace(step, orders={}) for step in chains]
    ways = {
        "as numbered": DepthMap(numbered).inject(state),
        "in order": DepthMap(chains).inject(state),
        "left out": state,
    }
    return {way: compare_outputs(model, network(parameters), data) for way, parameters in ways.items()}


def main() -> None:
    """Run the benchmark, and print a table."""
    torch.set_num_threads(1)
    data, rows = load_dataset("digits"), []
    print("| network | seed | accuracy | as numbered | in order | second left out |\n|---|---|---|---|---|---|")
    for name, make in NETWORKS.items():
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            model = make()
            fit(model, data, epochs=6, optimizer="sgd", lr=0.1, seed=seed)
            rows.append(
                {
                    "network": name,
                    "seed": seed,
                    "accuracy": evaluate(model, data).accuracy,
                    **measure_orders(model, data),
                }
            )
            ways = " | ".join(f"{error:.2f}, {accuracy:.1%}" for error, accuracy in list(rows[-1].values())[3:])
            print(f"| {name} | {seed} | {rows[-1]['accuracy']:.1%} | {ways} |", flush=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
