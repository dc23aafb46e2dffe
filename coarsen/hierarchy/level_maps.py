"""Moves: the maps between two levels, one direction of coarsening after the other.

A level may be shorter, of lower resolution and narrower than the one above. Each direction is one move with the same five
verbs, and the maps of a level are those of its moves in turn: down from first to last, up from last to first. Resolution
moves nothing, for a kernel has the same numbers at every resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from netgraph.coarsen.directions.depth import DepthMap
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.transfer import parameter_maps as weights
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.tracing.unit_spec import UnitSpec

State = Mapping[str, Tensor]


class DirectionMap(Protocol):
    """The maps of one direction; see `netgraph.coarsen.transfer.parameter_maps` for what each does."""

    def inject(self, state: State) -> dict[str, Tensor]: ...

    def prolong(self, state: State) -> dict[str, Tensor]: ...

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]: ...

    def distribute(self, state: State, *, squared: bool = False) -> dict[str, Tensor]: ...

    def zero_sum(self, state: State) -> dict[str, Tensor]: ...

    def family(self, name: str) -> tuple[str, ...]: ...


class ChannelMap:
    """The maps between a network and the one with merged units (docs/transfers.md).

    Parameters
    ----------
    spec : UnitSpec
        With the fine numbers of units.
    transfers : dict of str to Transfer
    """

    def __init__(self, spec: UnitSpec, transfers: Mapping[str, Transfer]) -> None:
        self.spec, self.transfers = spec, transfers

    def inject(self, state: State) -> dict[str, Tensor]:
        """Return W_c = R_out W P_in."""
        return weights.inject(self.spec, self.transfers, state)

    def prolong(self, state: State) -> dict[str, Tensor]:
        """Return E = P_out E_c R_in."""
        return weights.prolong(self.spec, self.transfers, state)

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Return G_c = P_out' G R_in'."""
        return weights.restrict(self.spec, self.transfers, state, squared=squared)

    def distribute(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Return G = R_out' G_c P_in'."""
        return weights.distribute(self.spec, self.transfers, state, squared=squared)

    def zero_sum(self, state: State) -> dict[str, Tensor]:
        """Return N with N P_in = 0."""
        return weights.zero_sum_part(self.spec, self.transfers, state)

    def family(self, name: str) -> tuple[str, ...]:
        """Return the parameter itself: names stay."""
        return (name,)


class LevelMaps:
    """Several moves as one.

    Parameters
    ----------
    moves : sequence of Move
        From the finer level to the coarser one.
    """

    def __init__(self, moves: Sequence[DirectionMap]) -> None:
        self.moves = tuple(moves)

    def inject(self, state: State) -> dict[str, Tensor]:
        """Take parameters down."""
        return _apply_maps([move.inject for move in self.moves], state)

    def prolong(self, state: State) -> dict[str, Tensor]:
        """Take corrections up."""
        return _apply_maps([move.prolong for move in reversed(self.moves)], state)

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Take gradients down: the transpose of `prolong`."""
        return _apply_maps([partial(move.restrict, squared=squared) for move in self.moves], state)

    def distribute(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Take gradient-like state up: the transpose of `inject`."""
        return _apply_maps([partial(move.distribute, squared=squared) for move in reversed(self.moves)], state)

    def zero_sum(self, state: State) -> dict[str, Tensor]:
        """Return what a prolonged network does not feel: each move's own part, prolonged by those above it."""
        first, rest = self.moves[0], self.moves[1:]
        own = first.zero_sum(state)
        if not rest:
            return own
        below = first.prolong(LevelMaps(rest).zero_sum(first.inject(state)))
        return {name: torch.add(own[name], below[name]) for name in own}

    def family(self, name: str) -> tuple[str, ...]:
        """Return the fine parameters that a coarse one stands for."""
        names: tuple[str, ...] = (name,)
        for move in reversed(self.moves):
            names = tuple(fine for coarse in names for fine in move.family(coarse))
        return names


def _apply_maps(maps: Sequence[Callable[[State], dict[str, Tensor]]], state: State) -> dict[str, Tensor]:
    for move in maps:
        state = move(state)
    return dict(state)


def build_level_maps(level: Level) -> LevelMaps:
    """Return the moves that lead to a level from the one above."""
    before = level.spec.with_sizes({axis: t.n_fine for axis, t in level.transfers.items()})
    narrower = ChannelMap(before, level.transfers)
    return LevelMaps([DepthMap(level.chains), narrower] if level.chains else [narrower])
