"""Baselines that ignore the affinities: adjacent units, random groups, and pruning by magnitude or importance.

A method that reads the graph should do better than the first two. The third merges nothing: it leaves units out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.labels import renumber_labels
from netgraph.coarsen.partition.constraints import free_and_count
from netgraph.coarsen.partition.contract import declare_traits
from netgraph.utils.seeds import make_random

Ints = NDArray[np.int64]


@declare_traits(ignores_edges=True)
def adjacent(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge runs of consecutive units.

    The units are cut into ``n_coarse`` runs, with sizes that differ by at most one. Multi-level training of transformers
    merges neurons in this way, by fixed matrices [1]_.

    Parameters
    ----------
    graph : AxisGraph
        Only the number of units and the constraints are read.
    n_coarse : int
        Number of aggregates. There are more only if more units must stay alone.
    seed : int, default 0
        Not used.

    Returns
    -------
    aggregates : int array of shape (n_units,)

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(n) time.

    References
    ----------
    .. [1] Zou, Zhang and Deng, "A multi-level framework for accelerating training transformer models",
       ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, adjacent
    >>> adjacent(AxisGraph("fc1", sparse.csr_array((5, 5)), np.ones(5)), 2)
    array([0, 0, 0, 1, 1])
    """
    aggregates = np.arange(graph.n_units)
    free, n_free = free_and_count(graph, n_coarse)
    if n_free:
        aggregates[free] = free[np.arange(len(free)) * n_free // len(free)]
    return renumber_labels(aggregates)


@declare_traits(ignores_edges=True)
def random_pairs(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Merge units at random.

    The members of each aggregate are drawn without replacement, and sizes differ by at most one. At half the units the
    aggregates are random pairs.

    Parameters
    ----------
    graph : AxisGraph
        Only the number of units and the constraints are read.
    n_coarse : int
        Number of aggregates. There are more only if more units must stay alone.
    seed : int, default 0
        Draws the members.

    Returns
    -------
    aggregates : int array of shape (n_units,)

    Raises
    ------
    AggregatesError
        ``graph.equal`` is set, and ``n_coarse`` does not divide the number of units or a unit must stay alone.

    Notes
    -----
    O(n) time.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, random_pairs
    >>> random_pairs(AxisGraph("fc1", sparse.csr_array((6, 6)), np.ones(6)), 3)
    array([0, 1, 1, 2, 0, 2])
    """
    aggregates = np.arange(graph.n_units)
    free, n_free = free_and_count(graph, n_coarse)
    if n_free:
        aggregates[free] = free[make_random(seed).permutation(np.arange(len(free)) % n_free)]
    return renumber_labels(aggregates)


@declare_traits(leaves_out=True, ignores_edges=True)
def magnitude(graph: AxisGraph, n_coarse: int, *, seed: int = 0) -> Ints:
    """Keep the most important units and leave out all others, as magnitude pruning does.

    Without importances the size of a unit is the 2-norm of its features. The filters of convolutions are pruned in this way by their
    1-norm [1]_.

    Parameters
    ----------
    graph : AxisGraph
        Its importances are read, or else its features, and the units that must stay alone are kept. Edges and weights are not used.
    n_coarse : int
        Number of units that are kept. There are more only if more units must stay alone.
    seed : int, default 0
        Not used. Of equal units the first unit is kept.

    Returns
    -------
    aggregates : int array of shape (n_units,)
        Kept units are numbered in their order. A unit that is left out has -1.

    Notes
    -----
    O(n d + n log n) time for n units with d features.

    References
    ----------
    .. [1] Li, Kadav, Durdanovic, Samet and Graf, "Pruning filters for efficient ConvNets", ICLR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from netgraph.coarsen import AxisGraph, magnitude
    >>> features = np.array([[3.0], [-5.0], [0.0], [4.0]])
    >>> magnitude(AxisGraph("fc1", sparse.csr_array((4, 4)), np.ones(4), lambda: features), 2)
    array([-1,  0, -1,  1])
    """
    if graph.importance is None:
        ranks = np.linalg.norm(np.asarray(graph.features, dtype=np.float64), axis=1)
    else:
        ranks = np.array(graph.importance, dtype=np.float64)
    if graph.fixed is not None:
        ranks[graph.fixed] = np.inf
        n_coarse = max(n_coarse, int(graph.fixed.sum()))
    kept = np.sort(np.argsort(-ranks, kind="stable")[:n_coarse])
    aggregates = np.full(graph.n_units, -1, dtype=np.int64)
    aggregates[kept] = np.arange(len(kept))
    return aggregates
