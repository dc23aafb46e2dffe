"""How good aggregates are as a partition of the graph: cut, balance, modularity, and spectra on demand.

Modularity: Newman, Phys. Rev. E 70, 2004. Eigenvalue and subspace errors: Loukas, "Graph reduction with spectral and
cut guarantees", J. Mach. Learn. Res. 20, 2019, section 3.
"""

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
    """What a partition does to its graph. A unit that is left out counts as a group of its own.

    Parameters
    ----------
    n_units, n_aggregates : int
    cut : float
        Sum of the edges between groups.
    matched_weight : float
        Sum of the edges within aggregates; of a matching, its weight.
    balance : float
        Weight of the heaviest aggregate over the mean weight of aggregates; 1 is perfect.
    modularity : float
        Share of edges within groups, less what chance would put there; 0 for a graph without edges.
    eigenvalue_error : float, optional
        Largest relative error of the Laplacian's first positive eigenvalues, of those that the coarse graph has too;
        nan where it has none.
    subspace_error : float, optional
        Largest share of a slow signal, in the norm of the Laplacian, that averaging over groups loses.
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
    """Return how good aggregates are as a partition of a graph.

    Parameters
    ----------
    graph : AxisGraph
    aggregates : int array of shape (n_units,)
        Numbered from 0 with none skipped; -1 for units that are left out.
    n_eigenvalues : int
        How many eigenvalues and slow signals to compare; with 0 none are computed.
    seed : int
        Of the eigensolver's first vector.

    Returns
    -------
    Quality

    Raises
    ------
    AggregatesError
        The aggregates are no partition of the graph's units.
    """
    found = check_aggregates(aggregates, graph, "quality", leaves_out=True)
    n_aggregates = int(found.max()) + 1
    groups = found.copy()
    groups[found < 0] = n_aggregates + np.arange(int((found < 0).sum()))
    edges = graph.adjacency.tocoo()
    data = edges.data.astype(np.float64)
    within = groups[edges.row] == groups[edges.col]
    inside, total = float(data[within].sum()) / 2, float(data.sum()) / 2
    weights = np.bincount(found[found >= 0], graph.weight[found >= 0])
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
    """Return the share of edges within groups in a random graph with these degrees."""
    return float(np.square(np.bincount(groups[rows], data) / data.sum()).sum())


def _measure_spectral_errors(adjacency: sparse.csr_array, groups: Ints, number: int, seed: int) -> tuple[float, float]:
    """Return the errors of the first eigenvalues and of the space of their eigenvectors.

    ``Q`` (n, k) has orthonormal columns, one for each group. Eigenvalues of ``Q' L Q`` are not below those of L
    (Cauchy); a signal x loses ``x - Q Q' x``.
    """
    values, vectors = find_slow_signals(adjacency, number, seed=seed)
    sizes = np.bincount(groups)
    n, k = len(groups), len(sizes)
    Q = sparse.csr_array((1 / np.sqrt(sizes[groups]), (np.arange(n), groups)), shape=(n, k))
    L = laplacian_matrix(adjacency)
    signals = vectors / np.sqrt(values)  # of length one in the norm of L
    lost = signals - Q @ (Q.T @ signals)
    share = np.linalg.eigvalsh(lost.T @ (L @ lost)) if len(values) else np.zeros(1)
    zeros = count_components(adjacency)
    coarse = smallest_eigenpairs(sparse.csr_array(Q.T @ L @ Q), zeros + number, seed=seed)[0][zeros:]
    relative = np.abs(coarse - values[: len(coarse)]) / values[: len(coarse)]
    return float(relative.max()) if len(relative) else float("nan"), float(np.sqrt(max(share.max(), 0.0)))
