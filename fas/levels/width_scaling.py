"""Learning rates that follow the width: maximal update parametrisation (muP) between the levels of one network.

Relative to the finest level, a rate of Adam scales with 1 / fan_in and a rate of SGD with fan_out / fan_in. Yang et al.,
"Tensor programs V: tuning large neural networks via zero-shot hyperparameter transfer", arXiv:2203.03466, table 8. The
fan_in is the number of units that a layer sums over. The rows of an embedding are looked up, so its rate of Adam stays.

A step of Muon is an orthogonal matrix of root mean square 0.2. Its norm is proportional to sqrt(max(fan_in, fan_out)), where
it should be to sqrt(fan_out / fan_in): Yang, Simon, Bernstein, "A spectral condition for feature learning", arXiv:2310.17813.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import HierarchyMaps, Maps, find_matrices, live_state
from netgraph.optim.optimizers import takes_matrices

ADAMS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)
Fans = tuple[int, int]  # entries that a layer sums over, and entries that it computes


def compute_rate_factors(maps: Maps, level: int, make_optimizer: Any) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter of a level.

    Raises
    ------
    NetgraphError
        No rule is known for the optimizer.
    """
    kind = getattr(make_optimizer, "func", make_optimizer)
    muon = takes_matrices(make_optimizer)
    adam = muon or (isinstance(kind, type) and issubclass(kind, ADAMS))
    if not adam and kind is not torch.optim.SGD:
        raise NetgraphError(
            f"smoothing.mup has no rule for {getattr(kind, '__name__', kind)}. Take SGD, an Adam or muon, or set smoothing.mup to "
            "false."
        )
    matrices = set(find_matrices(maps)) if muon else set()
    fine, coarse = live_state(maps.models[0]), live_state(maps.models[level])
    factors = {}
    for name in (name for name in fine if name in coarse):
        fans = [_count_fans(maps, name, state[name].shape) for state in (fine, coarse)]
        factors[name] = _scale_muon(*fans) if name in matrices else _scale_adam(*fans) if adam else _scale_sgd(*fans)
    return factors


def _count_fans(maps: Maps, name: str, shape: Sequence[int]) -> Fans:
    """Return fan_in and fan_out. Without a spec, a layer sums over all dimensions but the first."""
    if isinstance(maps, HierarchyMaps):
        sums = maps.hierarchy.levels[0].spec.sums
        summed = [bool(sums.get((name, dim))) for dim in range(len(shape))]
    else:
        summed = [dim > 0 for dim in range(len(shape))]
    fan_in = math.prod(n for n, is_summed in zip(shape, summed, strict=True) if is_summed)
    return fan_in, math.prod(shape) // max(fan_in, 1)


def _scale_adam(fine: Fans, coarse: Fans) -> float:
    return fine[0] / max(coarse[0], 1)


def _scale_sgd(fine: Fans, coarse: Fans) -> float:
    return _scale_adam(fine, coarse) * coarse[1] / max(fine[1], 1)


def _scale_muon(fine: Fans, coarse: Fans) -> float:
    return _wanted_over_taken(coarse) / _wanted_over_taken(fine)


def _wanted_over_taken(fans: Fans) -> float:
    """Return the norm that a step should have over the norm that it has, up to a constant."""
    return math.sqrt(fans[1] / fans[0] / max(fans))
