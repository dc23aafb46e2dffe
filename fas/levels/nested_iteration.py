"""Nested iteration: a level begins with the prolonged solution of the coarser one, its copies made to differ.

Exact copies never separate: they compute the same, get the same gradients and stay alike for ever. Noise on split
weights that adds to zero over each aggregate leaves the function as it was and lets them part::

    x = prolong(y) + noise · N + gamma (x0 - prolong(inject x0)),     N P_in = 0

Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, section 3; Brandt, Math. Comp. 31, 1977, section 6 (full multigrid).
"""

from __future__ import annotations

import torch
from torch import Tensor

from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.vectors import Vector, assign, subtract_vectors
from netgraph.fas.options import Split


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
    generator = torch.Generator().manual_seed(seed + level)
    for name, y in coarse.x.items():  # one family at a time: a second x would be as large as the network
        family = maps.family(level, name)
        prolonged, detail = maps.prolong(level, {name: y}), dict[str, Tensor]()
        if split.gamma and y.is_floating_point():
            detail = _compute_detail(maps, level, {member: fine.x[member] for member in family})
        noise: Vector = {}
        if split.kind != "none" and split.noise:
            noise = {n: _draw_noise(prolonged[n], generator) for n in family if n in fine.smoother.named}
            noise = maps.zero_sum(level, noise) if split.kind == "zero-sum" and noise else noise
        for member, x in prolonged.items():
            if member in detail:
                x = x + split.gamma * detail[member]
            if member in noise:
                x = x + split.noise * noise[member]
            assign(fine.x, {member: x})
    fine.settle()


def _compute_detail(maps: Maps, level: int, x0: Vector) -> Vector:
    """Return x0 - prolong(inject x0): what the coarse level cannot hold."""
    return subtract_vectors(x0, maps.prolong(level, maps.inject(level, x0)))


def _draw_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal noise as large as a tensor's root mean square."""
    drawn = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
    return drawn * x.square().mean().sqrt()
