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
from netgraph.fas.vectors import Vector

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
    """Give an optimizer state in the place of what it has, the tensors themselves; parameters without any begin anew."""
    state: dict[str, dict[str, Any]] = {}
    for key, vector in moments.items():
        for name, value in vector.items():
            state.setdefault(name, {})["momentum_buffer" if key == "primal" else key] = value
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


def correct_moments(maps: Maps, level: int, fine: Smoother, coarse: Smoother) -> None:
    """Add to fine moments what the coarse level added, m + distribute(m_c - restrict m), one family at a time, in place.

    Squares never become negative, and where nothing merged the coarse moments come back bit for bit.
    """
    own = moments_of(fine)
    for key, vector in moments_of(coarse).items():
        if not _moves(key):
            continue
        for name, after in vector.items():
            had = {n: own.get(key, {}).get(n) for n in maps.family(level, name)}
            if key == COUNT or any(m is None for m in had.values()):
                for member, new in _up(maps, level, key, {name: after}).items():
                    fine.optimizer.state[fine.named[member]]["momentum_buffer" if key == "primal" else key] = new
            else:
                _correct(maps, level, key, name, had, after)


def _correct(maps: Maps, level: int, key: str, name: str, had: Mapping[str, Any], after: Tensor) -> None:
    before = _down(maps, level, key, had)[name]
    m = had[name]
    if len(had) == 1 and m.shape == before.shape and torch.equal(m, before):
        m.copy_(after)
        return
    for member, change in _up(maps, level, key, {name: after - before}).items():
        had[member].add_(change)
        if key in SQUARED:
            had[member].clamp_min_(0)


def _moves(key: str) -> bool:
    return key in DUAL or key in SQUARED or key in (COUNT, "primal")


def _down(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    if key == COUNT:
        return _counts({name: n for name, n in vector.items() if name in maps.family(level, name)[:1]})
    return maps.inject(level, vector) if key == "primal" else maps.restrict(level, vector, squared=key in SQUARED)


def _up(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    if key == COUNT:
        return _counts({member: n for name, n in vector.items() for member in maps.family(level, name)})
    return maps.prolong(level, vector) if key == "primal" else maps.distribute(level, vector, squared=key in SQUARED)


def _counts(vector: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vector.items()}
