"""Learning rates that follow the width: maximal update parametrisation (muP) between the levels of one network.

Relative to the finest level, a rate of Adam scales with 1 / fan_in and a rate of SGD with fan_out / fan_in. Yang et al.,
"Tensor programs V: tuning large neural networks via zero-shot hyperparameter transfer", arXiv:2203.03466, table 8.
"""

from __future__ import annotations

from typing import Any

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import Maps, live_state

ADAMS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)


def compute_rate_factors(maps: Maps, level: int, make_optimizer: Any) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter of a level.

    Raises
    ------
    NetgraphError
        No rule is known for the optimizer.
    """
    kind = getattr(make_optimizer, "func", make_optimizer)
    adam = isinstance(kind, type) and issubclass(kind, ADAMS)
    if not adam and kind is not torch.optim.SGD:
        raise NetgraphError(
            f"smoothing.mup has no rule for {getattr(kind, '__name__', kind)}. Take SGD or an Adam, or set smoothing.mup to "
            "false."
        )
    fine, coarse = live_state(maps.models[0]), live_state(maps.models[level])
    return {n: _compute_rate_factor(fine[n].shape, coarse[n].shape, adam) for n in fine if n in coarse}


def _compute_rate_factor(fine: torch.Size, coarse: torch.Size, adam: bool) -> float:
    """Return the factor of one parameter. The fan_in of a vector counts as one on every level."""
    if len(fine) < 2:
        return 1.0 if adam else coarse.numel() / max(fine.numel(), 1)
    fan_in = fine[1:].numel() / max(coarse[1:].numel(), 1)
    return fan_in if adam else fan_in * coarse[0] / max(fine[0], 1)
