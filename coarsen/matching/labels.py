"""Cluster labels: check them, number them, and contract a graph by them.

Two contractions are in use. `contract_by_mean` is average linkage: an edge of the coarse graph is the mean affinity
between the members of two aggregates. `contract_by_sum` is the Galerkin product of algebraic multigrid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.environment.kernel_cache import compile_kernel
from netgraph.errors import AggregatesError

Ints = NDArray[np.int64]


def check_equal_sizes(graph: AxisGraph, n_coarse: int) -> None:
    """Check that ``n_coarse`` aggregates of one size exist.

    Parameters
    ----------
    graph : AxisGraph
    n_coarse : int

    Raises
    ------
    AggregatesError
        ``n_coarse`` does not divide the number of units, or a unit must stay alone while others merge.
    """
    n = graph.n_units
    if n_coarse < 1 or n % n_coarse:
        raise AggregatesError(
            f"axis {graph.name!r} of {n} units needs aggregates of one size, and {n_coarse} does not divide {n}. "
            f"Ask for a divisor of {n}."
        )
    if graph.fixed is not None and graph.fixed.any() and n_coarse < n:
        raise AggregatesError(
            f"axis {graph.name!r} needs aggregates of one size, and unit {int(graph.fixed.argmax())} must stay alone. "
            f"Ask for {n} aggregates, or free the unit."
        )


def renumber_labels(labels: Ints) -> Ints:
    """Number the labels 0 .. k - 1, in the order in which they first occur.

    Parameters
    ----------
    labels : int array of shape (n,)
        Any integers.

    Returns
    -------
    int array of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> renumber_labels(np.array([7, 7, 2, 7, 5]))
    array([0, 0, 1, 0, 2])
    """
    if len(labels) and labels.min() >= 0 and labels.max() <= 4 * len(labels):
        return np.asarray(_renumber_kernel(labels, int(labels.max()) + 1))
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


@compile_kernel(nogil=True)
def _renumber_kernel(labels: Any, n_labels: Any) -> Any:
    """Renumber labels in 0 .. n_labels - 1 with one table look-up for each."""
    number = np.full(n_labels, -1, dtype=np.int64)
    out, n_seen = np.empty(len(labels), dtype=np.int64), 0
    for unit in range(len(labels)):
        label = labels[unit]
        if number[label] < 0:
            number[label] = n_seen
            n_seen += 1
        out[unit] = number[label]
    return out


def contract_by_mean(adjacency: sparse.csr_array, labels: Ints, sizes: Ints) -> sparse.csr_array:
    """Return the graph of clusters whose edges are mean affinities (average linkage).

    The mean runs over units, however often the graph was contracted before. A mean of means would halve the edges of
    a hub with every leaf that joins it.

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
    labels : int array of shape (n,)
        Cluster of each vertex, numbered 0 .. k - 1.
    sizes : int array of shape (n,)
        Number of units that each vertex stands for.

    Returns
    -------
    csr_array of shape (k, k)
        Exactly symmetric, zero diagonal.
    """
    n, k = len(labels), int(labels.max()) + 1
    shares = sizes / np.bincount(labels, sizes)[labels]
    R = sparse.csr_array((shares, (labels, np.arange(n))), shape=(k, n))
    return mirror_upper_triangle(sparse.coo_array(R @ adjacency @ R.T))  # (k, n) @ (n, n) @ (n, k)


def contract_by_sum(adjacency: sparse.csr_array, labels: Ints) -> sparse.csr_array:
    """Return the graph of clusters whose edges are sums (the Galerkin product ``P' A P``).

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
    labels : int array of shape (n,)
        Cluster of each vertex, numbered 0 .. k - 1.

    Returns
    -------
    csr_array of shape (k, k)
        Exactly symmetric, zero diagonal.
    """
    n, k = len(labels), int(labels.max()) + 1
    P = sparse.csr_array((np.ones(n), (np.arange(n), labels)), shape=(n, k))
    return mirror_upper_triangle(sparse.coo_array(P.T @ adjacency @ P))  # (k, n) @ (n, n) @ (n, k)


def mirror_upper_triangle(matrix: sparse.coo_array) -> sparse.csr_array:
    """Return the symmetric graph of the entries above the diagonal.

    The two triangles of a sparse product may differ in the last digit, because sums are taken in another order. Both
    ends of an edge must see one weight, or two vertices would disagree on whether they are each other's heaviest.
    """
    above = matrix.row < matrix.col
    i, j, w = matrix.row[above], matrix.col[above], matrix.data[above]
    return sparse.csr_array((np.r_[w, w], (np.r_[i, j], np.r_[j, i])), shape=matrix.shape)
