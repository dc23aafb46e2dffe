"""KaHIP and Mt-KaHyPar: partitioners that cut less than METIS and take longer (extras ``kahip`` and ``mtkahypar``).

Both see the heaviest edges of each unit only, take integer weights, and balance the weights of the parts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.coarseners.metis import scale_to_integers
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import keep_strongest_edges
from netgraph.environment.optional_packages import import_package
from netgraph.errors import PluginError
from netgraph.utils.seeds import make_random

BITS = 32  # of the integers in which both libraries add up weights
IMBALANCE = 0.03  # default of KaHIP
NEIGHBORS = 16  # heaviest edges of each unit that are kept: partitioning all pairs of 256 units took too long
Ints = NDArray[np.int64]


def kahip(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Partition the graph with KaHIP: parts of nearly equal weight and a small cut.

    KaHIP contracts the graph, partitions the smallest graph, and improves the cut on the way back by local search and
    maximum flows [1]_. Its preset ``eco`` is used, on the 16 heaviest edges of each unit.

    Parameters
    ----------
    graph : AxisGraph
        Its weights are balanced to within 3 %.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Seed of KaHIP.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    PluginError
        KaHIP is not installed.
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    A level costs O(m) time for m edges. On meshes a cut took 4 to 13 times as long as with METIS.

    References
    ----------
    .. [1] Sanders and Schulz, "Think locally, act globally: highly balanced graph partitioning", SEA 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, kahip
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> kahip(AxisGraph("path", path, np.ones(6)), 2)  # doctest: +SKIP
    array([0, 0, 0, 1, 1, 1])
    """
    library = import_package("kahip", "coarsener 'kahip'", PluginError)
    return aggregate_with_constraints(lambda part, k: _partition_with_kahip(library, part, k, seed), graph, n_coarse)


def _partition_with_kahip(library: Any, graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    """Return the parts of ``kaffpa``, which takes the graph as Python lists in METIS' format."""
    adjacency = keep_strongest_edges(graph.adjacency, NEIGHBORS)
    _, parts = library.kaffpa(
        scale_to_integers(graph.weight, BITS).tolist(),
        adjacency.indptr.tolist(),
        scale_to_integers(adjacency.data, BITS).tolist(),
        adjacency.indices.tolist(),
        n_parts,
        IMBALANCE,
        True,
        seed % 2**31,
        library.ECO,
    )
    return np.asarray(parts, dtype=np.int64)


def mtkahypar(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Partition the graph with Mt-KaHyPar: parts of nearly equal weight and a small cut.

    Mt-KaHyPar contracts the graph level by level and refines the partition on every level on the way back [1]_. Its
    deterministic preset is used, with one answer on any number of threads [2]_, on the 16 heaviest edges of each unit.

    Parameters
    ----------
    graph : AxisGraph
        Its weights are balanced to within 3 %, or to the room that the heaviest unit needs.
    n_coarse : int
        Number of aggregates.
    seed : int, default 0
        Draws the order of the vertices, because the deterministic preset ignores the seed of Mt-KaHyPar.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Numbered from 0, exactly ``n_coarse`` of them unless units must stay alone. Units without an edge stay alone
        where the number allows it.

    Raises
    ------
    PluginError
        Mt-KaHyPar is not installed.
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    A level costs O(m) time for m edges. On meshes a cut took 20 to 75 times as long as with METIS.

    References
    ----------
    .. [1] Gottesbüren, Heuer, Maas, Sanders and Schlag, "Scalable high-quality hypergraph
       partitioning", ACM Trans. Algorithms 20(1), 2024.
    .. [2] Krause, Gottesbüren and Maas, "Deterministic parallel high-quality hypergraph partitioning", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, mtkahypar
    >>> weights = np.array([3.0, 3, 1, 3, 3])
    >>> path = sparse.csr_array(sparse.diags_array([weights, weights], offsets=[-1, 1]))
    >>> mtkahypar(AxisGraph("path", path, np.ones(6)), 2)  # doctest: +SKIP
    array([0, 0, 0, 1, 1, 1])
    """
    library = import_package("mtkahypar", "coarsener 'mtkahypar'", PluginError)
    return aggregate_with_constraints(
        lambda part, k: _partition_with_mtkahypar(library, part, k, seed), graph, n_coarse
    )


def _partition_with_mtkahypar(library: Any, graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    """Return the parts of the deterministic preset, with the vertices in random order."""
    order = make_random(seed).permutation(graph.n_units)
    edges = sparse.triu(keep_strongest_edges(graph.adjacency, NEIGHBORS)[order][:, order], 1, format="coo")
    ends, weight = np.stack([edges.row, edges.col], axis=1), scale_to_integers(graph.weight[order], BITS)
    engine = _start_engine(library)
    context = engine.context_from_preset(library.PresetType.DETERMINISTIC_QUALITY)
    context.logging = False
    context.set_partitioning_parameters(n_parts, _allow_imbalance(weight, n_parts), library.Objective.CUT)
    network = engine.create_graph(
        context, graph.n_units, len(ends), ends.tolist(), weight.tolist(), scale_to_integers(edges.data, BITS).tolist()
    )
    parts = np.empty(graph.n_units, dtype=np.int64)
    parts[order] = network.partition(context).get_partition()
    return parts


def _allow_imbalance(weight: Ints, n_parts: int) -> float:
    """Return 3 %, or the imbalance that makes room for the heaviest unit: without it all others share one part."""
    return max(IMBALANCE, float((weight.max() + 1) * n_parts / weight.sum()) - 1)


@cache
def _start_engine(library: Any) -> Any:
    """Start Mt-KaHyPar on as many threads as torch has now. A process can do so only once."""
    return library.initialize(torch.get_num_threads(), False)
