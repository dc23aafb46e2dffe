"""Nested iteration: a level begins with the prolonged solution of the coarser one, its copies made to differ.

Exact copies never separate: they compute the same, get the same gradients and stay alike for ever. Noise on split
weights that adds to zero over each aggregate leaves the function as it was and lets them part::

    x = prolong(y) + noise · N + gamma (x0 - prolong(inject x0)),     N P_in = 0

Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, section 3; Brandt, Math. Comp. 31, 1977, section 6 (full multigrid).
"""

from __future__ import annotations

import torch

from netgraph.fas.grid import Grid
from netgraph.fas.maps import Maps
from netgraph.fas.options import Split
from netgraph.fas.vectors import Vector, assign, copied, minus


def start_level(maps: Maps, level: int, fine: Grid, coarse: Grid, split: Split, seed: int) -> None:
    """Write a level's first x from the coarser one's solution.

    Parameters
    ----------
    maps : Maps
    level : int
        The level that begins.
    fine, coarse : Grid
    split : Split
    seed : int
        Of the noise.
    """
    x = maps.prolong(level, coarse.x)
    if split.gamma:
        x = _plus(x, _detail(maps, level, fine), split.gamma)
    if split.kind != "none" and split.noise:
        floating = {n: t for n, t in x.items() if n in fine.smoother.named}
        noise = _noise(floating, seed + level)
        x = _plus(x, maps.zero_sum(level, noise) if split.kind == "zero-sum" else noise, split.noise)
    assign(fine.x, x)
    fine.settle()


def _detail(maps: Maps, level: int, fine: Grid) -> Vector:
    """Return x0 - prolong(inject x0): what the coarse level cannot hold."""
    x0 = copied({n: t for n, t in fine.x.items() if t.is_floating_point()})
    return minus(x0, maps.prolong(level, maps.inject(level, x0)))


def _noise(x: Vector, seed: int) -> Vector:
    """Return normal noise as large as each tensor's root mean square."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, tensor in x.items():
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
        out[name] = drawn * tensor.square().mean().sqrt()
    return out


def _plus(x: Vector, part: Vector, share: float) -> Vector:
    return {name: t + share * part[name] if name in part else t for name, t in x.items()}
