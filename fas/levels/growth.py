"""How the new blocks and units of a finer level begin, and with which moments.

A coarse unit becomes several copies of itself, and a coarse block several blocks. The first of each is the old one::

    units     split   W = P_out W_c R_in          zero   W = P_out W_c S_in       S selects the first, S P = I
    blocks    prolonged   by the maps of depth    copied, zero, random   the first is the coarse block, with all of its effect
    moments   split   m = R_out' m_c P_in'        zero   m = S_out' m_c P_in'

New units without outgoing weights, and new blocks whose ends are zero, leave the function as it was. Their gradients do not
vanish, because the outgoing weights of a new unit, and the ends of a new block, have the gradients of their copies.

Zero ends: Wu et al., "LLaMA Pro: progressive LLaMA with block expansion", ACL 2024. Moments that are reset for new parts alone:
"SPARKLING", arXiv:2602.02472, 2026.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from netgraph.coarsen.directions.depth import DepthMap
from netgraph.coarsen.hierarchy.level_maps import ChannelMap
from netgraph.coarsen.transfer.parameter_maps import (
    distribute_to_first_members,
    mask_first_members,
    prolong_to_first_members,
)
from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.levels.moments import COUNTS, Moments, carry_moments_up, read_moments
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.vectors import Vector
from netgraph.fas.options.groups import Split


class Growth:
    """One step from a coarse level to the finer one that begins with its solution.

    It has the maps of moments, as `netgraph.fas.levels.maps.Maps` has them, and in place of `prolong` for weights `grow`.

    Parameters
    ----------
    maps : Maps
    level : int
        The level that begins.
    split : Split
    """

    def __init__(self, maps: Maps, level: int, split: Split) -> None:
        self.maps, self.level, self.split = maps, level, split
        directions = maps.moves[level].maps if isinstance(maps, HierarchyMaps) else ()
        self.depth = next((m for m in directions if isinstance(m, DepthMap)), None)
        self.channels = next((m for m in directions if isinstance(m, ChannelMap)), None)

    @property
    def _is_prolonged(self) -> bool:
        """True if the maps of the levels do all."""
        return self.split.kind != "zero" and self.split.blocks == "prolonged"

    def grow(self, state: Mapping[str, Tensor]) -> Vector:
        """Return the first parameters of the finer level. Those of random blocks are left out, and stay as they are."""
        if self._is_prolonged:
            return self.maps.prolong(self.level, state)
        out = self._grow_units(state)
        if self.depth is None or self.split.blocks == "prolonged":
            return out if self.depth is None else self.depth.prolong(out)
        blocks = self._copy_blocks(out)
        new = self.list_new_blocks(state)
        if self.split.blocks == "random":
            return {name: tensor for name, tensor in blocks.items() if name not in new}
        if self.split.blocks == "zero":
            return {n: torch.zeros_like(t) if n in new and self._is_end(n) else t for n, t in blocks.items()}
        return blocks

    def list_zeros(self) -> list[str]:
        """Return the ends that become zero of blocks that the coarse level has left out."""
        if self.depth is None or self.split.blocks != "zero":
            return []
        return [name for name, is_end in self.depth.left_out.items() if is_end]

    def list_new_blocks(self, names: Iterable[str]) -> set[str]:
        """Return the fine parameters of blocks that are not the first of their aggregates, for coarse names."""
        return {member for name in names for member in self.maps.family(self.level, name)[1:]}

    def _is_end(self, name: str) -> bool:
        return self.depth is not None and self.depth.families[name].is_end

    def _grow_units(self, state: Mapping[str, Tensor]) -> Vector:
        assert self.channels is not None  # `check_growth` has refused other levels
        if self.split.kind == "zero":
            return prolong_to_first_members(self.channels.spec, self.channels.transfers, state)
        return self.channels.prolong(state)

    def _copy_blocks(self, state: Mapping[str, Tensor]) -> Vector:
        """Return each coarse parameter for all members of its family, as it is."""
        assert self.depth is not None
        return {n: t for name, tensor in state.items() for n, t in self.depth.copy(name, tensor).items()}

    # Moments. New blocks take those of the coarse block as they are, because they begin as its copies or beside it.

    def family(self, level: int, name: str) -> tuple[str, ...]:
        """Return the fine parameters that a coarse one stands for."""
        return self.maps.family(level, name)

    def prolong(self, level: int, correction: Mapping[str, Tensor]) -> Vector:
        """Carry steps of the optimizer up."""
        if self._is_prolonged:
            return self.maps.prolong(level, correction)
        out = self._grow_units(correction)
        if self.depth is None:
            return out
        return self.depth.prolong(out) if self.split.blocks == "prolonged" else self._copy_blocks(out)

    def distribute(self, level: int, dual: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Carry gradient-like state up."""
        if self._is_prolonged:
            return self.maps.distribute(level, dual, squared=squared)
        assert self.channels is not None
        if self.split.kind == "zero":
            out = distribute_to_first_members(self.channels.spec, self.channels.transfers, dual)
        else:
            out = self.channels.distribute(dual, squared=squared)
        if self.depth is None:
            return out
        prolonged = self.split.blocks == "prolonged"
        return self.depth.distribute(out, squared=squared) if prolonged else self._copy_blocks(out)

    def carry_moments(self, coarse: Smoother) -> Moments:
        """Return the moments with which the finer level begins.

        Parameters
        ----------
        coarse : Smoother
            Of the level that has been trained.
        """
        if self.split.moments == "reset":
            return {}
        before = read_moments(coarse)
        moments = carry_moments_up(self, self.level, before)
        return moments if self.split.moments == "kept" else self._clear_new(before, moments)

    def _clear_new(self, before: Moments, moments: Moments) -> Moments:
        """Return moments without those of new blocks, and with zeros for new units."""
        coarse_names = {name for vector in before.values() for name in vector}
        new = self.list_new_blocks(coarse_names)
        old = {self.maps.family(self.level, name)[0]: name for name in coarse_names}
        cleared: Moments = {}
        for key, vector in moments.items():
            for name, value in vector.items():
                if name not in new:
                    mask = None if key in COUNTS else self._mask_old_units(name, before[key][old[name]])
                    cleared.setdefault(key, {})[name] = value if mask is None else value * mask
        return cleared

    def mask_new_entries(self, coarse: Mapping[str, Tensor], fine: Mapping[str, Tensor]) -> Vector:
        """Return masks that are True at the entries of new units and blocks.

        Parameters
        ----------
        coarse, fine : dict of str to Tensor
            Parameters of both levels.

        Returns
        -------
        masks : dict of str to bool Tensor
            By fine parameter, without those in which nothing is new. An entry between an old and a new unit is new.
        """
        blocks = self.list_new_blocks(coarse) | set(() if self.depth is None else self.depth.left_out)
        masks = {name: torch.ones_like(fine[name], dtype=torch.bool) for name in sorted(blocks) if name in fine}
        for name, tensor in coarse.items():
            first = self.maps.family(self.level, name)[0]
            old = self._mask_old_units(first, tensor) if first in fine else None
            if old is not None and not old.bool().all():
                masks[first] = ~old.bool()
        return masks

    def _mask_old_units(self, name: str, coarse: Tensor) -> Tensor | None:
        """Return ones between units that are the first of their aggregates and zeros elsewhere, or None if no unit is new."""
        if self.channels is None or not self.channels.transfers:
            return None
        return mask_first_members(self.channels.spec, self.channels.transfers, {name: coarse})[name]


def check_growth(maps: Maps, split: Split) -> None:
    """Refuse a way to begin that the levels do not have.

    Parameters
    ----------
    maps : Maps
    split : Split

    Raises
    ------
    NetgraphError
        The levels are no hierarchy of networks, or a chain has no ends, or no block to begin from.
    """
    changed = split.kind == "zero" or split.blocks != "prolonged" or split.moments == "asymmetric" or split.rewarm > 0
    if not isinstance(maps, HierarchyMaps):
        if changed:
            raise NetgraphError(
                "split.kind=zero, split.blocks, split.moments=asymmetric and split.rewarm need a hierarchy of networks. Leave them out for "
                "levels of your own."
            )
        return
    for step in (step for level in maps.hierarchy.levels for step in level.chains):
        if not step.kept and split.blocks in ("prolonged", "copied"):
            raise NetgraphError(
                f"split.blocks is {split.blocks}, but the chain of {step.chain.name} has no block left to begin from. Set split.blocks "
                "to zero or random, or keep a block (blocks=1)."
            )
        if not step.chain.ends and split.blocks == "zero":
            raise NetgraphError(
                f"split.blocks is zero, but the blocks of {step.chain.name} are copied whole. Set depth_by to split, or split.blocks to "
                "copied or random."
            )
