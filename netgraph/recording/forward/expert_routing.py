"""Mixtures of experts are recorded as batched products of all tokens with their experts, whatever the network's setting is.

Libraries run experts in several ways that answer the same. A loop over the experts that some token chose branches on numbers,
and would lose an expert that is idle on the example. Grouped products sort the tokens by their experts, and write the number
of experts for each token into the code as a plain number. Batched products look up one matrix for each token and expert. Only
these say, operator by operator, how experts are chosen, hold for every input, and run in double precision too.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from netgraph.recording.operators.lookups import plain_lookups

REGISTRY, TABLE = "transformers.integrations.moe", "ALL_EXPERTS_FUNCTIONS"
BATCHED = "batched_mm"
EQUIVALENT = (None, "eager", "grouped_mm")  # settings that answer what batched products answer


@contextlib.contextmanager
def batch_experts(model: nn.Module) -> Iterator[None]:
    """Set the experts of a network to batched products in a block, where its library has that setting, and restore it.

    A coarse network of ours runs look-ups and products one after the other in the block.

    Parameters
    ----------
    model : torch.nn.Module
        A network of any class. What counts is a config with ``experts_implementation`` on some module. A setting of one's own
        stays.
    """
    changed = [(values, key, values[key]) for values, key in _find_settings(model) if values[key] in EQUIVALENT]
    for values, key, _ in changed:
        values[key] = BATCHED
    try:
        with plain_lookups():
            yield
    finally:
        for values, key, value in changed:
            values[key] = value


def _find_settings(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Return the attributes of configs that say how experts run: the dict and the key, each once."""
    if BATCHED not in getattr(sys.modules.get(REGISTRY), TABLE, ()):
        return []
    configs = {
        id(config): vars(config)
        for module in model.modules()
        if hasattr(config := vars(module).get("config"), "__dict__")
    }
    keys = ("_experts_implementation_internal", "_experts_implementation")
    return [(values, key) for values in configs.values() for key in keys if key in values]
