"""KaHIP: parts of equal weight that cut little, by flows and better local search. Optional extra `kahip`.

Sanders and Schulz, "Think locally, act globally: highly balanced graph partitioning", SEA 2013.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph import plugins
from netgraph.coarsen.coarseners.metis import scale_to_integers
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.partition.constraints import aggregate_with_constraints
from netgraph.coarsen.partition.multilevel import keep_strongest_edges

IMBALANCE = 0.03  # KaHIP's default
NEIGHBORS = 16  # heaviest edges of each unit that count: with all pairs 256 units took longer than is sensible
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
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.

    Raises
    ------
    PluginError
        KaHIP is not installed.
    """
    library = plugins.import_library("kahip", called="KaHIP", plugin="coarsener 'kahip'")
    return aggregate_with_constraints(lambda part, k: _partition_with_kahip(library, part, k, seed), graph, n_coarse)


def _partition_with_kahip(library: Any, graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    adjacency = keep_strongest_edges(graph.adjacency, NEIGHBORS)
    _, parts = library.kaffpa(
        scale_to_integers(graph.weight).tolist(),
        adjacency.indptr.tolist(),
        scale_to_integers(adjacency.data).tolist(),
        adjacency.indices.tolist(),
        n_parts,
        IMBALANCE,
        True,
        seed % 2**31,
        library.ECO,
    )
    return np.asarray(parts, dtype=np.int64)


def mtkahypar(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Return aggregates of nearly equal weight between which the affinities are small.

    Parameters
    ----------
    graph : AxisGraph
        Its weights are balanced.
    n_coarse : int
    seed : int
        Orders the vertices: Mt-KaHyPar's deterministic way does not hear its own seed.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        As `netgraph.coarsen.partition.constraints.aggregate_with_constraints` says.

    Raises
    ------
    PluginError
        Mt-KaHyPar is not installed.
    """
    library = plugins.import_library("mtkahypar", called="Mt-KaHyPar", plugin="coarsener 'mtkahypar'")
    return aggregate_with_constraints(
        lambda part, k: _partition_with_mtkahypar(library, part, k, seed), graph, n_coarse
    )


def _partition_with_mtkahypar(library: Any, graph: AxisGraph, n_parts: int, seed: int) -> Ints:
    order = np.random.default_rng(seed).permutation(graph.n_units)
    edges = sparse.triu(keep_strongest_edges(graph.adjacency, NEIGHBORS)[order][:, order], 1, format="coo")
    ends, weight = np.stack([edges.row, edges.col], axis=1), scale_to_integers(graph.weight[order])
    engine = _start_engine(library)
    context = engine.context_from_preset(library.PresetType.DETERMINISTIC_QUALITY)
    context.logging = False
    context.set_partitioning_parameters(n_parts, _allow_imbalance(weight, n_parts), library.Objective.CUT)
    network = engine.create_graph(
        context, graph.n_units, len(ends), ends.tolist(), weight.tolist(), scale_to_integers(edges.data).tolist()
    )
    parts = np.empty(graph.n_units, dtype=np.int64)
    parts[order] = network.partition(context).get_partition()
    return parts


def _allow_imbalance(weight: Ints, n_parts: int) -> float:
    """Return KaHIP's default, or what the heaviest unit needs: without room for it all others share one part."""
    return max(IMBALANCE, float((weight.max() + 1) * n_parts / weight.sum()) - 1)


@cache
def _start_engine(library: Any) -> Any:
    """Start Mt-KaHyPar, which a process can do once, on as many threads as torch has at that time."""
    return library.initialize(torch.get_num_threads(), False)
