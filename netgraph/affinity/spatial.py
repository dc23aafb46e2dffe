"""Affinities of channels whose kernels are compared as patterns in space: one may be the other moved by a pixel.

Two filters that see one pattern a pixel apart give one feature map, moved by a pixel; compared number by number they may look
unlike. `shifted` takes the best of all small shifts, `fourier` the magnitudes of the kernels' spectra, which a shift leaves
as they are. Neither moves a kernel: what merges is averaged where it stands, so that these find kin among filters, and
`cosine`, the default, what averages without loss.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from netgraph.affinity import similarity as affinity
from netgraph.affinity.all_pairs import Affinity
from netgraph.graph.axis_units import AxisUnits

REACH = 1  # pixels in every direction


def shifted(units: AxisUnits, *, seed: int = 0, reach: int = REACH) -> sparse.csr_array:
    """Compare kernels by the largest ``(1 + cos) / 2`` over shifts of up to ``reach`` pixels, what leaves the window lost.

    Where the same units are made by several layers all of them shift alike. Units whose weights have no space, and pairs
    that `cosine` does not join on axes of more than `netgraph.affinity.similarity.DENSE` units, are compared as `cosine` does.
    """
    graph = affinity.cosine_graph(units.incoming, seed=seed)
    kernels = find_kernels(units)
    if not any(kernel.ndim > 2 for kernel in kernels):
        return graph
    still = _flatten_kernels(kernels)
    lengths = np.linalg.norm(still, axis=1)
    i, j = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)), graph.indices
    best = np.full(len(i), -1.0, dtype=still.dtype)
    for shift in product(range(-reach, reach + 1), repeat=max(kernel.ndim for kernel in kernels) - 2):
        moved = _flatten_kernels([_shift_kernel(kernel, shift) for kernel in kernels])
        np.maximum(best, _pair_cosines(still, moved, lengths, i, j), out=best)
    weights = np.clip((1 + best) / 2, 0, 1)
    found = sparse.csr_array((weights, graph.indices, graph.indptr), shape=graph.shape)
    return sparse.csr_array(found.maximum(found.T))  # one rounding for both directions


def fourier(units: AxisUnits, *, seed: int = 0) -> Affinity:
    """Compare the magnitudes of kernels' discrete Fourier transforms, zero-padded to twice their size, with the bias left out.

    A shift changes phases alone (Oppenheim and Schafer, "Discrete-time signal processing", 3rd ed., section 8.6); so does
    a change of sign of a whole kernel, which is then not seen either.
    """
    kernels = find_kernels(units)
    if not any(kernel.ndim > 2 for kernel in kernels):
        return affinity.cosine_affinity(units.incoming)
    return affinity.cosine_affinity(_flatten_kernels([_spectrum_magnitudes(kernel) for kernel in kernels]))


def find_kernels(units: AxisUnits) -> list[Tensor]:
    """Return the weights that make the units of an axis, each (n_units, incoming, *space); none where nothing makes them."""
    found = []
    for name, terms in units.spec.parameters.items():
        tensor = units.state[name]
        made = terms and terms[0] == (units.axis,) and units.axis not in units.spec.sums.get((name, 0), ())
        if made and tensor.ndim > 1 and tensor.is_floating_point():
            found.append(tensor.detach().to("cpu", torch.float32))
    return found


def _flatten_kernels(kernels: list[Tensor]) -> NDArray[Any]:
    return torch.cat([kernel.flatten(1) for kernel in kernels], 1).numpy()


def _shift_kernel(kernel: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Return a kernel moved along its last dimensions, zeros where nothing comes in; a kernel without space stays."""
    for dim, by in enumerate(shift[: max(kernel.ndim - 2, 0)], start=2):
        n = kernel.shape[dim]
        kept = kernel.narrow(dim, min(max(-by, 0), n), max(n - abs(by), 0))
        lost = kernel.new_zeros([*kernel.shape[:dim], min(abs(by), n), *kernel.shape[dim + 1 :]])
        kernel = torch.cat([lost, kept] if by > 0 else [kept, lost], dim)
    return kernel


def _spectrum_magnitudes(kernel: Tensor) -> Tensor:
    if kernel.ndim < 3:
        return kernel
    spectrum: Tensor = torch.fft.rfftn(kernel, s=[2 * n for n in kernel.shape[2:]], dim=tuple(range(2, kernel.ndim)))
    return spectrum.abs()


def _pair_cosines(
    still: NDArray[Any], moved: NDArray[Any], lengths: NDArray[Any], i: NDArray[Any], j: NDArray[Any]
) -> NDArray[Any]:
    """Return <still_i, moved_j> / (|still_i| |still_j|) for pairs, a slice of rows at a time."""
    out = np.empty(len(i), dtype=still.dtype)
    starts = np.searchsorted(i, np.arange(0, len(still) + affinity.NEIGHBORS, affinity.NEIGHBORS))
    for row, (start, stop) in enumerate(pairwise(starts)):
        part = slice(start, stop)
        block = still[row * affinity.NEIGHBORS : (row + 1) * affinity.NEIGHBORS] @ moved.T
        out[part] = block[i[part] - row * affinity.NEIGHBORS, j[part]]
    out /= np.maximum(lengths[i] * lengths[j], 1e-30)
    return out
