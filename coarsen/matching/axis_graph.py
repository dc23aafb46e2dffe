"""AxisGraph: the units of one axis and their affinities, the argument of every coarsener."""

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
    """The graph of the units of one axis, which a coarsener partitions.

    Parameters
    ----------
    name : str
        Name of the axis.
    affinity : csr_array or AllPairs, of shape (n, n)
        Edge weights: symmetric, non-negative, zero diagonal. `adjacency` holds the same weights as a csr_array.
    weight : array of shape (n,)
        Number of units of the finest network that each unit stands for.
    make_features : callable, optional
        Returns the features of the units, (n, d). It is called when a coarsener first reads `features`.
    equal : bool, default False
        All aggregates must have one size.
    fixed : bool array of shape (n,), optional
        Units that must stay alone.
    importance : array of shape (n,), optional
        Importance of each unit, from 0 on (`netgraph.coarsen.matching.unit_importance`). None if none was asked for.

    Raises
    ------
    NetgraphError
        An affinity or an importance is negative, infinite or not a number, or there is no importance for each unit.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph
    >>> weights = np.array([[0.0, 0.9, 0.1], [0.9, 0.0, 0.2], [0.1, 0.2, 0.0]])
    >>> graph = AxisGraph("fc1", sparse.csr_array(weights), np.ones(3))
    >>> graph.n_units
    3
    >>> graph.names
    ['fc1[0]', 'fc1[1]', 'fc1[2]']
    """

    name: str
    affinity: Affinity
    weight: NDArray[Any]
    make_features: Callable[[], NDArray[Any]] | None = None
    equal: bool = False
    fixed: NDArray[np.bool_] | None = None
    importance: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        data = self.affinity.weights if isinstance(self.affinity, AllPairs) else self.affinity.data
        if data.size and not (data.min() >= 0 and data.max() < np.inf):  # every comparison with nan is false
            data = self.adjacency.data
            entry = int((~((data >= 0) & (data < np.inf))).argmax())
            unit = int(np.searchsorted(self.adjacency.indptr, entry, side="right")) - 1
            raise NetgraphError(
                f"axis {self.name!r} was given an affinity of {data[entry]} between units {unit} and "
                f"{self.adjacency.indices[entry]}. Affinities must be finite and not negative: check the affinity function."
            )
        if self.importance is not None:
            self._check_importance(np.asarray(self.importance))

    def _check_importance(self, values: NDArray[Any]) -> None:
        """Refuse importances that are no finite numbers from 0 on, one for each unit."""
        if values.shape != (self.n_units,) or values.dtype.kind not in "fiu":
            raise NetgraphError(
                f"axis {self.name!r} was given importances of {values.dtype} and shape {values.shape}, and has {self.n_units} units. Give "
                "a real number for each."
            )
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            unit = int(wrong.argmax())
            raise NetgraphError(
                f"axis {self.name!r} was given an importance of {values[unit]} for unit {unit}. Give finite numbers from 0 on."
            )

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.affinity.shape[0])

    @cached_property
    def adjacency(self) -> sparse.csr_array:
        """Affinities as a sparse matrix, (n, n)."""
        return self.affinity.tocsr()

    @cached_property
    def features(self) -> NDArray[Any]:
        """Features of the units, (n, d). Without ``make_features`` there are none: d = 0."""
        return np.zeros((self.n_units, 0)) if self.make_features is None else self.make_features()

    @property
    def names(self) -> list[str]:
        """Name of each unit: the axis and the number of the unit."""
        return [f"{self.name}[{i}]" for i in range(self.n_units)]
