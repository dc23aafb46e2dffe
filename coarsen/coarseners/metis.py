"""METIS: parts of equal weight that cut as little affinity as possible.

Karypis and Kumar, "Multilevel k-way partitioning scheme for irregular graphs", J. Parallel Distrib. Comput. 48(1), 1998.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError

PART = 16  # units per part from which the k-way mode is used: with two per part it puts all units into one part
TOTAL = 2**30  # largest sum of weights, because METIS adds them up in 32 bits
FINEST = 2**20  # largest weight
Ints = NDArray[np.int64]


def metis(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Partition the graph with METIS: parts of nearly equal weight and a small cut.

    METIS contracts heavy-edge matchings until the graph is small, partitions that graph, and moves vertices between
    parts on the way back [1]_. Below 16 units per part it bisects recursively instead [2]_.

    Parameters
    ----------
    graph : AxisGraph
        Its weights are balanced.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Seed of METIS.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(m) time for m edges in the k-way mode, O(m log k) for k parts by bisection.

    References
    ----------
    .. [1] Karypis and Kumar, "Multilevel k-way partitioning scheme for irregular graphs", J. Parallel Distrib.
       Comput. 48(1), 1998.
    .. [2] Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs",
       SIAM J. Sci. Comput. 20(1), 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, metis
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> metis(AxisGraph("path", path, np.ones(6)), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    return aggregate_with_constraints(lambda part, k: _partition_with_metis(part, k, seed), graph, n_coarse)


def _partition_with_metis(graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    """Return the parts of ``part_graph`` with integer weights."""
    pymetis = import_package("pymetis", "coarsener 'metis'", PluginError)

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
    """Return positive integers in the ratios of the weights, with a sum that fits 32 bits."""
    shares = weights / weights.max()
    finest = min(FINEST, TOTAL / max(float(shares.sum(dtype=np.float64)), 1.0))
    return np.asarray(np.maximum(np.rint(shares * finest), 1), dtype=np.int64)
