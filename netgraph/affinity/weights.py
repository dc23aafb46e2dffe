"""The affinities that can be asked for by name: which numbers of the units are compared, and how.

Each is ``(units, *, seed) -> csr``, with ``units`` an `AxisUnits`, or gives `AllPairs` where all pairs of a small axis
are compared; the graphs are made in `netgraph.affinity.similarity`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity import similarity as affinity
from netgraph.affinity.all_pairs import Affinity
from netgraph.graph.axis_units import AxisUnits


def cosine(units: AxisUnits, *, seed: int = 0) -> Affinity:
    """Compare the directions of incoming weights and bias: what a positive factor makes of a ReLU unit does not count."""
    return affinity.cosine_affinity(units.incoming)


def radial(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare incoming weights and bias by distance, with a radial basis function."""
    return affinity.radial_graph(units.incoming, seed=seed)


def both(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare directions of incoming and of outgoing weights: the mean of both cosines."""
    return affinity.cosine_graph(
        np.concatenate([_normalize_rows(units.incoming), _normalize_rows(units.outgoing)], 1), seed=seed
    )


def normed(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare directions of incoming weights and bias with the batch norm that follows folded in."""
    return affinity.cosine_graph(units.normed, seed=seed)


def correlation(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare activations on calibration data: ``(1 + Pearson's correlation) / 2``.

    Li et al., "Convergent learning: do different neural networks learn the same representations?", ICLR 2016, section 2.
    """
    found = units.activations
    return affinity.cosine_graph(found - found.mean(axis=1, keepdims=True), seed=seed)


def relu(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare ReLU units whatever their scales: likeness of incoming directions times likeness of outgoing ones.

    A ReLU unit with incoming w and outgoing a is the unit w / |w| with outgoing a |w|, so only directions say what it
    is. Both are ``(1 + cos) / 2``, over the pairs that `cosine` joins; where nothing reads the units it is `cosine`.
    """
    graph = affinity.cosine_graph(units.incoming, seed=seed)
    if not units.outgoing.size:
        return graph
    out = _normalize_rows(units.outgoing)
    i, j = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)), graph.indices
    alike = np.concatenate([_pair_dots(out, i[s], j[s]) for s in _split_edges(len(i))] or [np.zeros(0, out.dtype)])
    weights = graph.data * np.clip((1 + alike) / 2, 0, 1)
    return sparse.csr_array((weights, graph.indices, graph.indptr), shape=graph.shape)


def _pair_dots(x: NDArray[Any], i: NDArray[Any], j: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.einsum("ed,ed->e", x[i], x[j]))


def _split_edges(n: int, size: int = 8192) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def _normalize_rows(x: NDArray[Any]) -> NDArray[Any]:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(lengths > 0, lengths, 1))
