"""Number and check aggregates, and contract a graph by them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.errors import AggregatesError

Ints = NDArray[np.int64]


def check_equal_sizes(graph: AxisGraph, n_coarse: int) -> None:
    """Raise `AggregatesError` unless aggregates of one size can number ``n_coarse``."""
    n = graph.n_units
    if n_coarse < 1 or n % n_coarse:
        raise AggregatesError(
            f"axis {graph.name!r} of {n} units needs aggregates of one size, and {n_coarse} does not divide {n}; "
            "ask for a divisor"
        )
    if graph.fixed is not None and graph.fixed.any() and n_coarse < n:
        raise AggregatesError(
            f"axis {graph.name!r} needs aggregates of one size, and unit {int(graph.fixed.argmax())} must stay alone; "
            f"ask for {n} aggregates, or free the unit"
        )


def renumber_labels(aggregates: Ints) -> Ints:
    """Number aggregates 0 .. k - 1 in the order of their first units."""
    if len(aggregates) and aggregates.min() >= 0 and aggregates.max() <= 4 * len(aggregates):
        return np.asarray(_renumber_kernel(aggregates, int(aggregates.max()) + 1))
    _, first, inverse = np.unique(aggregates, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


@njit(nogil=True, cache=True)
def _renumber_kernel(aggregates: Any, largest: Any) -> Any:
    number, out, found = np.full(largest, -1, dtype=np.int64), np.empty(len(aggregates), dtype=np.int64), 0
    for unit in range(len(aggregates)):
        a = aggregates[unit]
        if number[a] < 0:
            number[a] = found
            found += 1
        out[unit] = number[a]
    return out


def contract_by_mean(adjacency: sparse.csr_array, aggregates: Ints, sizes: Ints) -> sparse.csr_array:
    """Return the graph of aggregates: the mean affinity of their members, zero diagonal.

    ``sizes`` (n,) says how many units each vertex stands for already, so that the mean runs over units however
    often the graph was contracted (average linkage); a mean of means would halve a hub's edges with every leaf.
    """
    n, k = len(aggregates), int(aggregates.max()) + 1
    shares = sizes / np.bincount(aggregates, sizes)[aggregates]
    R = sparse.csr_array((shares, (aggregates, np.arange(n))), shape=(k, n))
    coarse = sparse.coo_array(R @ adjacency @ R.T)  # (k, n) @ (n, n) @ (n, k)
    above = coarse.row < coarse.col  # the half below may differ in the last digit, and suitors must agree
    i, j, w = coarse.row[above], coarse.col[above], coarse.data[above]
    return sparse.csr_array((np.r_[w, w], (np.r_[i, j], np.r_[j, i])), shape=(k, k))
