"""Laplacian matrices of a graph and their first eigenvectors: dense for small graphs, by Lanczos' method for large ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.utils.seeds import make_random

DENSE = 2048  # up to this number of vertices the eigensolver is dense
Floats = NDArray[Any]


def laplacian_matrix(adjacency: sparse.csr_array) -> sparse.csr_array:
    """Return the Laplacian ``D - A`` in double precision."""
    a = adjacency.astype(np.float64)
    return sparse.csr_array(sparse.diags_array(np.asarray(a.sum(axis=1))) - a)


def normalized_adjacency(adjacency: sparse.csr_array) -> sparse.csr_array:
    """Return ``D^-1/2 A D^-1/2``. Its last eigenvectors are the first ones of the normalized Laplacian."""
    degree = np.asarray(adjacency.sum(axis=1), dtype=np.float64)
    half = sparse.diags_array(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    return sparse.csr_array(half @ adjacency @ half)


def find_slow_signals(adjacency: sparse.csr_array, number: int, *, seed: int) -> tuple[Floats, Floats]:
    """Return the eigenpairs of the smallest positive eigenvalues of the Laplacian.

    Parameters
    ----------
    adjacency : csr_array of shape (n, n)
    number : int
        Number of eigenpairs. Small graphs have fewer.
    seed : int
        Draws the first vector of the eigensolver.

    Returns
    -------
    values : array of shape (number,)
        In rising order.
    vectors : array of shape (n, number)
    """
    zeros = count_components(adjacency)  # the eigenvalue 0 has one constant signal for each component
    values, vectors = smallest_eigenpairs(laplacian_matrix(adjacency), zeros + number, seed=seed)
    return values[zeros:], vectors[:, zeros:]


def count_components(adjacency: sparse.csr_array) -> int:
    """Return the number of connected components."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(adjacency, directed=False)[0])


def smallest_eigenpairs(matrix: sparse.csr_array, number: int, *, seed: int) -> tuple[Floats, Floats]:
    """Return the eigenpairs of the smallest eigenvalues, in rising order, of a Laplacian ``L`` or of ``Q' L Q``."""
    n = matrix.shape[0]
    top = float(np.abs(matrix).sum(axis=1).max(initial=0))  # no eigenvalue is larger (Gershgorin)
    values, vectors = largest_eigenpairs(
        sparse.csr_array(top * sparse.eye_array(n) - matrix), min(number, n), seed=seed
    )
    return (top - values)[::-1], vectors[:, ::-1]


def largest_eigenpairs(matrix: sparse.csr_array, number: int, *, seed: int) -> tuple[Floats, Floats]:
    """Return the eigenpairs of the largest eigenvalues of a symmetric matrix, in rising order: (number,), (n, number)."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import eigsh
    from threadpoolctl import threadpool_limits

    n = matrix.shape[0]
    with threadpool_limits(1):  # rounding, and so the clusters made of the vectors, would depend on the threads
        if n <= DENSE or number >= n // 2:
            values, vectors = eigh(matrix.toarray(), subset_by_index=[n - number, n - 1])
        else:
            values, vectors = eigsh(matrix, number, which="LA", v0=make_random(seed).normal(size=n))
    order = np.argsort(values)
    return values[order], vectors[:, order]
