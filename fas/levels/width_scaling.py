"""Rates that follow the width: maximal update parametrisation between levels of one network.

Yang et al., "Tensor programs V: tuning large neural networks via zero-shot hyperparameter transfer", arXiv:2203.03466, table
8: relative to the finest level an Adam rate goes with 1 / fan_in, and one of SGD with fan_out / fan_in.
"""

from __future__ import annotations

from typing import Any

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import Maps, live_state

ADAMS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)


def compute_rate_factors(maps: Maps, level: int, make: Any) -> dict[str, float]:
    """Return the factor of each parameter's rate on a level.

    Raises
    ------
    NetgraphError
        The rule is not known for the optimizer.
    """
    kind = getattr(make, "func", make)
    adam = isinstance(kind, type) and issubclass(kind, ADAMS)
    if not adam and kind is not torch.optim.SGD:
        raise NetgraphError(
            f"no width rule is known for {getattr(kind, '__name__', kind)}; take SGD, an Adam, or mup off"
        )
    fine, here = live_state(maps.models[0]), live_state(maps.models[level])
    return {name: _compute_rate_factor(fine[name].shape, here[name].shape, adam) for name in fine if name in here}


def _compute_rate_factor(fine: torch.Size, here: torch.Size, adam: bool) -> float:
    """Vectors have no fan_in: theirs is one on every level."""
    if len(fine) < 2:
        return 1.0 if adam else here.numel() / max(fine.numel(), 1)
    fan_in = fine[1:].numel() / max(here[1:].numel(), 1)
    return fan_in if adam else fan_in * here[0] / max(fine[0], 1)
