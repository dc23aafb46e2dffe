"""Warm-up of a level that a coarser one has started, of its rate or of the updates of new units and blocks alone::

    smoothing.rewarm    x <- x + (i / N) u                          u is the update of step i = 1 .. N, at the rate of the schedule
    split.rewarm        x <- x + u            where x is old
                        x <- x + (i / N) u    where x belongs to a new unit or block

The update is scaled after the step of the optimizer, whose moments stay its own. For optimizers whose update is proportional to
their rate, such as SGD and AdamW with its decay, each entry then has a rate of its own.

Asymmetric warm-up: "SPARKLING", arXiv:2602.02472, 2026.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.levels.grid import Grid
from netgraph.fas.options.all_options import Options


@contextlib.contextmanager
def scale_new_updates(grid: Grid, factor: float) -> Iterator[None]:
    """Scale what a step inside the block changes at the entries of new units and blocks.

    Parameters
    ----------
    grid : Grid
        Its masks are dropped once the factor is 1.
    factor : float
        Share of the update that new entries take.
    """
    if factor >= 1:
        grid.new = {}
    named = grid.smoother.named
    before = {name: named[name].detach().clone() for name in grid.new}
    yield
    with torch.no_grad():
        for name, old in before.items():
            x = named[name]
            x.copy_(torch.where(grid.new[name], old + factor * (x - old), x))
    if before:
        grid.smoother.forget_last_step()


def check_rewarm(options: Options, cycle: str, n_levels: int) -> None:
    """Refuse a warm-up in a cycle in which no level starts from a coarser one.

    Parameters
    ----------
    options : Options
    cycle : str
    n_levels : int

    Raises
    ------
    NetgraphError
    """
    rewarmed = any(options.smoothing_of(level).rewarm for level in range(n_levels))
    asked = [name for name, is_set in (("smoothing", rewarmed), ("split", options.split.rewarm > 0)) if is_set]
    if asked:
        raise NetgraphError(
            f"{asked[0]}.rewarm warms up a level that a coarser one has started, and the cycle {cycle} starts none. Leave it out, or "
            "take kaskade or full."
        )
