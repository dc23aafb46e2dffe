"""Affinities of channels that compare kernels as spatial patterns, up to a shift by some pixels.

Two filters that detect one pattern a pixel apart give one feature map shifted by a pixel. Compared entry by entry, their
kernels may look unlike. `shifted` takes the best cosine over small shifts. `fourier` compares magnitudes of spectra, which
do not change under shifts. Merging averages kernels in place, without moving them. These affinities therefore find related
filters, and `cosine`, the default, finds filters that average with little loss.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from netgraph.affinity.all_pairs import Affinity
from netgraph.affinity.similarity import cosine_affinity, cosine_graph
from netgraph.graph.axis_units import AxisUnits

REACH = 1  # pixels in every direction
ROWS = 32  # rows of products that are computed at a time


def shifted(units: AxisUnits, *, seed: int = 0, reach: int = REACH) -> sparse.csr_array:
    """Compare kernels by the largest ``(1 + cos) / 2`` over shifts of up to ``reach`` pixels.

    Entries that a shift moves out of the window are lost. Where several layers make the same units, all kernels shift alike.
    Units without spatial weights are compared by `cosine`. On axes of more than `netgraph.affinity.similarity.DENSE` units,
    only the pairs that `cosine` joins are compared.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.
    reach : int, default=1
        Largest shift in pixels, in every spatial direction.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal.
    """
    graph = cosine_graph(units.incoming, seed=seed)
    kernels = find_kernels(units)
    if not any(kernel.ndim > 2 for kernel in kernels):
        return graph
    rows = _flatten_kernels(kernels)
    lengths = np.linalg.norm(rows, axis=1)
    i, j = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)), graph.indices
    best = np.full(len(i), -1.0, dtype=rows.dtype)
    for shift in product(range(-reach, reach + 1), repeat=max(kernel.ndim for kernel in kernels) - 2):
        moved = _flatten_kernels([_shift_kernel(kernel, shift) for kernel in kernels])
        np.maximum(best, _pair_cosines(rows, moved, lengths, i, j), out=best)
    weights = np.clip((1 + best) / 2, 0, 1)
    directed = sparse.csr_array((weights, graph.indices, graph.indptr), shape=graph.shape)
    return sparse.csr_array(directed.maximum(directed.T))  # both directions are rounded differently


def fourier(units: AxisUnits, *, seed: int = 0) -> Affinity:
    """Compare the magnitudes of the discrete Fourier transforms of kernels, zero-padded to twice their size, without the bias.

    A shift changes only the phases. So does a change of sign of a whole kernel, which this affinity does not see either.

    Parameters
    ----------
    units : AxisUnits
        Units of one axis.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array or AllPairs of shape (n_units, n_units)
        ``(1 + cos) / 2`` of the magnitudes. Symmetric, zero diagonal.

    References
    ----------
    Oppenheim and Schafer, "Discrete-time signal processing", 3rd ed., section 8.6.
    """
    kernels = find_kernels(units)
    if not any(kernel.ndim > 2 for kernel in kernels):
        return cosine_affinity(units.incoming)
    return cosine_affinity(_flatten_kernels([_spectrum_magnitudes(kernel) for kernel in kernels]))


def find_kernels(units: AxisUnits) -> list[Tensor]:
    """Return the weights that make the units of an axis, each (n_units, incoming, *space). The list may be empty."""
    kernels = []
    for name, terms in units.spec.parameters.items():
        tensor = units.state[name]
        made = terms and terms[0] == (units.axis,) and units.axis not in units.spec.sums.get((name, 0), ())
        if made and tensor.ndim > 1 and tensor.is_floating_point():
            kernels.append(tensor.detach().to("cpu", torch.float32))
    return kernels


def _flatten_kernels(kernels: list[Tensor]) -> NDArray[Any]:
    """Return one row of numbers a unit, (n_units, all entries of its kernels)."""
    return torch.cat([kernel.flatten(1) for kernel in kernels], 1).numpy()


def _shift_kernel(kernel: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Return a kernel shifted along its spatial dimensions and filled with zeros. A kernel without space is unchanged."""
    for dim, by in enumerate(shift[: max(kernel.ndim - 2, 0)], start=2):
        n = kernel.shape[dim]
        kept = kernel.narrow(dim, min(max(-by, 0), n), max(n - abs(by), 0))
        lost = kernel.new_zeros([*kernel.shape[:dim], min(abs(by), n), *kernel.shape[dim + 1 :]])
        kernel = torch.cat([lost, kept] if by > 0 else [kept, lost], dim)
    return kernel


def _spectrum_magnitudes(kernel: Tensor) -> Tensor:
    """Return the magnitudes of a kernel's zero-padded spectrum. A kernel without space is unchanged."""
    if kernel.ndim < 3:
        return kernel
    spectrum: Tensor = torch.fft.rfftn(kernel, s=[2 * n for n in kernel.shape[2:]], dim=tuple(range(2, kernel.ndim)))
    return spectrum.abs()


def _pair_cosines(
    still: NDArray[Any], moved: NDArray[Any], lengths: NDArray[Any], i: NDArray[Any], j: NDArray[Any]
) -> NDArray[Any]:
    """Return <still_i, moved_j> / (|still_i| |still_j|) for pairs, a block of rows at a time."""
    out = np.empty(len(i), dtype=still.dtype)
    starts = np.searchsorted(i, np.arange(0, len(still) + ROWS, ROWS))
    for row, (start, stop) in enumerate(pairwise(starts)):
        part = slice(start, stop)
        block = still[row * ROWS : (row + 1) * ROWS] @ moved.T
        out[part] = block[i[part] - row * ROWS, j[part]]
    out /= np.maximum(lengths[i] * lengths[j], 1e-30)
    return out
