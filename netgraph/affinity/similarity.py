"""Affinities: how alike two units of one axis are, as a sparse symmetric matrix of edge weights.

Up to `DENSE` units every pair is compared (`netgraph.affinity.all_pairs`); beyond, each unit keeps its ``k`` nearest by blocked
products, so that no n × n matrix is ever formed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity, multiply_pairs, weigh_cosines
from netgraph.affinity.nearest_neighbors import Weigh, build_complete_graph, build_nearest_graph
from netgraph.errors import NetgraphError
from netgraph.utils.parallel import parallel_for, split_range

DENSE = 2048
NEIGHBORS = 32
TINY, HUGE = 1e-20, 1e30  # between these no square that counts is lost to single precision
PART = 1 << 18  # numbers of a matrix that a thread takes at once


def cosine_graph(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return ``(1 + cos) / 2`` between rows: their order is that of the cosine, and no edge is lost to a sign.

    A zero row has no edge: it is like nothing. Exact copies weigh exactly 1, other directions less.

    Parameters
    ----------
    features : array of shape (n, d)
    k : int, optional
        Neighbours that each unit keeps; by default all up to `DENSE` units, `NEIGHBORS` of more.
    seed : int
        Unused: nothing here is random.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal.

    Raises
    ------
    NetgraphError
        A feature is not finite, or ``k`` is below 1.
    """
    return cosine_affinity(features, k=k).tocsr()


