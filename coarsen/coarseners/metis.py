"""METIS: parts of equal weight that cut as little affinity as possible.

Karypis and Kumar, "Multilevel k-way partitioning scheme for irregular graphs", J. Parallel Distrib. Comput. 48(1),
1998; recursive bisection: "A fast and high quality multilevel scheme", SIAM J. Sci. Comput. 20(1), 1998.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints

PART = 16  # units a part from which the k-way mode is used; with two a part it puts all units into one
TOTAL = 2**30  # METIS adds up weights in 32 bits
FINEST = 2**20
Ints = NDArray[np.int64]


def metis(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of nearly equal weight between which the affinities are small.

    Parameters
    ----------
    graph : AxisGraph
        Its weights are balanced.
    n_coarse : int
    seed : int
        METIS' own.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.
    """
    return aggregate_with_constraints(lambda part, k: _partition_with_metis(part, k, seed), graph, n_coarse)


def _partition_with_metis(graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    import pymetis

    xadj, adjncy = (a.astype(np.int64) for a in (graph.adjacency.indptr, graph.adjacency.indices))
    _, parts = pymetis.part_graph(
        n_parts,
        pymetis.CSRAdjacency(xadj, adjncy),
        vweights=scale_to_integers(graph.weight),
        eweights=scale_to_integers(graph.adjacency.data),
        recursive=graph.n_units < PART * n_parts,
        options=pymetis.Options(seed=seed % 2**31),
    )
    return np.asarray(parts, dtype=np.int64)


def scale_to_integers(weights: NDArray[np.floating]) -> Ints:
    """Return positive integers in the ratios of the weights, whose sum METIS' 32 bits can hold."""
    shares = weights / weights.max()
    finest = min(FINEST, TOTAL / max(float(shares.sum(dtype=np.float64)), 1.0))
    return np.asarray(np.maximum(np.rint(shares * finest), 1), dtype=np.int64)
