"""The affinities that can be asked for by name: which numbers of the units are compared, and how.

Each is ``(units, *, seed) -> csr``, with ``units`` an `AxisUnits`; the graphs are made in `netgraph.affinity`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph import affinity
from netgraph.units import AxisUnits


def cosine(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare the directions of incoming weights and bias: what a positive factor makes of a ReLU unit does not count."""
    return affinity.cosine(units.incoming, seed=seed)


def radial(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare incoming weights and bias by distance, with a radial basis function."""
    return affinity.radial(units.incoming, seed=seed)


def both(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare directions of incoming and of outgoing weights: the mean of both cosines."""
    return affinity.cosine(np.concatenate([_directions(units.incoming), _directions(units.outgoing)], 1), seed=seed)


def normed(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare directions of incoming weights and bias with the batch norm that follows folded in."""
    return affinity.cosine(units.normed, seed=seed)


def correlation(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare activations on calibration data: ``(1 + Pearson's correlation) / 2``.

    Li et al., "Convergent learning: do different neural networks learn the same representations?", ICLR 2016, section 2.
    """
    found = units.activations
    return affinity.cosine(found - found.mean(axis=1, keepdims=True), seed=seed)


def relu(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """Compare ReLU units by what merging two of them costs, whatever their scales.

    A ReLU unit with incoming w and outgoing a is the unit w / |w| with outgoing a |w|. Merging two such adds
    ``m_i m_j / (m_i + m_j) |w_i / |w_i| - w_j / |w_j||²`` to the variance within aggregates, with masses ``m = (|w| |a|)²``
    (Ward, 1963); the affinity is ``s / (s + cost)``, s the median cost, over the pairs that `cosine` joins.
    """
    graph = affinity.cosine(units.incoming, seed=seed)
    length = np.linalg.norm(units.incoming, axis=1) * (
        np.linalg.norm(units.outgoing, axis=1) if units.outgoing.size else 1
    )
    mass = np.square(length / max(length.max(initial=0), 1e-30)) + 1e-12
    i, j = np.repeat(np.arange(len(mass)), np.diff(graph.indptr)), graph.indices
    cost = mass[i] * mass[j] / (mass[i] + mass[j]) * 4 * (1 - graph.data)  # 2 - 2 cos = 4 (1 - affinity)
    scale = max(float(np.median(cost)) if len(cost) else 1.0, 1e-30)
    return sparse.csr_array((scale / (scale + cost), graph.indices, graph.indptr), shape=graph.shape)


def _directions(x: NDArray[Any]) -> NDArray[Any]:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(lengths > 0, lengths, 1))
