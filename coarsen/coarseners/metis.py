"""METIS: parts of equal weight that cut as little affinity as possible.

Karypis and Kumar, "Multilevel k-way partitioning scheme for irregular graphs", J. Parallel Distrib. Comput. 48(1), 1998.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError

PART = 16  # units per part from which the k-way mode is used: with two per part it puts all units into one part
TOTALS = {32: 2**30, 64: 2**52}  # largest sum of weights, by the bits of the integers in which METIS adds them up
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
    """Return the parts of a graph. A unit that weighs more than its share is a part of its own.

    METIS would bisect an empty graph there, and write about it to the standard output.
    """
    weights = scale_to_integers(graph.weight)
    heavy = _find_heavy_units(weights, n_parts)
    parts, rest = np.zeros(graph.n_units, dtype=np.int64), np.delete(np.arange(graph.n_units), heavy)
    parts[heavy] = np.arange(len(heavy))
    adjacency = graph.adjacency[rest][:, rest].tocsr()
    parts[rest] = len(heavy) + _call_metis(adjacency, weights[rest], n_parts - len(heavy), seed)
    return parts


def _find_heavy_units(weights: Ints, n_parts: int) -> Ints:
    """Return the units that weigh more than an equal share of what the heavier ones leave, the heaviest first."""
    order = np.argsort(-weights, kind="stable")
    left, n_left = int(weights.sum()), n_parts
    for number, unit in enumerate(order):
        if n_left == 1 or int(weights[unit]) * n_left <= left:
            return order[:number]
        left, n_left = left - int(weights[unit]), n_left - 1
    return order


def _call_metis(adjacency: sparse.csr_array, weights: Ints, n_parts: int, seed: int) -> Ints:
    """Return the parts of ``part_graph`` for integer weights of units."""
    pymetis = import_package("pymetis", "coarsener 'metis'", PluginError)

    n = len(weights)
    if n_parts in (1, n) or not adjacency.nnz:
        return np.arange(n, dtype=np.int64) % n_parts
    integer = pymetis.zero_copy_dtype()
    _, parts = pymetis.part_graph(
        n_parts,
        pymetis.CSRAdjacency(adjacency.indptr.astype(integer), adjacency.indices.astype(integer)),
        vweights=weights.astype(integer),
        eweights=scale_to_integers(adjacency.data).astype(integer),
        recursive=n < PART * n_parts,
        options=pymetis.Options(seed=seed % 2**31),
    )
    return np.asarray(parts, dtype=np.int64)


def scale_to_integers(weights: NDArray[np.floating], bits: int | None = None) -> Ints:
    """Return positive integers in the ratios of the weights.

    Parameters
    ----------
    weights : float array
    bits : int, optional
        Of the integers in which the library adds them up, 32 or 64. By default those of the installed METIS.

    Returns
    -------
    int array
        Their sum fits the library's integers. The heaviest weight is at most 2**20.
    """
    if bits is None:
        pymetis = import_package("pymetis", "coarsener 'metis'", PluginError)

        bits = np.iinfo(pymetis.zero_copy_dtype()).bits
    shares = weights / weights.max()
    finest = min(FINEST, TOTALS[bits] / max(float(shares.sum(dtype=np.float64)), 1.0))
    return np.asarray(np.maximum(np.rint(shares * finest), 1), dtype=np.int64)
