"""Similarity matrices: how alike two units of one axis are, as a sparse symmetric matrix of edge weights.

Up to `DENSE` units every pair is compared (`netgraph.affinity.all_pairs`). On larger axes each unit keeps its ``k``
nearest neighbors, found by blocked products, and no n × n matrix is ever formed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity, multiply_pairs, weigh_cosines
from netgraph.affinity.nearest_neighbors import Weigh, build_complete_graph, build_nearest_graph
from netgraph.environment.kernel_cache import compile_kernel
from netgraph.errors import NetgraphError
from netgraph.utils.parallel import parallel_for, split_range
from netgraph.utils.seeds import make_random

DENSE = 2048
NEIGHBORS = 32
TINY, HUGE = 1e-20, 1e30  # squared lengths between these are precise in float32
PART = 1 << 18  # entries of a matrix that a thread takes at a time


def cosine_graph(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return ``(1 + cos) / 2`` between rows.

    The weights have the order of the cosines, and no edge is lost to a negative cosine. A zero row has no edge. Exact
    copies weigh exactly 1, and all other pairs less.

    Parameters
    ----------
    features : array of shape (n, d)
        One row a unit, float32 or float64. Other types are computed in float32.
    k : int, optional
        Neighbors that each unit keeps. By default all up to `DENSE` units, and `NEIGHBORS` on larger axes.
    seed : int, default=0
        Unused: the graph is deterministic.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal.

    Raises
    ------
    NetgraphError
        A feature is not finite, or ``k`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.affinity import cosine_graph
    >>> cosine_graph(np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]])).toarray()
    array([[0. , 0.5, 1. ],
           [0.5, 0. , 0.5],
           [1. , 0.5, 0. ]])
    """
    return cosine_affinity(features, k=k).tocsr()


