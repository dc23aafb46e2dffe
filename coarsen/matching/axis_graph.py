"""AxisGraph: one axis as a coarsener sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity, AllPairs
from netgraph.errors import NetgraphError


@dataclass(frozen=True, eq=False)
class AxisGraph:
    """The units of one axis, all of which may merge with one another.

    Parameters
    ----------
    name : str
        The axis.
    affinity : csr_array or AllPairs, of shape (n, n)
        Edge weights: symmetric, non-negative, zero diagonal. `adjacency` is the same as a csr_array.
    weight : array of shape (n,)
        How many units of the finest network each stands for.
    make_features : callable
        Returns (n, d) numbers; called only by coarseners that ask for `features`.
    equal : bool
        Whether all aggregates must have one size.
    fixed : bool array of shape (n,), optional
        Units that must stay alone.

    Raises
    ------
    NetgraphError
        An affinity is negative, infinite or not a number.
    """

    name: str
    affinity: Affinity
    weight: NDArray[Any]
    make_features: Callable[[], NDArray[Any]] | None = None
    equal: bool = False
    fixed: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        data = self.affinity.weights if isinstance(self.affinity, AllPairs) else self.affinity.data
        if data.size and not (data.min() >= 0 and data.max() < np.inf):  # no comparison holds for a nan
            data = self.adjacency.data
            entry = int((~((data >= 0) & (data < np.inf))).argmax())
            unit = int(np.searchsorted(self.adjacency.indptr, entry, side="right")) - 1
            raise NetgraphError(
                f"axis {self.name!r} was given an affinity of {data[entry]} between units {unit} and "
                f"{self.adjacency.indices[entry]}; affinities are finite and not negative: mend what weighs the edges"
            )

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.affinity.shape[0])

    @cached_property
    def adjacency(self) -> sparse.csr_array:
        """Affinities, (n, n)."""
        return self.affinity.tocsr()

    @cached_property
    def features(self) -> NDArray[Any]:
        """Numbers of each unit, (n, d)."""
        return np.zeros((self.n_units, 0)) if self.make_features is None else self.make_features()

    @property
    def names(self) -> list[str]:
        """A name for each unit: the axis and its number."""
        return [f"{self.name}[{i}]" for i in range(self.n_units)]
