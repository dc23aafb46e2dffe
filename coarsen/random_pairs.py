"""Random pairs: the baseline that ignores every weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.checks import declares
from netgraph.coarsen.hem import divisor_asked, numbered


@declares(ignores_edges=True)
def random_pairs(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return aggregates whose sizes differ by at most one and whose members are drawn at random.

    Units that must stay alone do. Where sizes must be equal and ``n_coarse`` does not divide the number of units,
    `AggregatesError` is raised.
    """
    if graph.equal:
        divisor_asked(graph, n_coarse)
    aggregates = np.arange(graph.n_units)
    free = aggregates if graph.fixed is None else np.flatnonzero(~graph.fixed)
    n_free = min(max(n_coarse - (graph.n_units - len(free)), 1), len(free))  # aggregates left for them
    if n_free:
        aggregates[free] = free[np.random.default_rng(seed).permutation(np.arange(len(free)) % n_free)]
    return numbered(aggregates)
