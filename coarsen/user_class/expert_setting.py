"""How the experts of a network in its own class run, where the way of its config cannot run the new sizes.

Grouped products want rows whose length in bytes is a multiple of 16. A coarse network may have other widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from netgraph.utils.module_state import set_training_mode
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import normalize_example

WAYS = ("batched_mm", "eager")


def choose_runnable_experts(network: nn.Module, examples: list[Any]) -> nn.Module:
    """Return a network whose experts run on the examples. If the way of its config fails, another one of its library is set.

    Parameters
    ----------
    network : torch.nn.Module
        Of any class. One without ``set_experts_implementation`` stays as it is.
    examples : list of Tensor, tuple or dict
    """
    setter = getattr(network, "set_experts_implementation", None)
    if setter is None or _runs(network, examples[0]):
        return network
    before = getattr(network.config, "_experts_implementation", None)
    for way in WAYS:
        setter(way)
        if _runs(network, examples[0]):
            return network
    setter(before)
    return network


def _runs(network: nn.Module, example: Any) -> bool:
    """Return True if a network runs on an example."""
    args, kwargs = normalize_example(example)
    try:
        with torch.no_grad(), preserve_attributes(network):
            set_training_mode(network, training=False)
            network(*args, **kwargs)
    except RuntimeError:
        return False
    return True
