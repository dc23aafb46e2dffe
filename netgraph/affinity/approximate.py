"""Approximate neighbours by descent: who is near my neighbours is likely near me. Optional extra `pynndescent`.

Dong, Moses, Li, "Efficient k-nearest neighbor graph construction for generic similarity measures", WWW 2011, as in the
library of McInnes. It finds nearly all neighbours where units lie near few dimensions, and fewer where they fill many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph import plugins
from netgraph.affinity import similarity as affinity
from netgraph.graph.axis_units import AxisUnits

TREES, CANDIDATES = 8, 20  # fewer than the library's own: as many found, in little more than half the time
MANY = 32_768  # units from which half as many candidates more keep nearly all neighbours found


def approximate(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare what `netgraph.affinity.weights.cosine` compares, by an approximate search beyond `affinity.DENSE` units."""
    return approximate_cosine_graph(units.incoming, seed=seed)


def approximate_cosine_graph(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return the graph of `netgraph.affinity.similarity.cosine_graph` with neighbours found by descent; up to `DENSE` units, that graph.

    Parameters
    ----------
    features : array of shape (n, d)
    k : int, optional
        Neighbours that each unit keeps, `affinity.NEIGHBOURS` by default.
    seed : int
        Of the search. The graph is the same for the same seed.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal, in single precision. A zero row has no edge.

    Raises
    ------
    PluginError
        PyNNDescent is not installed.
    NetgraphError
        A feature is not finite, or ``k`` is below 1.
    """
    library = plugins.import_library("pynndescent", called="PyNNDescent", plugin="affinity 'approximate'")
    if len(features) <= affinity.DENSE or (k is not None and k < 1):
        return affinity.cosine_graph(features, k=k, seed=seed)
    x, alive = affinity.find_directions(features)
    rows, x = np.flatnonzero(alive), x[alive].astype(np.float32)
    search = library.NNDescent(
        x,
        metric="euclidean",
        n_neighbors=min((k or affinity.NEIGHBORS) + 1, len(x) - 1),
        n_trees=TREES,
        max_candidates=CANDIDATES if len(x) < MANY else CANDIDATES * 3 // 2,
        random_state=seed % 2**31,
        n_jobs=torch.get_num_threads(),
    )
    near, distance = search.neighbor_graph
    i, j = np.repeat(rows, near.shape[1]), rows[near.ravel()]
    distance = distance.ravel().astype(np.float32)
    less = np.minimum(1 - distance**2 / 4, np.nextafter(np.float32(1), np.float32(0)))
    weight = np.where(distance > 0, less, np.float32(1))  # as of exact neighbours, copies alone weigh 1
    kept = (i != j) & (near.ravel() >= 0) & (weight > 0)
    found = sparse.csr_array((weight[kept], (i[kept], j[kept])), shape=(len(alive),) * 2)
    return sparse.csr_array(found.maximum(found.T))
