"""Named affinities on weights: each compares the units of one axis by some of their numbers.

An affinity is a function ``(units, *, seed) -> graph`` with ``units`` an `AxisUnits`. The graph is sparse, or an
`AllPairs` where every pair of a small axis is compared. `netgraph.affinity.similarity` builds both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity
from netgraph.affinity.similarity import cosine_affinity, cosine_graph, normalize_rows, radial_graph
from netgraph.graph.axis_units import AxisUnits
from netgraph.utils.parallel import split_range

EDGES = 8192  # edges whose rows are gathered at a time


def cosine(units: AxisUnits, *, seed: int = 0) -> Affinity:
    """Compare the directions of incoming weights and bias.

    A positive factor on the weights of a ReLU unit changes its scale only, and the cosine does not see it.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis, with ``incoming`` of shape (n_units, d).
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array or AllPairs of shape (n_units, n_units)
        ``(1 + cos) / 2``. Symmetric, zero diagonal.

    Examples
    --------
    >>> import torch, netgraph as ng
    >>> from netgraph.affinity import cosine
    >>> from netgraph.graph import AxisUnits
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    >>> units = AxisUnits(ng.trace(model, torch.ones(1, 2)), model.state_dict(), axis="0")
    >>> cosine(units).toarray()
    array([[0. , 1. , 0.5],
           [1. , 0. , 0.5],
           [0.5, 0.5, 0. ]], dtype=float32)
    """
    return cosine_affinity(units.incoming)


def radial(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare incoming weights and bias by distance, with a radial basis function.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Draws pairs. Their median distance is the width of the function.

    Returns
    -------
    csr_array of shape (n_units, n_units)
        ``exp(-|x - y|² / 2 s²)``. Symmetric, zero diagonal.
    """
    return radial_graph(units.incoming, seed=seed)


def both(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare the directions of incoming and of outgoing weights: the mean of the two cosines.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n_units, n_units)
        ``(1 + cos) / 2``, from 0 to 1. Symmetric, zero diagonal.
    """
    return cosine_graph(np.concatenate([normalize_rows(units.incoming), normalize_rows(units.outgoing)], 1), seed=seed)


def normed(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare the directions of incoming weights and bias, with the following batch norm folded in.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n_units, n_units)
        ``(1 + cos) / 2``. Symmetric, zero diagonal.
    """
    return cosine_graph(units.normed, seed=seed)


def correlation(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare activations on calibration data: ``(1 + r) / 2`` with r Pearson's correlation.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n_units, n_units)
        From 0 to 1. Symmetric, zero diagonal.

    References
    ----------
    Li et al., "Convergent learning: do different neural networks learn the same representations?", ICLR 2016, section 2.
    """
    activations = units.activations
    return cosine_graph(activations - activations.mean(axis=1, keepdims=True), seed=seed)


def relu(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare ReLU units regardless of their scales: similarity of incoming directions times that of outgoing ones.

    A ReLU unit with incoming w and outgoing a equals the unit w / |w| with outgoing a |w|. Only directions
    identify it. Both similarities are ``(1 + cos) / 2``, over the pairs that `cosine` joins. Where nothing reads the
    units, the result is that of `cosine`.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n_units, n_units)
        From 0 to 1. Symmetric, zero diagonal.

    Examples
    --------
    >>> import torch, netgraph as ng
    >>> from netgraph.affinity import relu
    >>> from netgraph.graph import AxisUnits
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    >>> _ = model[2].weight.data.copy_(torch.tensor([[1.0, -1.0, 1.0]]))  # units 0 and 1 act in opposite directions
    >>> units = AxisUnits(ng.trace(model, torch.ones(1, 2)), model.state_dict(), axis="0")
    >>> relu(units).toarray()
    array([[0. , 0. , 0.5],
           [0. , 0. , 0. ],
           [0.5, 0. , 0. ]], dtype=float32)
    """
    graph = cosine_graph(units.incoming, seed=seed)
    if not units.outgoing.size:
        return graph
    outgoing = normalize_rows(units.outgoing)
    i, j = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)), graph.indices
    cosines = [_pair_dots(outgoing, i[s], j[s]) for s in split_range(len(i), EDGES)] or [np.zeros(0, outgoing.dtype)]
    weights = graph.data * np.clip((1 + np.concatenate(cosines)) / 2, 0, 1)
    return sparse.csr_array((weights, graph.indices, graph.indptr), shape=graph.shape)


def _pair_dots(x: NDArray[Any], i: NDArray[Any], j: NDArray[Any]) -> NDArray[Any]:
    """Return the inner product of rows i[e] and j[e] for every edge e."""
    return np.asarray(np.einsum("ed,ed->e", x[i], x[j]))
