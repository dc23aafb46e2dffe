"""KaHIP: parts of equal weight that cut little, by flows and better local search. Optional extra `kahip`.

Sanders and Schulz, "Think locally, act globally: highly balanced graph partitioning", SEA 2013.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraph import plugins
from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.honouring import aggregated
from netgraph.coarsen.kway import scaled
from netgraph.coarsen.rounds import strongest

IMBALANCE = 0.03  # KaHIP's default
NEIGHBOURS = 16  # heaviest edges of each unit that count: with all pairs 256 units took longer than is sensible

Ints = NDArray[np.int64]


def kahip(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of nearly equal weight between which the affinities are small.

    Parameters
    ----------
    graph : AxisGraph
        Its weights are balanced.
    n_coarse : int
    seed : int
        KaHIP's own.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.honouring.aggregated` says.

    Raises
    ------
    PluginError
        KaHIP is not installed.
    """
    library = plugins.library("kahip", called="KaHIP", plugin="coarsener 'kahip'")
    return aggregated(lambda part, k: _parts(library, part, k, seed), graph, n_coarse)


def _parts(library: Any, graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    adjacency = strongest(graph.adjacency, NEIGHBOURS)
    _, parts = library.kaffpa(
        scaled(graph.weight).tolist(),
        adjacency.indptr.tolist(),
        scaled(adjacency.data).tolist(),
        adjacency.indices.tolist(),
        n_parts,
        IMBALANCE,
        True,
        seed % 2**31,
        library.ECO,
    )
    return np.asarray(parts, dtype=np.int64)