def cosine_affinity(features: NDArray[Any], *, k: int | None = None) -> Affinity:
    """Return what `cosine_graph` does, as a dense matrix where every pair is compared."""
    x = _as_feature_matrix(features)
    if _compares_all_pairs(len(x), k):
        found = multiply_pairs(x)
        if not _squares_are_safe(x, found.diagonal()):
            x = normalize_rows(_check_finite(x))
            found = multiply_pairs(x)
        return weigh_cosines(found, lambda: _number_copies(normalize_rows(x)))
    alive, x = _row_maxima(_check_finite(x)) > 0, normalize_rows(x)

    def weigh(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        products += 1
        products /= 2
        return np.asarray(np.clip(products, 0, 1, out=products))

    return _build_graph(x, k, alive, weigh)


def radial_graph(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return ``exp(-|x - y|² / 2 s²)``, s² the median squared distance of a sample of pairs that differ.

    Parameters, and what a zero row and exact copies get, are those of `cosine_graph`; ``seed`` draws the sample.
    """
    x = _check_finite(_as_feature_matrix(features))
    alive = np.asarray(x.any(axis=1))
    x = x / _replace_zeros(np.abs(x).max(initial=0))
    x -= x.mean(axis=0) if len(x) else 0  # near the origin the differences of squares keep their digits
    squares = np.einsum("ij,ij->i", x, x)
    scale = _median_square(x[alive], seed)

    def weigh(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        products *= 2
        distance = squares[i, None] + squares[None, j]
        distance -= products
        np.maximum(distance, 0, out=distance)
        distance /= -2 * scale
        return np.asarray(np.exp(distance, out=distance))

    return _build_graph(x, k, alive, weigh)


def _median_square(x: NDArray[Any], seed: int) -> Any:
    if len(x) < 2:
        return x.dtype.type(1)
    i, j = np.random.default_rng(seed).integers(0, len(x), (2, 1000))
    squares = np.square(x[i] - x[j]).sum(axis=1)
    return np.median(squares[squares > 0]) if squares.any() else x.dtype.type(1)


def _replace_zeros(lengths: Any) -> Any:
    return np.where(lengths > 0, lengths, 1).astype(lengths.dtype)


def _as_feature_matrix(features: NDArray[Any]) -> NDArray[Any]:
    if features.ndim != 2:
        raise NetgraphError(f"features have shape {features.shape}; affinities need one row a unit: (n_units, d)")
    return np.ascontiguousarray(features, dtype=np.float32 if features.dtype != np.float64 else np.float64)


def _compares_all_pairs(n: int, k: int | None) -> bool:
    """Tell whether every pair is compared."""
    if k is not None and k < 1:
        raise NetgraphError(f"k is {k}; a unit keeps at least one neighbour")
    return n <= DENSE and (k is None or k >= n - 1)


def _squares_are_safe(x: NDArray[Any], squares: NDArray[Any]) -> bool:
    """Tell whether all squares of rows are finite, and none lost what counts; zero they may be where the row is."""
    zero = squares == 0
    if not ((squares > TINY) & (squares < HUGE) | zero).all():
        return False
    return not (zero.any() and x[zero].any())


def find_directions(features: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return rows of length one, (n, d), and which have a direction, (n,); rows of zeros stay.

    Raises
    ------
    NetgraphError
        A feature is not finite.
    """
    x = _check_finite(_as_feature_matrix(features))
    return normalize_rows(x), _row_maxima(x) > 0


def _check_finite(x: NDArray[Any]) -> NDArray[Any]:
    largest = _row_maxima(x)
    if not np.isfinite(largest).all():
        raise NetgraphError(
            f"unit {int((~np.isfinite(largest)).argmax())} has weights that are not finite; affinities need finite ones: "
            "mend the network"
        )
    return x


def _row_maxima(x: NDArray[Any]) -> NDArray[Any]:
    """Return the largest magnitude of each row, not finite where an entry is not."""
    bits = _view_bits(x)
    largest = np.zeros(len(x), dtype=bits.dtype)
    parallel_for(lambda s: _max_row_bits(bits, largest, s.start, s.stop), _split_rows(x))
    return largest.view(x.dtype)


def _split_rows(x: NDArray[Any]) -> list[slice]:
    return split_range(len(x), max(1, PART // max(1, x.shape[1])))


def _view_bits(x: NDArray[Any]) -> NDArray[Any]:
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


@njit(nogil=True, cache=True)
def _max_row_bits(bits: Any, largest: Any, lo: Any, hi: Any) -> Any:
    """Compare magnitudes as integers: they have one order, with infinity and what is no number at its end."""
    magnitude = ~(bits.dtype.type(1) << bits.dtype.type(8 * bits.itemsize - 1))
    for r in range(lo, hi):
        most = bits.dtype.type(0)
        for c in range(bits.shape[1]):
            most = max(most, bits[r, c] & magnitude)
        largest[r] = most


def normalize_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Return rows of length one; rows of zeros stay."""
    largest, out = _replace_zeros(_row_maxima(x)), np.empty_like(x)
    parallel_for(lambda s: _normalize_span(x, largest, out, s.start, s.stop), _split_rows(x))
    return out


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _normalize_span(x: Any, largest: Any, out: Any, lo: Any, hi: Any) -> Any:
    for r in range(lo, hi):
        square = x.dtype.type(0)
        for c in range(x.shape[1]):
            out[r, c] = x[r, c] / largest[r]  # or the squares of large numbers overflow
            square += out[r, c] * out[r, c]
        length = np.sqrt(square) if square > 0 else x.dtype.type(1)
        for c in range(x.shape[1]):
            out[r, c] /= length


def _build_graph(x: NDArray[Any], k: int | None, alive: NDArray[Any], weigh: Weigh) -> sparse.csr_array:
    weigh = _weigh_copies_as_one(weigh, _number_copies(x), alive)
    return (
        build_complete_graph(x, weigh)
        if _compares_all_pairs(len(x), k)
        else build_nearest_graph(x, min(k or NEIGHBORS, len(x) - 1), weigh)
    )


def _weigh_copies_as_one(weigh: Weigh, copies: NDArray[np.int64] | None, alive: NDArray[Any]) -> Weigh:
    """Give copies the weight 1 and all others less, whatever the products were rounded to; the dead, none."""
    all_alive = bool(alive.all())

    def weigh_exactly(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        one = products.dtype.type(1)
        weights = weigh(products, i, j)
        np.minimum(weights, np.nextafter(one, 0 * one), out=weights)
        if copies is not None:
            some = np.flatnonzero(copies[i] >= 0)
            weights[some] = np.where(copies[i][some, None] == copies[None, j], one, weights[some])
        if not all_alive:
            weights[~alive[i]] = 0
            weights[:, ~alive[j]] = 0
        return weights

    return weigh_exactly


def _number_copies(x: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return a number for each row that its copies share, -1 where it has none; None where no two rows are alike.

    Rows are compared by a sum of their bits with random odd factors, and only those that agree are compared whole.
    """
    if not x.size:
        return None
    bits = _view_bits(x)
    factors = np.random.default_rng(0).integers(0, 2**63, x.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    sums = np.empty(len(x), dtype=np.uint64)
    parallel_for(lambda s: _hash_rows(bits, factors, sums, s.start, s.stop), _split_rows(x))
    some = _find_repeats(sums)[0]
    if not len(some):
        return None
    rows = np.ascontiguousarray(x[some] + 0)  # -0 becomes 0
    alike, number = _find_repeats(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel())
    copies = np.full(len(x), -1, dtype=np.int64)
    copies[some[alike]] = number
    return copies if len(alike) else None


def _find_repeats(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where values stand that occur more than once, and a number for each that its equals share."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    where = np.flatnonzero(count[number] > 1)
    return where, number[where]


@njit(nogil=True, cache=True)
def _hash_rows(bits: Any, factors: Any, sums: Any, lo: Any, hi: Any) -> Any:
    sign = bits.dtype.type(1) << bits.dtype.type(8 * bits.itemsize - 1)
    for r in range(lo, hi):
        total = np.uint64(0)
        for c in range(bits.shape[1]):
            entry = np.uint64(bits[r, c] if bits[r, c] != sign else bits.dtype.type(0))
            total += factors[c] * (entry ^ (entry >> np.uint64(32)))  # or two signs of doubles would cancel
        sums[r] = total
