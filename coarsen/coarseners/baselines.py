"""Adjacent units: the baseline that goes by numbers alone, as multi-level training of transformers does.

Zou, Zhang and Sun, "A multi-level framework for accelerating training transformer models", ICLR 2024, merge neurons by fixed
matrices, whatever they compute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import check_equal_sizes, renumber_labels
from netgraph.coarsen.partition.contract import declare_traits


@declare_traits(ignores_edges=True)
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
        check_equal_sizes(graph, n_coarse)
    aggregates = np.arange(graph.n_units)
    free = aggregates if graph.fixed is None else np.flatnonzero(~graph.fixed)
    n_free = min(max(n_coarse - (graph.n_units - len(free)), 1), len(free))  # aggregates left for them
    if n_free:
        aggregates[free] = free[np.arange(len(free)) * n_free // len(free)]
    return renumber_labels(aggregates)


@declare_traits(leaves_out=True, ignores_edges=True)
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


@declare_traits(ignores_edges=True)
def random_pairs(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return aggregates whose sizes differ by at most one and whose members are drawn at random.

    Units that must stay alone do. Where sizes must be equal and ``n_coarse`` does not divide the number of units,
    `AggregatesError` is raised.
    """
    if graph.equal:
        check_equal_sizes(graph, n_coarse)
    aggregates = np.arange(graph.n_units)
    free = aggregates if graph.fixed is None else np.flatnonzero(~graph.fixed)
    n_free = min(max(n_coarse - (graph.n_units - len(free)), 1), len(free))  # aggregates left for them
    if n_free:
        aggregates[free] = free[np.random.default_rng(seed).permutation(np.arange(len(free)) % n_free)]
    return renumber_labels(aggregates)
