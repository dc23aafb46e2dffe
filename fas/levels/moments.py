"""Optimizer state between levels: momentum and first moments are duals, second moments squared duals (docs/fas.md).

Down they go as gradients do, up by the transpose of injection, so that what went up comes down unchanged. Step counts
stay themselves. Optimizers whose state is something else (Adamax' running maximum, say) begin anew on the other level.

A correction makes of fine moments what they would be, had the fine optimizer taken the coarse level's gradients, distributed::

    m <- b^k m + distribute(m_c - b^k restrict m)      after k coarse steps of an average m <- b m + (1 - b) g

which is what m_c - b^k restrict m is made of, and as distribute takes each number from one, its square does the same for v.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.vectors import Vector

DUAL = ("momentum_buffer", "exp_avg", "grad_avg")
SQUARED = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
COUNTS = ("step", "mu_product")
Moments = dict[str, dict[str, Any]]
Group = Mapping[str, Any]


def read_moments(smoother: Smoother) -> Moments:
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


def carry_moments_down(maps: Maps, level: int, fine: Smoother) -> Moments:
    """Return a fine optimizer's moments as the next coarser level's."""
    return _move_down(maps, level, _drop_unmovable(read_moments(fine)), _find_groups(fine))


def carry_moments_up(maps: Maps, level: int, moments: Moments) -> Moments:
    """Return coarse moments as the next finer level's."""
    return {key: _move_key_up(maps, level, key, vector) for key, vector in _drop_unmovable(moments).items()}


def correct_moments(maps: Maps, level: int, fine: Smoother, coarse: Smoother) -> None:
    """Give fine moments what the coarse level's steps added to its own, one family at a time, in place.

    Where nothing merged the coarse moments come back bit for bit.
    """
    own, theirs, groups = read_moments(fine), _drop_unmovable(read_moments(coarse)), _find_groups(fine)
    for name in coarse.named:
        after = {key: vector[name] for key, vector in theirs.items() if name in vector}
        if not after:
            continue
        family = maps.family(level, name)
        had = {key: {n: own[key][n] for n in family if n in own.get(key, {})} for key in after}
        if all(len(vector) == len(family) for vector in had.values()):
            _correct_family(maps, level, name, had, after, groups)
            new = {key: _move_key_up(maps, level, key, {name: after[key]}) for key in after if key in COUNTS}
        else:
            new = carry_moments_up(maps, level, {key: {name: value} for key, value in after.items()})
        for key, vector in new.items():
            for member, value in vector.items():
                fine.optimizer.state[fine.named[member]]["momentum_buffer" if key == "primal" else key] = value


def _correct_family(
    maps: Maps, level: int, name: str, had: Moments, after: Mapping[str, Any], groups: Mapping[str, Group]
) -> None:
    before, family = _move_down(maps, level, had, groups), maps.family(level, name)
    tensors = [key for key in after if key not in COUNTS]
    if len(family) == 1 and all(_has_same_bits(had[key][family[0]], before[key][name]) for key in tensors):
        for key in tensors:
            had[key][family[0]].copy_(after[key])
        return
    steps = float(after["step"] - had["step"][family[0]]) if "step" in after else 0.0  # SGD counts none
    for key in tensors:
        kept = _get_decay(key, groups[family[0]]) ** steps
        added = after[key] - kept * before[key][name]
        if key in SQUARED:
            added.clamp_min_(0)  # rounding
        for member, change in _move_key_up(maps, level, key, {name: added}).items():
            had[key][member].mul_(kept).add_(change)
    for member in family:
        _raise_second_moments(had, member, groups[member])


def _get_decay(key: str, group: Group) -> float:
    """Return what a step leaves of a state; 1 for sums and maxima, and where an optimizer calls it something else."""
    if key in ("exp_avg", "exp_avg_sq"):
        return float(group.get("betas", (1.0, 1.0))[key == "exp_avg_sq"])
    setting = {"square_avg": "alpha", "grad_avg": "alpha", "primal": "momentum"}.get(key, "")
    return float(group.get(setting, 1.0))


# For m <- b m + (1 - b) g and v <- B v + (1 - B) g^2 Cauchy and Schwarz say that |m| <= C sqrt(v) stays true once it is,
#     |m'| <= C b / sqrt(B) sqrt(B v) + (1 - b) / sqrt(1 - B) sqrt((1 - B) g^2) <= C sqrt(v'),
#     C^2 = C^2 b^2 / B + (1 - b)^2 / (1 - B),
# so that Adam takes no step longer than C lr, 7.3 lr at torch's betas. A corrected pair is one of these, and only rounding and
# betas that a schedule moves can break it; a sum of n fine m can by sqrt(n), v being added up as if they were independent.
def compute_ratio_bound(betas: tuple[float, float]) -> float:
    """Return the largest |m| / sqrt(v) of Adam's recursion; infinite where it has none."""
    first, second = map(float, betas)
    room = (1 - second) * (1 - first * first / second) if second else 0.0
    return (1 - first) / math.sqrt(room) if room > 0 else math.inf


def _raise_second_moments(moments: Moments, name: str, group: Group) -> None:
    """Raise second moments in place to what first moments ask for; RMSprop divides by the root of v - m^2, kept at m^2."""
    for first, second, bound in (
        ("exp_avg", "exp_avg_sq", compute_ratio_bound(group.get("betas", (0, 0)))),
        ("grad_avg", "square_avg", math.sqrt(0.5)),
        ("exp_avg_sq", "max_exp_avg_sq", None),
    ):
        if name in moments.get(first, {}) and name in moments.get(second, {}):
            m, v = moments[first][name], moments[second][name]
            torch.maximum(v, m if bound is None else (m / bound).square_(), out=v)


def _find_groups(smoother: Smoother) -> dict[str, Group]:
    """Return by a parameter's name what settings it has."""
    found = {p: group for group in smoother.optimizer.param_groups for p in group["params"]}
    return {name: found[p] for name, p in smoother.named.items() if p in found}


def _drop_unmovable(moments: Moments) -> Moments:
    """Return moments, or none where one can not be moved: no optimizer goes on from a part of its state."""
    return moments if moments.keys() <= {*DUAL, *SQUARED, *COUNTS, "primal"} else {}


def _move_down(maps: Maps, level: int, moments: Moments, groups: Mapping[str, Group]) -> Moments:
    """Return moments down, bounded where something merged: elsewhere they stay bit for bit."""
    down = {key: _move_key_down(maps, level, key, vector) for key, vector in moments.items()}
    for key in down.keys() & {"exp_avg_sq", "square_avg"}:
        for name, v in down[key].items():
            first, *others = maps.family(level, name)
            if others or v.shape != moments[key][first].shape:
                _raise_second_moments(down, name, groups[first])
    return down


def _move_key_down(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    if key in COUNTS:
        return _copy_counts({name: n for name, n in vector.items() if name in maps.family(level, name)[:1]})
    return maps.inject(level, vector) if key == "primal" else maps.restrict(level, vector, squared=key in SQUARED)


def _move_key_up(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    if key in COUNTS:
        return _copy_counts({member: n for name, n in vector.items() for member in maps.family(level, name)})
    return maps.prolong(level, vector) if key == "primal" else maps.distribute(level, vector, squared=key in SQUARED)


def _copy_counts(vector: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vector.items()}


def _has_same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
