"""Nested iteration: a level begins with the prolonged solution of the coarser one, plus noise that makes copies differ.

How new blocks and units begin is in `netgraph.fas.levels.growth`.

Exact copies never separate, because they compute the same and get the same gradients. Noise on split weights that adds up to
zero over each aggregate leaves the function unchanged and lets the copies separate::

    x = prolong(y) + noise · N + gamma (x0 - prolong(inject x0)),     N P_in = 0

Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016, section 3. Brandt, Math. Comp. 31, 1977, section 6 (full multigrid).
"""

from __future__ import annotations

import torch
from torch import Tensor

from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.growth import Growth
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.vectors import Vector, as_real, assign, has_directions, subtract_vectors
from netgraph.fas.options.groups import Split


def start_level(maps: Maps, level: int, fine: Grid, coarse: Grid, split: Split, seed: int) -> None:
    """Write the first x of a level from the solution of the coarser one.

    Parameters
    ----------
    maps : Maps
    level : int
        The level that begins.
    fine, coarse : Grid
    split : Split
    seed : int
        Seed of the noise, to which the level is added.
    """
    generator, growth = torch.Generator().manual_seed(seed + level), Growth(maps, level, split)
    for (
        name,
        y,
    ) in coarse.x.items():  # one family at a time, because a second x would need as much memory as the network
        family = maps.family(level, name)
        prolonged, detail = growth.grow({name: y}), dict[str, Tensor]()
        if split.gamma and has_directions(y):
            detail = _compute_detail(maps, level, {member: fine.x[member] for member in family})
        noise: Vector = {}
        if split.kind in ("zero-sum", "everything") and split.noise:
            noise = {n: _draw_noise(prolonged.get(n, fine.x[n]), generator) for n in family if n in fine.smoother.named}
            noise = maps.zero_sum(level, noise) if split.kind == "zero-sum" and noise else noise
        for member, x in prolonged.items():
            if member in detail:
                x = x + split.gamma * detail[member]
            if member in noise:
                x = x + split.noise * noise[member]
            assign(fine.x, {member: x})
    for name in growth.list_zeros():
        assign(fine.x, {name: torch.zeros_like(fine.x[name])})
    fine.reset()


def _compute_detail(maps: Maps, level: int, x0: Vector) -> Vector:
    """Return x0 - prolong(inject x0), the part of x0 that the coarse level cannot represent."""
    return subtract_vectors(x0, maps.prolong(level, maps.inject(level, x0)))


def _draw_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal noise of the size of a tensor's root mean square."""
    pairs = as_real(x)
    noise = torch.randn(pairs.shape, generator=generator, dtype=torch.float32).to(pairs) * pairs.square().mean().sqrt()
    return torch.view_as_complex(noise) if x.is_complex() else noise
