"""Measures of a partition: cut, balance, modularity, and spectral errors on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.contract import check_aggregates
from netgraph.coarsen.partition.laplacian import (
    count_components,
    find_slow_signals,
    laplacian_matrix,
    smallest_eigenpairs,
)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """Measures of a partition of a graph. A unit that is left out counts as a group of its own.

    Parameters
    ----------
    n_units : int
        Number of units.
    n_aggregates : int
        Number of aggregates.
    cut : float
        Sum of the edge weights between groups.
    matched_weight : float
        Sum of the edge weights within groups. For a matching this is its weight.
    balance : float
        Weight of the heaviest aggregate divided by the mean weight of the aggregates. 1 is perfect.
    modularity : float
        Share of the edge weight within groups, minus the share expected by chance. 0 for a graph without edges.
    eigenvalue_error : float, optional
        Largest relative error of the first positive eigenvalues of the Laplacian, among those that the coarse graph
        has. nan if it has none.
    subspace_error : float, optional
        Largest share of a slow signal that is lost by averaging over groups, in the norm of the Laplacian.
    """

    n_units: int
    n_aggregates: int
    cut: float
    matched_weight: float
    balance: float
    modularity: float
    eigenvalue_error: float | None = None
    subspace_error: float | None = None

    def __repr__(self) -> str:
        total = self.cut + self.matched_weight
        share = f" ({self.cut / total:.1%})" if total else ""
        text = f"Quality({self.n_units} -> {self.n_aggregates}: cut {self.cut:.4g}{share}, matched {self.matched_weight:.4g}"
        text += f", balance {self.balance:.3g}, modularity {self.modularity:.3g}"
        if self.eigenvalue_error is not None:
            text += f", eigenvalue error {self.eigenvalue_error:.3g}, subspace error {self.subspace_error:.3g}"
        return text + ")"


def quality(graph: AxisGraph, aggregates: Any, *, n_eigenvalues: int = 0, seed: int = 0) -> Quality:
    """Measure aggregates as a partition of a graph: cut, balance, modularity [1]_, and spectral errors [2]_.

    Parameters
    ----------
    graph : AxisGraph
        Graph of the units of one axis.
    aggregates : int array of shape (n_units,)
        Aggregate of each unit, numbered from 0 with none skipped, -1 for a unit that is left out.
    n_eigenvalues : int, default 0
        Number of eigenvalues and slow signals of the Laplacian to compare.
    seed : int, default 0
        Draws the first vector of the eigensolver.

    Returns
    -------
    Quality
        Its spectral errors are None if ``n_eigenvalues`` is 0.

    Raises
    ------
    AggregatesError
        The aggregates are not a partition of the units.

    Notes
    -----
    O(m) time for m edges. The eigenvalues take O(n³) up to 2,048 units, and beyond that O(m) per Lanczos step.

    References
    ----------
    .. [1] Newman, Phys. Rev. E 70, 2004.
    .. [2] Loukas, "Graph reduction with spectral and cut guarantees", J. Mach. Learn. Res. 20, 2019, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import netgraph as ng
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> ng.quality(AxisGraph("path", path, np.ones(6)), np.array([0, 0, 0, 1, 1, 1]))
    Quality(6 -> 2: cut 1 (7.7%), matched 12, balance 1, modularity 0.423)
    """
    aggregates = check_aggregates(aggregates, graph, "quality", leaves_out=True)
    n_aggregates = int(aggregates.max()) + 1
    groups = aggregates.copy()
    groups[aggregates < 0] = n_aggregates + np.arange(int((aggregates < 0).sum()))
    edges = graph.adjacency.tocoo()
    data = edges.data.astype(np.float64)
    within = groups[edges.row] == groups[edges.col]
    inside, total = float(data[within].sum()) / 2, float(data.sum()) / 2
    weights = np.bincount(aggregates[aggregates >= 0], graph.weight[aggregates >= 0])
    errors = _measure_spectral_errors(graph.adjacency, groups, n_eigenvalues, seed) if n_eigenvalues else (None, None)
    return Quality(
        n_units=graph.n_units,
        n_aggregates=n_aggregates,
        cut=float(data[~within].sum()) / 2,
        matched_weight=inside,
        balance=float(weights.max() / weights.mean()),
        modularity=inside / total - _expected_share(groups, edges.row, data) if total else 0.0,
        eigenvalue_error=errors[0],
        subspace_error=errors[1],
    )


def _expected_share(groups: Ints, rows: Ints, data: NDArray[Any]) -> float:
    """Return the expected share of edge weight within groups, in a random graph with these degrees."""
    return float(np.square(np.bincount(groups[rows], data) / data.sum()).sum())


def _measure_spectral_errors(adjacency: sparse.csr_array, groups: Ints, number: int, seed: int) -> tuple[float, float]:
    """Return the errors of the first eigenvalues, and of the space that their eigenvectors span."""
    # Q (n, k) has orthonormal columns, one for each group. By Cauchy's interlacing theorem no eigenvalue of Q' L Q is
    # below that of L with the same number. A signal x loses x - Q Q' x when it is averaged over groups.
    values, vectors = find_slow_signals(adjacency, number, seed=seed)
    sizes = np.bincount(groups)
    n, k = len(groups), len(sizes)
    Q = sparse.csr_array((1 / np.sqrt(sizes[groups]), (np.arange(n), groups)), shape=(n, k))
    L = laplacian_matrix(adjacency)
    signals = vectors / np.sqrt(values)  # each of length one in the norm of L
    lost = signals - Q @ (Q.T @ signals)
    share = np.linalg.eigvalsh(lost.T @ (L @ lost)) if len(values) else np.zeros(1)
    zeros = count_components(adjacency)
    coarse = smallest_eigenpairs(sparse.csr_array(Q.T @ L @ Q), zeros + number, seed=seed)[0][zeros:]
    relative = np.abs(coarse - values[: len(coarse)]) / values[: len(coarse)]
    return float(relative.max()) if len(relative) else float("nan"), float(np.sqrt(max(share.max(), 0.0)))
