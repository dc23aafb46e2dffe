"""Maps: how state, gradients and moments of one level become those of the next.

The cycle knows levels by this protocol alone, so that a network's hierarchy and a grid of a differential equation
are solved by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.fas.levels.vectors import Vector


class Maps(Protocol):
    """Levels and the way between them; ``level`` is always the finer of the two.

    A coarse level has no parameter or buffer whose name the finer one lacks. One may stand for several of the finer one's, its
    family, where blocks have merged; maps take and give whole families.
    """

    @property
    def models(self) -> Sequence[nn.Module]:
        """Networks, finest first."""

    @property
    def flops(self) -> Sequence[float]:
        """Operations of one forward pass for one sample."""

    def inject(self, level: int, state: Mapping[str, Tensor]) -> Vector:
        """State down."""

    def prolong(self, level: int, correction: Mapping[str, Tensor]) -> Vector:
        """Corrections up."""

    def restrict(self, level: int, gradient: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Gradients down: the transpose of `prolong`; ``squared`` for second moments."""

    def distribute(self, level: int, dual: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Gradient-like state up: the transpose of `inject`."""

    def zero_sum(self, level: int, noise: Mapping[str, Tensor]) -> Vector:
        """The part of a fine vector that a prolonged network does not feel."""

    def family(self, level: int, name: str) -> tuple[str, ...]:
        """The fine parameters that a coarse one stands for."""


class HierarchyMaps:
    """The maps of a hierarchy of networks (docs/transfers.md).

    Parameters
    ----------
    hierarchy : Hierarchy
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        rows = _count_example_rows(hierarchy)
        self.moves = [build_level_maps(level) for level in hierarchy.levels[1:]]
        self.models: Sequence[nn.Module] = [level.model for level in hierarchy.levels]
        self.flops: Sequence[float] = [level.flops / rows for level in hierarchy.levels]

    def inject(self, level: int, state: Mapping[str, Tensor]) -> Vector:
        """Return W_c = R_out W P_in."""
        return self.moves[level].inject(state)

    def prolong(self, level: int, correction: Mapping[str, Tensor]) -> Vector:
        """Return E = P_out E_c R_in."""
        return self.moves[level].prolong(correction)

    def restrict(self, level: int, gradient: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Return G_c = P_out' G R_in'."""
        return self.moves[level].restrict(gradient, squared=squared)

    def distribute(self, level: int, dual: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Return G = R_out' G_c P_in'."""
        return self.moves[level].distribute(dual, squared=squared)

    def zero_sum(self, level: int, noise: Mapping[str, Tensor]) -> Vector:
        """Return N with N P_in = 0."""
        return self.moves[level].zero_sum(noise)

    def family(self, level: int, name: str) -> tuple[str, ...]:
        """Return the fine parameters that a coarse one stands for."""
        return self.moves[level].family(name)


def _count_example_rows(hierarchy: Hierarchy) -> int:
    """Return the rows that FLOPs were counted for: those of the example, a single one being recorded twice."""
    shapes = [shape for shape, _ in hierarchy.options.get("example", {}).get("tensors", ())]
    return max(int(shapes[0][0]), 2) if shapes and shapes[0] else 1


def live_state(model: nn.Module, names: Sequence[str] | None = None) -> Vector:
    """Return the live parameters and buffers of a level by name, those of ``names`` that it has where given."""
    state = traced_state(model)
    return state if names is None else {name: state[name] for name in names if name in state}
