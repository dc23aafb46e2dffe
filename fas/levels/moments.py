"""Optimizer state between levels: momentum and first moments are duals, second moments are squared duals (docs/fas.md).

State goes down as gradients do, and up by the transpose of injection. State that went up therefore comes down unchanged. Step
counts are copied. An optimizer with another kind of state, such as the running maximum of Adamax, begins without state on the
other level.

After a correction the fine moments become those that the fine optimizer would have, had it taken the distributed gradients of
the coarse level::

    m <- b^k m + distribute(m_c - b^k restrict m)      after k coarse steps of an average m <- b m + (1 - b) g

m_c - b^k restrict m is what the coarse steps added. distribute takes each number from a single one, hence the same formula
with squared maps holds for v.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netgraph.fas.levels.maps import Maps, UpwardMaps
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.vectors import Vector
from netgraph.optim.muon import MATRICES

DUAL = ("momentum_buffer", "exp_avg", "grad_avg")
SQUARED = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
COUNTS = ("step", "mu_product")
Moments = dict[str, dict[str, Any]]
Group = Mapping[str, Any]


def read_moments(smoother: Smoother) -> Moments:
    """Return the live state of an optimizer as one vector for each kind of state."""
    moments: Moments = {}
    for name, parameter in smoother.named.items():
        for key, value in smoother.optimizer.state.get(parameter, {}).items():
            if value is not None:
                moments.setdefault(key, {})[name] = value
    if "square_avg" in moments and "momentum_buffer" in moments:
        moments["primal"] = moments.pop("momentum_buffer")  # RMSprop adds up steps, which are no duals
    return moments


def set_moments(smoother: Smoother, moments: Moments) -> None:
    """Replace the state of an optimizer by these tensors. Parameters without moments begin without state."""
    state: dict[str, dict[str, Any]] = {}
    for key, vector in moments.items():
        for name, value in vector.items():
            state.setdefault(name, {})["momentum_buffer" if key == "primal" else key] = value
    smoother.optimizer.state.clear()
    for name, parameter in smoother.named.items():
        if name in state:
            smoother.optimizer.state[parameter] = state[name]


def carry_moments_down(maps: Maps, level: int, fine: Smoother) -> Moments:
    """Return the moments of a fine optimizer, carried to the next coarser level."""
    return _move_down(maps, level, _drop_unmovable(read_moments(fine)), _find_groups(fine))


def carry_moments_up(maps: UpwardMaps, level: int, moments: Moments) -> Moments:
    """Return coarse moments, carried to the next finer level."""
    return {key: _move_key_up(maps, level, key, vector) for key, vector in _drop_unmovable(moments).items()}


def correct_moments(maps: Maps, level: int, fine: Smoother, coarse: Smoother) -> None:
    """Add the changes of the coarse moments in coarse steps to the fine ones, one family at a time and in place.

    Parameters in which nothing merged take over the coarse moments bit for bit.
    """
    fine_moments, coarse_moments = read_moments(fine), _drop_unmovable(read_moments(coarse))
    groups = _find_groups(fine)
    for name in coarse.named:
        after = {key: vector[name] for key, vector in coarse_moments.items() if name in vector}
        if not after:
            continue
        family = maps.family(level, name)
        before = {key: {n: fine_moments[key][n] for n in family if n in fine_moments.get(key, {})} for key in after}
        if all(len(vector) == len(family) for vector in before.values()):
            _correct_family(maps, level, name, before, after, groups)
            new = {key: _move_key_up(maps, level, key, {name: after[key]}) for key in after if key in COUNTS}
        else:
            new = carry_moments_up(maps, level, {key: {name: value} for key, value in after.items()})
        for key, vector in new.items():
            for member, value in vector.items():
                fine.optimizer.state[fine.named[member]]["momentum_buffer" if key == "primal" else key] = value


# m <- b^k m + distribute(m_c - b^k restrict m), and for v the same with B^k and squared maps
def _correct_family(
    maps: Maps, level: int, name: str, fine: Moments, after: Mapping[str, Any], groups: Mapping[str, Group]
) -> None:
    """Correct the fine moments of one family in place, given the moments of its coarse parameter after k steps."""
    before, family = _move_down(maps, level, fine, groups), maps.family(level, name)
    tensors = [key for key in after if key not in COUNTS]
    if len(family) == 1 and all(_has_same_bits(fine[key][family[0]], before[key][name]) for key in tensors):
        for key in tensors:
            fine[key][family[0]].copy_(after[key])
        return
    steps = float(after["step"] - fine["step"][family[0]]) if "step" in after else 0.0  # SGD counts none
    for key in tensors:
        decay = _get_decay(key, groups[family[0]]) ** steps
        added = after[key] - decay * before[key][name]
        if key in SQUARED:
            added.clamp_min_(0)  # rounding can make it negative
        for member, change in _move_key_up(maps, level, key, {name: added}).items():
            fine[key][member].mul_(decay).add_(change)
    for member in family:
        _raise_second_moments(fine, member, groups[member])


def _get_decay(key: str, group: Group) -> float:
    """Return the factor by which one step scales a kind of state.

    It is 1 for sums and maxima, and for an optimizer that does not have the usual setting.
    """
    if key == "momentum_buffer" and group.get(MATRICES):
        return float(group["momentum"])  # Muon averages, and SGD adds up
    if key in ("exp_avg", "exp_avg_sq"):
        return float(group.get("betas", (1.0, 1.0))[key == "exp_avg_sq"])
    setting = {"square_avg": "alpha", "grad_avg": "alpha", "primal": "momentum"}.get(key, "")
    return float(group.get(setting, 1.0))


# Adam takes no step longer than C lr, 7.3 lr at torch's betas, because |m| <= C sqrt(v) stays true for its averages
# m <- b m + (1 - b) g and v <- B v + (1 - B) g^2. By Cauchy and Schwarz
#     |m'| <= C b / sqrt(B) sqrt(B v) + (1 - b) / sqrt(1 - B) sqrt((1 - B) g^2) <= C sqrt(v'),
#     C^2 = C^2 b^2 / B + (1 - b)^2 / (1 - B).
# A corrected pair m, v is such a pair of averages. Only rounding, and betas that a schedule changes, can break the bound
# there. On the way down it breaks by up to sqrt(n), because n first moments are added up as they are and n second moments as
# if they were independent. `_raise_second_moments` restores it.
def compute_ratio_bound(betas: tuple[float, float]) -> float:
    """Return C, the largest |m| / sqrt(v) of Adam's averages, or infinity if there is no bound."""
    b, B = map(float, betas)
    squared = (1 - B) * (1 - b * b / B) if B else 0.0
    return (1 - b) / math.sqrt(squared) if squared > 0 else math.inf


