"""AxisGraph: one axis as a coarsener sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True, eq=False)
class AxisGraph:
    """The units of one axis, all of which may merge with one another.

    Parameters
    ----------
    name : str
        The axis.
    adjacency : csr_array of shape (n, n)
        Affinities: symmetric, non-negative, zero diagonal.
    weight : array of shape (n,)
        How many units of the finest network each stands for.
    make_features : callable
        Returns (n, d) numbers; called only by coarseners that ask for `features`.
    equal : bool
        Whether all aggregates must have one size.
    fixed : bool array of shape (n,), optional
        Units that must stay alone.
    """

    name: str
    adjacency: sparse.csr_array
    weight: NDArray[Any]
    make_features: Callable[[], NDArray[Any]] | None = None
    equal: bool = False
    fixed: NDArray[np.bool_] | None = None

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.adjacency.shape[0])

    @cached_property
    def features(self) -> NDArray[Any]:
        """Numbers of each unit, (n, d)."""
        return np.zeros((self.n_units, 0)) if self.make_features is None else self.make_features()

    @property
    def names(self) -> list[str]:
        """A name for each unit: the axis and its number."""
        return [f"{self.name}[{i}]" for i in range(self.n_units)]
