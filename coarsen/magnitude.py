"""Magnitude pruning: keep the units with the largest norms, leave out the others. The baseline that merges nothing.

Li, Kadav, Durdanovic, Samet and Graf, "Pruning filters for efficient ConvNets", ICLR 2017, with the 2-norm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.checks import declares


@declares(leaves_out=True, ignores_edges=True)
def magnitude(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return -1 for all units but those that must stay alone and those of the largest features.

    Parameters
    ----------
    graph : AxisGraph
        Neither edges nor weights are used.
    n_coarse : int
        Number of units that are kept; more only where more must stay alone.
    seed : int
        Unused: of equal norms the first is kept.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        The units that are kept, numbered in their order; -1 for a unit that is left out.
    """
    norms = np.linalg.norm(np.asarray(graph.features, dtype=np.float64), axis=1)
    if graph.fixed is not None:
        norms[graph.fixed] = np.inf
        n_coarse = max(n_coarse, int(graph.fixed.sum()))
    kept = np.sort(np.argsort(-norms, kind="stable")[:n_coarse])
    aggregates = np.full(graph.n_units, -1, dtype=np.int64)
    aggregates[kept] = np.arange(len(kept))
    return aggregates
