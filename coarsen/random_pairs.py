"""Random pairs: the baseline that ignores every weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.coarsen.hem import numbered


def random_pairs(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return aggregates whose sizes differ by at most one and whose members are drawn at random."""
    n = graph.n_units
    aggregates = np.arange(n) % min(n_coarse, n)
    return numbered(np.random.default_rng(seed).permutation(aggregates))