def cosine_affinity(features: NDArray[Any], *, k: int | None = None) -> Affinity:
    """Return the weights of `cosine_graph`, as a dense `AllPairs` where every pair is compared.

    Parameters
    ----------
    features : array of shape (n, d)
        As in `cosine_graph`.
    k : int, optional
        As in `cosine_graph`.

    Returns
    -------
    csr_array or AllPairs of shape (n, n)

    Raises
    ------
    NetgraphError
        A feature is not finite, or ``k`` is below 1.
    """
    x = _as_feature_matrix(features)
    if _compares_all_pairs(len(x), k):
        products = multiply_pairs(x)
        if not _squares_are_safe(x, products.diagonal()):
            x = normalize_rows(_check_finite(x))
            products = multiply_pairs(x)
        return weigh_cosines(products, lambda: _number_copies(normalize_rows(x)))
    alive, x = _row_maxima(_check_finite(x)) > 0, normalize_rows(x)

    def weigh(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        products += 1
        products /= 2
        return np.asarray(np.clip(products, 0, 1, out=products))

    return _build_graph(x, k, alive, weigh)


def radial_graph(features: NDArray[Any], *, k: int | None = None, seed: int = 0) -> sparse.csr_array:
    """Return ``exp(-|x - y|² / 2 s²)`` between rows, with s² the median squared distance of sampled pairs that differ.

    Zero rows and exact copies are treated as in `cosine_graph`.

    Parameters
    ----------
    features : array of shape (n, d)
        One row a unit, float32 or float64. Other types are computed in float32.
    k : int, optional
        Neighbors that each unit keeps. By default all up to `DENSE` units, and `NEIGHBORS` on larger axes.
    seed : int, default=0
        Draws the sample of 1000 pairs.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, non-negative, zero diagonal.

    Raises
    ------
    NetgraphError
        A feature is not finite, or ``k`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.affinity import radial_graph
    >>> radial_graph(np.array([[1.0], [2.0], [2.0]])).toarray().round(3)
    array([[0.   , 0.607, 0.607],
           [0.607, 0.   , 1.   ],
           [0.607, 1.   , 0.   ]])
    """
    x = _check_finite(_as_feature_matrix(features))
    alive = np.asarray(x.any(axis=1))
    x = x / _replace_zeros(np.abs(x).max(initial=0))
    x -= x.mean(axis=0) if len(x) else 0  # differences of squares lose no digits near the origin
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
    """Return the median squared distance of 1000 sampled pairs, without pairs of equal rows."""
    if len(x) < 2:
        return x.dtype.type(1)
    i, j = make_random(seed).integers(0, len(x), (2, 1000))
    squares = np.square(x[i] - x[j]).sum(axis=1)
    return np.median(squares[squares > 0]) if squares.any() else x.dtype.type(1)


def _replace_zeros(lengths: Any) -> Any:
    """Return lengths that can be divided by: zeros become one."""
    return np.where(lengths > 0, lengths, 1).astype(lengths.dtype)


def _as_feature_matrix(features: NDArray[Any]) -> NDArray[Any]:
    """Return the features as a contiguous float32 or float64 matrix."""
    if features.ndim != 2:
        raise NetgraphError(f"features must have one row a unit, (n_units, d), got shape {features.shape}")
    return np.ascontiguousarray(features, dtype=np.float32 if features.dtype != np.float64 else np.float64)


def _compares_all_pairs(n: int, k: int | None) -> bool:
    """Return True if every pair of n units is compared."""
    if k is not None and k < 1:
        raise NetgraphError(f"k is {k}, but each unit keeps at least one neighbor")
    return n <= DENSE and (k is None or k >= n - 1)


def _squares_are_safe(x: NDArray[Any], squares: NDArray[Any]) -> bool:
    """Return True if all squared row lengths are finite and precise. A zero is allowed where the row is zero."""
    zero = squares == 0
    if not ((squares > TINY) & (squares < HUGE) | zero).all():
        return False
    return not (zero.any() and x[zero].any())


def find_directions(features: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the rows scaled to length one, and which rows have a direction.

    Parameters
    ----------
    features : array of shape (n, d)
        One row a unit, float32 or float64.

    Returns
    -------
    directions : array of shape (n, d)
        Zero rows stay zero.
    alive : bool array of shape (n,)
        False for zero rows.

    Raises
    ------
    NetgraphError
        A feature is not finite.
    """
    x = _check_finite(_as_feature_matrix(features))
    return normalize_rows(x), _row_maxima(x) > 0


def _check_finite(x: NDArray[Any]) -> NDArray[Any]:
    """Return the features, or raise an error that names the first unit with a non-finite weight."""
    largest = _row_maxima(x)
    if not np.isfinite(largest).all():
        raise NetgraphError(
            f"unit {int((~np.isfinite(largest)).argmax())} has weights that are not finite. "
            "Affinities need finite weights: repair the network first."
        )
    return x


def _row_maxima(x: NDArray[Any]) -> NDArray[Any]:
    """Return the largest magnitude of each row. It is not finite where an entry is not."""
    bits = _view_bits(x)
    largest = np.zeros(len(x), dtype=bits.dtype)
    parallel_for(lambda s: _max_row_bits(bits, largest, s.start, s.stop), _split_rows(x))
    return largest.view(x.dtype)


def _split_rows(x: NDArray[Any]) -> list[slice]:
    """Return slices of rows with about `PART` entries each."""
    return split_range(len(x), max(1, PART // max(1, x.shape[1])))


def _view_bits(x: NDArray[Any]) -> NDArray[Any]:
    """Return the entries of a matrix as unsigned integers of the same bits."""
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


@compile_kernel(nogil=True)
def _max_row_bits(bits: Any, largest: Any, lo: Any, hi: Any) -> Any:
    """Write the largest magnitude of rows lo .. hi, compared as integers: infinity and NaN have the largest bits."""
    magnitude = ~(bits.dtype.type(1) << bits.dtype.type(8 * bits.itemsize - 1))
    for r in range(lo, hi):
        most = bits.dtype.type(0)
        for c in range(bits.shape[1]):
            most = max(most, bits[r, c] & magnitude)
        largest[r] = most


def normalize_rows(x: NDArray[Any]) -> NDArray[Any]:
    """Return the rows of a matrix scaled to Euclidean length one.

    Each row is first divided by its largest magnitude. Squares of large entries then do not overflow, and squares of
    small ones do not vanish.

    Parameters
    ----------
    x : array of shape (n, d)
        Float32 or float64. Other types are computed in float32.

    Returns
    -------
    array of shape (n, d)
        A new array. Zero rows stay zero.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.affinity import normalize_rows
    >>> normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    x = _as_feature_matrix(x)
    largest, out = _replace_zeros(_row_maxima(x)), np.empty_like(x)
    parallel_for(lambda s: _normalize_span(x, largest, out, s.start, s.stop), _split_rows(x))
    return out


@compile_kernel(nogil=True, fastmath={"reassoc", "contract"})
def _normalize_span(x: Any, largest: Any, out: Any, lo: Any, hi: Any) -> Any:
    """Write rows lo .. hi, divided by their largest magnitude and then by their length."""
    for r in range(lo, hi):
        square = x.dtype.type(0)
        for c in range(x.shape[1]):
            out[r, c] = x[r, c] / largest[r]  # squares of large entries would overflow
            square += out[r, c] * out[r, c]
        length = np.sqrt(square) if square > 0 else x.dtype.type(1)
        for c in range(x.shape[1]):
            out[r, c] /= length


def _build_graph(x: NDArray[Any], k: int | None, alive: NDArray[Any], weigh: Weigh) -> sparse.csr_array:
    """Return the graph of all pairs, or of the k nearest neighbors of each unit on large axes."""
    weigh = _weigh_copies_as_one(weigh, _number_copies(x), alive)
    return (
        build_complete_graph(x, weigh)
        if _compares_all_pairs(len(x), k)
        else build_nearest_graph(x, min(k or NEIGHBORS, len(x) - 1), weigh)
    )


def _weigh_copies_as_one(weigh: Weigh, copies: NDArray[np.int64] | None, alive: NDArray[Any]) -> Weigh:
    """Return a ``weigh`` that gives copies exactly 1, other pairs less, and zero rows no edge, despite rounding."""
    # Rounding may give a copy less than 1, or another pair exactly 1. Both are corrected here.
    all_alive = bool(alive.all())

    def weigh_exactly(products: NDArray[Any], i: slice, j: slice) -> NDArray[Any]:
        one = products.dtype.type(1)
        weights = weigh(products, i, j)
        np.minimum(weights, np.nextafter(one, 0 * one), out=weights)
        if copies is not None:
            rows = np.flatnonzero(copies[i] >= 0)
            weights[rows] = np.where(copies[i][rows, None] == copies[None, j], one, weights[rows])
        if not all_alive:
            weights[~alive[i]] = 0
            weights[:, ~alive[j]] = 0
        return weights

    return weigh_exactly


def _number_copies(x: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return a number for each row that its copies share and -1 for a row without copies, or None if all rows differ.

    Rows are hashed by a sum of their bits with random odd factors. Only rows with equal sums are compared in full.
    """
    if not x.size:
        return None
    bits = _view_bits(x)
    factors = np.random.default_rng(0).integers(0, 2**63, x.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    sums = np.empty(len(x), dtype=np.uint64)
    parallel_for(lambda s: _hash_rows(bits, factors, sums, s.start, s.stop), _split_rows(x))
    candidates = _find_repeats(sums)[0]
    if not len(candidates):
        return None
    rows = np.ascontiguousarray(x[candidates] + 0)  # -0 becomes 0
    alike, number = _find_repeats(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel())
    copies = np.full(len(x), -1, dtype=np.int64)
    copies[candidates[alike]] = number
    return copies if len(alike) else None


def _find_repeats(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of values that occur more than once, and a number for each that equal values share."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    repeats = np.flatnonzero(count[number] > 1)
    return repeats, number[repeats]


@compile_kernel(nogil=True)
def _hash_rows(bits: Any, factors: Any, sums: Any, lo: Any, hi: Any) -> Any:
    """Write a hash of the bits of rows lo .. hi. Zero and negative zero have the same hash."""
    sign = bits.dtype.type(1) << bits.dtype.type(8 * bits.itemsize - 1)
    for r in range(lo, hi):
        total = np.uint64(0)
        for c in range(bits.shape[1]):
            entry = np.uint64(bits[r, c] if bits[r, c] != sign else bits.dtype.type(0))
            total += factors[c] * (entry ^ (entry >> np.uint64(32)))  # the sign bits of two doubles would cancel
        sums[r] = total
