"""All pairs of a small axis: the inner products of its rows and their cosines, without scaling the rows.

The squared lengths of the rows are the diagonal of the products, so features are read once and never copied. The
weights stay dense, in the memory of the products: a sparse matrix would store a column index for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.environment.kernel_cache import compile_kernel
from netgraph.errors import NetgraphError
from netgraph.utils.parallel import parallel_for, split_range

BLOCK = 768
SMALL = 256
TILE = 32  # rows and columns of a tile that is transposed within the cache


@dataclass(frozen=True, eq=False)
class AllPairs:
    """Weights of all pairs of units of one axis, dense. Methods are named as those of scipy's sparse arrays.

    Parameters
    ----------
    weights : array of shape (n, n)
        Symmetric, non-negative, zero diagonal. A zero means no edge.

    Raises
    ------
    NetgraphError
        The weights are no square matrix of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.affinity import AllPairs
    >>> AllPairs(np.array([[0.0, 0.5], [0.5, 0.0]])).tocsr().nnz
    2
    """

    weights: NDArray[Any]

    def __post_init__(self) -> None:
        weights = self.weights
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or weights.dtype.kind not in "fiub":
            raise NetgraphError(
                f"the weights of all pairs are {weights.dtype} of shape {weights.shape}. Give a square matrix of real numbers."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of units, twice."""
        return len(self.weights), len(self.weights)

    def toarray(self) -> NDArray[Any]:
        """Return a copy of the weights."""
        return self.weights.copy()

    def tocsr(self) -> sparse.csr_array:
        """Return the weights that are not zero as a csr_array of shape (n, n)."""
        n = len(self.weights)
        data, columns = _off_diagonal_entries(self.weights)
        starts = np.arange(n + 1, dtype=np.int32) * np.int32(max(n - 1, 0))
        graph = sparse.csr_array((data, columns, starts), shape=(n, n))
        if not data.all():
            graph.eliminate_zeros()
        return graph


Affinity: TypeAlias = sparse.csr_array | AllPairs


def multiply_pairs(x: NDArray[Any]) -> NDArray[Any]:
    """Return the inner products of all pairs of rows, ``x x'``.

    Only blocks on and above the diagonal are computed, then mirrored. The result is symmetric to the last bit.

    Parameters
    ----------
    x : array of shape (n, d)

    Returns
    -------
    array of shape (n, n)
    """
    n = len(x)
    out = np.empty((n, n), dtype=x.dtype)
    parts = split_range(n, min(BLOCK, max(SMALL, -(-n // 4))))  # small axes are split too, for all threads

    def work(pair: tuple[slice, slice]) -> None:
        i, j = pair
        with np.errstate(over="ignore", invalid="ignore"):  # overflow shows on the diagonal
            np.matmul(x[i], x[j].T, out=out[i, j])  # numpy calls syrk for diagonal blocks
        if i != j:
            _mirror_block(out, i.start, i.stop, j.start, j.stop)

    parallel_for(work, [(i, j) for number, i in enumerate(parts) for j in parts[number:]])
    return out


def weigh_cosines(products: NDArray[Any], copies: Callable[[], NDArray[np.int64] | None]) -> AllPairs:
    """Overwrite the products of all pairs with ``(1 + cos) / 2``.

    Zero rows have the squared length 0 and no edge.

    Parameters
    ----------
    products : array of shape (n, n)
        Products of `multiply_pairs`, overwritten.
    copies : callable
        Returns a number for each row that its copies share, and -1 for a row without copies. It is called only if some
        weights are close to 1.

    Returns
    -------
    AllPairs
    """
    n = len(products)
    squares = products.diagonal().copy()
    alive = (squares > 0).astype(products.dtype) / 2  # a weight is 2 alive_r alive_c + <r, c> inverse_r inverse_c
    lengths = np.sqrt(2 * squares)
    inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=squares > 0)
    near: list[bool] = []
    parallel_for(
        lambda s: near.append(_weigh_rows(products, alive, inverse, s.start, s.stop)),
        split_range(n, max(1, (1 << 18) // max(n, 1))),
    )
    if any(near) and (number := copies()) is not None:
        _weigh_copies(products, number)
    return AllPairs(products)


@compile_kernel(nogil=True)
def _mirror_block(out: Any, i: Any, i_stop: Any, j: Any, j_stop: Any) -> Any:
    """Copy a block above the diagonal to its mirror image, in tiles that fit the cache."""
    for first in range(i, i_stop, TILE):
        for c in range(j, j_stop):
            for r in range(first, min(first + TILE, i_stop)):
                out[c, r] = out[r, c]


@compile_kernel(nogil=True)
def _weigh_rows(products: Any, alive: Any, inverse: Any, lo: Any, hi: Any) -> Any:
    """Weigh rows lo .. hi. Return True if a weight is too close to 1 to tell it from that of a copy."""
    near = np.int32(0)
    for r in range(lo, hi):
        row, base = products[r], 2 * alive[r]
        row[r] = 0
        near |= _weigh_run(row[:r], base, alive[:r], inverse[r], inverse[:r])
        near |= _weigh_run(row[r + 1 :], base, alive[r + 1 :], inverse[r], inverse[r + 1 :])
    return near > 0


@compile_kernel(nogil=True)
def _weigh_run(products: Any, base: Any, alive: Any, scale: Any, inverse: Any) -> Any:
    """Weigh a run of one row. All arrays start at 0, which lets the compiler vectorize the loop."""
    zero, one = products.dtype.type(0), products.dtype.type(1)
    below, almost, near = np.nextafter(one, zero), products.dtype.type(0.999), np.int32(0)
    for c in range(len(products)):
        w = base * alive[c] + products[c] * (scale * inverse[c])
        w = w if w > zero else zero
        w = w if w < below else below
        near |= np.int32(w > almost)
        products[c] = w
    return near


@compile_kernel(nogil=True)
def _weigh_copies(weights: Any, number: Any) -> Any:
    """Give pairs of copies the weight 1."""
    for r in range(len(number)):
        for c in range(len(number) if number[r] >= 0 else 0):
            if c != r and number[c] == number[r]:
                weights[r, c] = 1


@compile_kernel(nogil=True)
def _off_diagonal_entries(weights: Any) -> Any:
    """Return the entries outside the diagonal and their columns, row by row."""
    n, at = len(weights), 0
    data, columns = np.empty(n * max(n - 1, 0), dtype=weights.dtype), np.empty(n * max(n - 1, 0), dtype=np.int32)
    for r in range(n):
        for first, stop in ((0, r), (r + 1, n)):
            for c in range(first, stop):
                data[at + c - first], columns[at + c - first] = weights[r, c], c
            at += stop - first
    return data, columns