def _raise_second_moments(moments: Moments, name: str, group: Group) -> None:
    """Raise v in place to (m / C)^2 if it is below.

    Centered RMSprop divides by the root of v - m^2. With C^2 = 1/2 that difference is at least m^2.
    """
    for first, second, bound in (
        ("exp_avg", "exp_avg_sq", compute_ratio_bound(group.get("betas", (0, 0)))),
        ("grad_avg", "square_avg", math.sqrt(0.5)),
        ("exp_avg_sq", "max_exp_avg_sq", None),
    ):
        if name in moments.get(first, {}) and name in moments.get(second, {}):
            m, v = moments[first][name], moments[second][name]
            torch.maximum(v, m if bound is None else (m / bound).square_(), out=v)


def _find_groups(smoother: Smoother) -> dict[str, Group]:
    """Return the parameter group of each parameter by name."""
    group_of = {p: group for group in smoother.optimizer.param_groups for p in group["params"]}
    return {name: group_of[p] for name, p in smoother.named.items() if p in group_of}


def _drop_unmovable(moments: Moments) -> Moments:
    """Return the moments, or none if one kind cannot be carried: an optimizer cannot go on from a part of its state."""
    return moments if moments.keys() <= {*DUAL, *SQUARED, *COUNTS, "primal"} else {}


def _move_down(maps: Maps, level: int, moments: Moments, groups: Mapping[str, Group]) -> Moments:
    """Return the moments carried down. Those of merged parameters are bounded, the others keep their bits."""
    down = {key: _move_key_down(maps, level, key, vector) for key, vector in moments.items()}
    for key in down.keys() & {"exp_avg_sq", "square_avg"}:
        for name, v in down[key].items():
            first, *others = maps.family(level, name)
            if others or v.shape != moments[key][first].shape:
                _raise_second_moments(down, name, groups[first])
    return down


def _move_key_down(maps: Maps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    """Return one kind of state, carried down."""
    if key in COUNTS:
        return _copy_counts({name: n for name, n in vector.items() if name in maps.family(level, name)[:1]})
    return maps.inject(level, vector) if key == "primal" else maps.restrict(level, vector, squared=key in SQUARED)


def _move_key_up(maps: UpwardMaps, level: int, key: str, vector: Mapping[str, Any]) -> Vector:
    """Return one kind of state, carried up."""
    if key in COUNTS:
        return _copy_counts({member: n for name, n in vector.items() for member in maps.family(level, name)})
    return maps.prolong(level, vector) if key == "primal" else maps.distribute(level, vector, squared=key in SQUARED)


def _copy_counts(vector: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of step counts, which are numbers or tensors."""
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vector.items()}


def _has_same_bits(a: Tensor, b: Tensor) -> bool:
    """Return True if two tensors are equal in shape and bits."""
    return a.shape == b.shape and torch.equal(a, b)
