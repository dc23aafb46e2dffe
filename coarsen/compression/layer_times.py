"""The time of each layer of a network, and a prediction of it for other numbers of units.

One run of the recorded graph is timed operator by operator. A layer of fewer units takes the share of its time that it has of its
multiply-adds, and the rest of the network stays as it is::

    t(n) = sum over layers of t_l · products_l(n) / products_l        + rest

This overestimates the gain of small layers. `netgraph.coarsen.compression.selection` therefore measures what it has chosen, and corrects.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.partition.size_costs import SizeCosts
from netgraph.recording.interpreter import run_step
from netgraph.tracing.unit_spec import UnitSpec, term_size
from netgraph.utils.pytree import normalize_example

RUNS = 5  # after one that warms up


def time_nodes(network: nn.Module, spec: UnitSpec, example: Any) -> dict[str, float]:
    """Return the milliseconds of each operator of the recorded graph in evaluation mode, by the name of its node: medians."""
    graph = coarse_network(network, spec, {}).eval()
    args, kwargs = normalize_example(example)
    taken: defaultdict[int, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in range(1 + RUNS):
            interpreter, slots = graph.start_steps("eval", args, kwargs)
            for step in interpreter.steps:
                started = time.perf_counter()
                run_step(step, slots)
                taken[step.index].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(taken[i][1:]) for name, i in interpreter.slots.items() if i in taken}


def predict_latency(network: nn.Module, spec: UnitSpec, example: Any) -> SizeCosts:
    """Return the milliseconds that the layers of a network take, as a function of the sizes of its axes.

    Parameters
    ----------
    network : torch.nn.Module
    spec : UnitSpec
        Of the network.
    example : Tensor, tuple or dict
        Inputs of the size that matters.
    """
    plan, times = spec.plans["eval"], time_nodes(network, spec, example)
    total: defaultdict[str, int] = defaultdict(int)
    for node, term in zip(plan.product_nodes, plan.products, strict=True):
        total[node] += term_size(term, spec.sizes)
    return SizeCosts(
        spec,
        [
            (times.get(node, 0.0) / max(total[node], 1), term)
            for node, term in zip(plan.product_nodes, plan.products, strict=True)
        ],
    )
