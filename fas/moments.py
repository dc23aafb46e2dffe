"""Optimizer state between levels: momentum and first moments are duals, second moments squared duals (docs/fas.md).

Down they go as gradients do, up by the transpose of injection, so that what went up comes down unchanged. Step counts
stay themselves. A state that is neither (Adamax' running maximum, say) begins anew on the other level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netgraph.fas.maps import Maps
from netgraph.fas.smoother import Smoother
from netgraph.fas.vectors import Vector, minus

DUAL = ("momentum_buffer", "exp_avg", "grad_avg")
SQUARED = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
COUNT = "step"

Moments = dict[str, dict[str, Any]]


def moments_of(smoother: Smoother) -> Moments:
    """Return an optimizer's state as one vector for each kind, live."""
    found: Moments = {}
    for name, parameter in smoother.named.items():
        for key, value in smoother.optimizer.state.get(parameter, {}).items():
            if value is not None:
                found.setdefault(key, {})[name] = value
    if "square_avg" in found and "momentum_buffer" in found:  # RMSprop's is a sum of steps, not of gradients
        found["primal"] = found.pop("momentum_buffer")
    return found


def set_moments(smoother: Smoother, moments: Moments) -> None:
    """Write state into an optimizer, in the place of what it has; parameters without any begin anew."""
    state: dict[str, dict[str, Any]] = {}
    for key, vector in moments.items():
        for name, value in vector.items():
            own = value.detach().clone() if isinstance(value, Tensor) else value
            state.setdefault(name, {})["momentum_buffer" if key == "primal" else key] = own
    smoother.optimizer.state.clear()
    for name, parameter in smoother.named.items():
        if name in state:
            smoother.optimizer.state[parameter] = state[name]


def moments_down(maps: Maps, level: int, moments: Moments) -> Moments:
    """Return fine moments as the next coarser level's."""
    return {key: _down(maps, level, key, vector) for key, vector in moments.items() if _moves(key)}


def moments_up(maps: Maps, level: int, moments: Moments) -> Moments:
    """Return coarse moments as the next finer level's."""
    return {key: _up(maps, level, key, vector) for key, vector in moments.items() if _moves(key)}


def moments_corrected(maps: Maps, level: int, fine: Moments, before: Moments, after: Moments) -> Moments:
    """Return fine moments plus what the coarse level added, m + distribute(m_c - restrict m).

    Squares never become negative, and where nothing merged the coarse moments come back bit for bit.
    """
    out = dict(fine)
    for key, vector in after.items():
        if not _moves(key):
            continue
        own, given = fine.get(key, {}), before.get(key, {})
        if key == COUNT or not own or not given:
            out[key] = _up(maps, level, key, vector)
            continue
        change = _up(maps, level, key, minus(vector, given))
        out[key] = {name: _corrected(own[name], given[name], vector[name], c) for name, c in change.items()}
        if key in SQUARED:
            out[key] = {name: value.clamp_min(0) for name, value in out[key].items()}
    return out


def _corrected(fine: Tensor, before: Tensor, after: Tensor, change: Tensor) -> Tensor:
    return after if fine.shape == before.shape and torch.equal(fine, before) else fine + change


def _moves(key: str) -> bool:
    return key in DUAL or key in SQUARED or key in (COUNT, "primal")


def _down(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    if key == COUNT:
        return _counts(vector)
    return maps.inject(level, vector) if key == "primal" else maps.restrict(level, vector, squared=key in SQUARED)


def _up(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    if key == COUNT:
        return _counts(vector)
    return maps.prolong(level, vector) if key == "primal" else maps.distribute(level, vector, squared=key in SQUARED)


def _counts(vector: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vector.items()}
