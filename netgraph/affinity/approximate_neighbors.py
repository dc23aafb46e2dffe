"""Approximate nearest neighbors by descent: a neighbor of a neighbor is a likely neighbor. Optional extra `pynndescent`.

Dong, Moses and Li, "Efficient k-nearest neighbor graph construction for generic similarity measures", WWW 2011, in
McInnes' library PyNNDescent. Recall is near 1 for units that lie near few dimensions, and lower where they fill many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity.similarity import DENSE, NEIGHBORS, cosine_graph, find_directions
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError
from netgraph.graph.axis_units import AxisUnits

TREES, CANDIDATES = 8, 20  # below the library's defaults: equal recall in little more than half the time
MANY = 32_768  # from this many units on, 1.5 times as many candidates keep the recall near 1


def approximate(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare the numbers that `netgraph.affinity.weights.cosine` compares, with an approximate search on large axes.

    The search is exact up to `netgraph.affinity.similarity.DENSE` units.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Seeds the search.

    Returns
    -------
    csr_array of shape (n_units, n_units)
        ``(1 + cos) / 2``. Symmetric, zero diagonal.

    Raises
    ------
    PluginError
        PyNNDescent is not installed.
    """
    return approximate_cosine_graph(units.incoming, seed=seed)


def approximate_cosine_graph(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return the graph of `cosine_graph` with neighbors found by descent.

    Up to `DENSE` units it is that graph itself.

    Parameters
    ----------
    features : array of shape (n, d)
        One row a unit, float32 or float64.
    k : int, optional
        Neighbors that each unit keeps, `NEIGHBORS` by default.
    seed : int, default=0
        Seeds the search. The same seed gives the same graph.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal, float32. A zero row has no edge.

    Raises
    ------
    PluginError
        PyNNDescent is not installed.
    NetgraphError
        A feature is not finite, or ``k`` is below 1.
    """
    library = import_package("pynndescent", "affinity 'approximate'", PluginError)
    if len(features) <= DENSE or (k is not None and k < 1):
        return cosine_graph(features, k=k, seed=seed)
    x, alive = find_directions(features)
    rows, x = np.flatnonzero(alive), x[alive].astype(np.float32)
    search = library.NNDescent(
        x,
        metric="euclidean",
        n_neighbors=min((k or NEIGHBORS) + 1, len(x) - 1),
        n_trees=TREES,
        max_candidates=CANDIDATES if len(x) < MANY else CANDIDATES * 3 // 2,
        random_state=seed % 2**31,
        n_jobs=torch.get_num_threads(),
    )
    near, distance = search.neighbor_graph
    i, j = np.repeat(rows, near.shape[1]), rows[near.ravel()]
    distance = distance.ravel().astype(np.float32)
    below = np.minimum(1 - distance**2 / 4, np.nextafter(np.float32(1), np.float32(0)))
    weight = np.where(distance > 0, below, np.float32(1))  # only copies weigh 1, as in the exact graph
    kept = (i != j) & (near.ravel() >= 0) & (weight > 0)
    directed = sparse.csr_array((weight[kept], (i[kept], j[kept])), shape=(len(alive),) * 2)
    return sparse.csr_array(directed.maximum(directed.T))
