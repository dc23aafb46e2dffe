"""Adjacent units: the baseline that goes by numbers alone, as multi-level training of transformers does.

Zou, Zhang and Sun, "A multi-level framework for accelerating training transformer models", ICLR 2024, merge neurons by fixed
matrices, whatever they compute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.checks import declares
from netgraph.coarsen.hem import divisor_asked, numbered


@declares(ignores_edges=True)
def adjacent(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return aggregates of consecutive units, whose sizes differ by at most one.

    Parameters
    ----------
    graph : AxisGraph
        Neither edges nor weights are used; units that must stay alone do.
    n_coarse : int
        Aggregates; more only where more must stay alone.
    seed : int
        Unused.

    Returns
    -------
    aggregates : int array of shape (n_units,)

    Raises
    ------
    AggregatesError
        Sizes must be equal, and ``n_coarse`` does not divide the number of units.
    """
    if graph.equal:
        divisor_asked(graph, n_coarse)
    aggregates = np.arange(graph.n_units)
    free = aggregates if graph.fixed is None else np.flatnonzero(~graph.fixed)
    n_free = min(max(n_coarse - (graph.n_units - len(free)), 1), len(free))  # aggregates left for them
    if n_free:
        aggregates[free] = free[np.arange(len(free)) * n_free // len(free)]
    return numbered(aggregates)
