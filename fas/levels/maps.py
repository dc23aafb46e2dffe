"""Maps between levels: state, gradients and moments of one level become those of the next.

The solver knows levels by the protocol `Maps` alone. The same code therefore trains a hierarchy of networks and solves a
differential equation on a hierarchy of grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from netgraph.analysis.hidden_matrices import list_hidden_matrices
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level_maps import build_level_maps
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.errors import NetgraphError
from netgraph.fas.levels.vectors import Vector


def check_level(maps: Maps, level: int) -> int:
    """Return the number of a level.

    Raises
    ------
    NetgraphError
        There is no such level.
    """
    last = len(maps.models) - 1
    if not 0 <= level <= last:
        raise NetgraphError(f"there is no level {level}. The levels are 0 to {last}.")
    return level


class UpwardMaps(Protocol):
    """The maps that carry moments up. ``level`` is the finer of the two."""

    def prolong(self, level: int, correction: Mapping[str, Tensor]) -> Vector:
        """Carry corrections up."""

    def distribute(self, level: int, dual: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Carry gradient-like state up, by the transpose of `inject`."""

    def family(self, level: int, name: str) -> tuple[str, ...]:
        """Return the fine parameters that a coarse one stands for."""


class Maps(UpwardMaps, Protocol):
    """Levels and the maps between them. ``level`` is always the finer of the two.

    Every parameter and buffer of a coarse level has a name that the finer level has too. After blocks merge, one coarse
    parameter corresponds to several fine ones, its family. Each map moves all members of a family together.

    Examples
    --------
    Two quadratics with one unknown and with two, between which P copies and R takes the mean:

    >>> import torch
    >>> from netgraph.fas import FAS, Options, Smoothing
    >>> class Quadratic(torch.nn.Module):
    ...     def __init__(self, n):
    ...         super().__init__()
    ...         self.x, self.weight = torch.nn.Parameter(torch.zeros(n)), 2 / n
    ...     def forward(self):
    ...         return self.weight * (self.x - 1).square().sum() / 2
    >>> class TwoLevels:
    ...     models, flops = [Quadratic(2), Quadratic(1)], [2.0, 1.0]
    ...     def inject(self, level, state):
    ...         return {name: x.mean(0, keepdim=True) for name, x in state.items()}
    ...     def prolong(self, level, correction):
    ...         return {name: x.expand(2).clone() for name, x in correction.items()}
    ...     def restrict(self, level, gradient, *, squared=False):
    ...         return {name: g.sum(0, keepdim=True) for name, g in gradient.items()}
    ...     def family(self, level, name):
    ...         return (name,)
    >>> class Energy:
    ...     batches = (None,)  # one minibatch without data
    ...     def value(self, model, batch):
    ...         return model()
    >>> solver = FAS("v", torch.optim.SGD, 0.5, cycles=2, schedule="constant", options=Options(Smoothing(2, 2, 4)))
    >>> solver.solve(TwoLevels(), Energy()).model.x.data
    tensor([1., 1.])
    """

    @property
    def models(self) -> Sequence[nn.Module]:
        """Models of the levels, finest first."""

    @property
    def flops(self) -> Sequence[float]:
        """Operations of one forward pass for one sample."""

    def inject(self, level: int, state: Mapping[str, Tensor]) -> Vector:
        """Carry state down."""

    def restrict(self, level: int, gradient: Mapping[str, Tensor], *, squared: bool = False) -> Vector:
        """Carry gradients down, by the transpose of `prolong`. ``squared`` maps take second moments."""

    def zero_sum(self, level: int, noise: Mapping[str, Tensor]) -> Vector:
        """Return the part of fine noise that does not change the function of a prolonged network."""


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


def find_matrices(maps: Maps) -> list[str]:
    """Return the matrices of hidden layers, which are those of the finest network on every level.

    Raises
    ------
    NetgraphError
        The levels are no hierarchy of networks.
    """
    if not isinstance(maps, HierarchyMaps):
        raise NetgraphError(
            "muon takes the matrices of hidden layers, which only a hierarchy of networks knows. Choose another optimizer for levels of "
            "your own, such as torch.optim.AdamW."
        )
    return list_hidden_matrices(maps.hierarchy.levels[0].spec)


def _count_example_rows(hierarchy: Hierarchy) -> int:
    """Return the rows that FLOPs were counted for: those of the example, where a single row is recorded twice."""
    shapes = [shape for shape, _ in hierarchy.example.get("tensors", ())]
    return max(int(shapes[0][0]), 2) if shapes and shapes[0] else 1


def live_state(model: nn.Module, names: Sequence[str] | None = None) -> Vector:
    """Return the live parameters and buffers of a level by name. With ``names``, return those of them that it has."""
    state = traced_state(model)
    return state if names is None else {name: state[name] for name in names if name in state}
