"""The maps between two levels, one direction of coarsening after the other.

A level may be shorter, of lower resolution and narrower than the one above. Each direction has a map with the same five methods.
The maps of a level apply them in turn: down from first to last, and up from last to first. Resolution needs no map, because a
kernel has the same numbers at every resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from netgraph.coarsen.directions.depth import DepthMap
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.transfer import parameter_maps
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.tracing.unit_spec import UnitSpec

State = Mapping[str, Tensor]


class DirectionMap(Protocol):
    """The maps of one direction. `netgraph.coarsen.transfer.parameter_maps` explains each method."""

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
        return parameter_maps.inject(self.spec, self.transfers, state)

    def prolong(self, state: State) -> dict[str, Tensor]:
        """Return E = P_out E_c R_in."""
        return parameter_maps.prolong(self.spec, self.transfers, state)

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Return G_c = P_out' G R_in'."""
        return parameter_maps.restrict(self.spec, self.transfers, state, squared=squared)

    def distribute(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Return G = R_out' G_c P_in'."""
        return parameter_maps.distribute(self.spec, self.transfers, state, squared=squared)

    def zero_sum(self, state: State) -> dict[str, Tensor]:
        """Return N with N P_in = 0."""
        return parameter_maps.zero_sum_part(self.spec, self.transfers, state)

    def family(self, name: str) -> tuple[str, ...]:
        """Return the parameter itself, because names stay."""
        return (name,)


class LevelMaps:
    """Several maps applied in turn.

    Parameters
    ----------
    maps : sequence of DirectionMap
        From the finer level to the coarser one.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import LevelMaps
    >>> LevelMaps([]).inject({"weight": torch.ones(2)})
    {'weight': tensor([1., 1.])}
    """

    def __init__(self, maps: Sequence[DirectionMap]) -> None:
        self.maps = tuple(maps)

    def inject(self, state: State) -> dict[str, Tensor]:
        """Take parameters down."""
        return _apply_maps([direction.inject for direction in self.maps], state)

    def prolong(self, state: State) -> dict[str, Tensor]:
        """Take corrections up."""
        return _apply_maps([direction.prolong for direction in reversed(self.maps)], state)

    def restrict(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Take gradients down: the transpose of `prolong`."""
        return _apply_maps([partial(direction.restrict, squared=squared) for direction in self.maps], state)

    def distribute(self, state: State, *, squared: bool = False) -> dict[str, Tensor]:
        """Take gradient-like state up: the transpose of `inject`."""
        return _apply_maps([partial(direction.distribute, squared=squared) for direction in reversed(self.maps)], state)

    def zero_sum(self, state: State) -> dict[str, Tensor]:
        """Return a part of the fine vector that no coarse network sees: that of each map, prolonged by the maps above it."""
        first, coarser_maps = self.maps[0], self.maps[1:]
        first_part = first.zero_sum(state)
        if not coarser_maps:
            return first_part
        coarser_part = first.prolong(LevelMaps(coarser_maps).zero_sum(first.inject(state)))
        return {name: torch.add(first_part[name], coarser_part[name]) for name in first_part}

    def family(self, name: str) -> tuple[str, ...]:
        """Return the fine parameters that a coarse one stands for."""
        names: tuple[str, ...] = (name,)
        for direction in reversed(self.maps):
            names = tuple(fine for coarse in names for fine in direction.family(coarse))
        return names


def _apply_maps(maps: Sequence[Callable[[State], dict[str, Tensor]]], state: State) -> dict[str, Tensor]:
    """Apply functions one after the other."""
    for apply_map in maps:
        state = apply_map(state)
    return dict(state)


def build_level_maps(level: Level) -> LevelMaps:
    """Return the maps from the level above to this one.

    Parameters
    ----------
    level : Level
        A coarse level of a hierarchy.

    Returns
    -------
    LevelMaps
        With the methods ``inject``, ``prolong``, ``restrict``, ``distribute`` and ``zero_sum``.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.coarsen import build_level_maps
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> hierarchy = ng.build_hierarchy(model, torch.zeros(1, 4))
    >>> maps = build_level_maps(hierarchy.levels[1])
    >>> coarse = maps.inject({name: p.detach() for name, p in model.named_parameters()})
    >>> coarse["0.weight"].shape, maps.prolong(coarse)["0.weight"].shape
    (torch.Size([3, 4]), torch.Size([6, 4]))
    """
    fine_spec = level.spec.with_sizes({axis: t.n_fine for axis, t in level.transfers.items()})
    channel_map = ChannelMap(fine_spec, level.transfers)
    return LevelMaps([DepthMap(level.chains), channel_map] if level.chains else [channel_map])
