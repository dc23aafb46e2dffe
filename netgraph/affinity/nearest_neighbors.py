"""Exact nearest-neighbor graphs, from blocks of products that each serve both their rows and their columns.

Each unit keeps a heap of its k heaviest edges so far. Once some blocks are searched, hardly any entry exceeds the
lightest edge of a heap, and the search costs one pass over the block.

Garcia, Debreuve and Barlaud, "Fast k nearest neighbor search using GPU", CVPR Workshops 2008. Here the products come
in blocks, and heaps replace the sort.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, local
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.environment.kernel_cache import compile_kernel
from netgraph.utils.parallel import parallel_for, split_range

BLOCK = 768  # a block of float32 products just fits the cache of a core
SMALL = 256
LANES = 32  # entries of a row that are compared together
Weigh = Callable[[NDArray[Any], slice, slice], NDArray[Any]]
Use = Callable[[NDArray[Any], slice, slice], None]


def build_nearest_graph(x: NDArray[Any], k: int, weigh: Weigh) -> sparse.csr_array:
    """Return the graph of the k heaviest edges of each unit. An edge stays if either end keeps it.

    Of edges with equal weights, those to units with lower numbers are kept.

    Parameters
    ----------
    x : array of shape (n, d)
        Rows whose products are weighed.
    k : int
        Edges that each unit keeps.
    weigh : callable ``(products, i, j) -> weights``
        Weighs a block of products of the rows ``i`` and ``j``, both slices. It may write into ``products``, and must be
        symmetric.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, zero diagonal, sorted columns.
    """
    n = len(x)
    best, where = np.zeros((n, k), dtype=x.dtype), np.full((n, k), n, dtype=np.int32)
    # Two blocks may update the heaps of the same units at the same time. Each span of units has a lock. Results do not
    # depend on the order of blocks, because ties are broken by the number of the unit.
    locks = [Lock() for _ in split_range(n, _block_size(n))]

    def search(block: NDArray[Any], i: slice, j: slice) -> None:
        with locks[i.start // _block_size(n)]:
            _search_rows(block, best[i], where[i], i.start, j.start)
        if i != j:
            with locks[j.start // _block_size(n)]:
                _search_columns(block, best[j], where[j], i.start)

    _visit_blocks(x, weigh, search)
    starts = np.zeros(n + 1, dtype=np.int32 if 2 * n * k < 2**31 else np.int64)
    _count_edges(best, where, starts)
    np.cumsum(starts, out=starts)
    weights, columns = _fill_graph(best, where, starts)
    return sparse.csr_array((weights, columns, starts), shape=(n, n))


def build_complete_graph(x: NDArray[Any], weigh: Weigh) -> sparse.csr_array:
    """Return the graph of all pairs with a non-zero weight, without forming an n × n matrix.

    Parameters
    ----------
    x : array of shape (n, d)
    weigh : callable ``(products, i, j) -> weights``
        As in `build_nearest_graph`.

    Returns
    -------
    csr_array of shape (n, n)
        Symmetric, zero diagonal, sorted columns.
    """
    n = len(x)
    degree = max(n - 1, 0)
    weights, columns = np.empty(n * degree, dtype=x.dtype), np.empty(n * degree, dtype=np.int32)
    _visit_blocks(x, weigh, lambda block, i, j: _place_block(block, i.start, j.start, degree, weights, columns))
    graph = sparse.csr_array((weights, columns, np.arange(n + 1, dtype=np.int32) * np.int32(degree)), shape=(n, n))
    if not weights.all():
        graph.eliminate_zeros()
    return graph


def _block_size(n: int) -> int:
    """Return the rows of a block. Small axes are split too, to give all threads work."""
    return min(BLOCK, max(SMALL, -(-n // 4)))


def _visit_blocks(x: NDArray[Any], weigh: Weigh, use: Use) -> None:
    """Weigh the blocks on and above the diagonal and pass each to ``use``. Each thread reuses one block of memory."""
    parts, memory = split_range(len(x), _block_size(len(x))), local()

    def work(pair: tuple[slice, slice]) -> None:
        i, j = pair
        if not hasattr(memory, "block"):
            memory.block = np.empty(_block_size(len(x)) ** 2, dtype=x.dtype)
        size = i.stop - i.start, j.stop - j.start
        block = memory.block[: size[0] * size[1]].reshape(size)
        np.matmul(x[i], x[j].T, out=block)  # numpy calls syrk for diagonal blocks, which are exactly symmetric
        use(weigh(block, i, j), i, j)

    parallel_for(work, [(i, j) for number, i in enumerate(parts) for j in parts[number:]])


@compile_kernel(nogil=True)
def _search_rows(block: Any, best: Any, where: Any, i: Any, j: Any) -> Any:
    """Offer the entries of each row to its unit."""
    # Most entries are lighter than the lightest kept edge. A run of entries is compared without a branch, which the
    # compiler vectorizes, and the heap is touched only for runs that hold a heavier entry.
    for r in range(block.shape[0]):
        for start in range(0, block.shape[1], LANES):
            stop = min(start + LANES, block.shape[1])
            least, above = best[r, 0], np.int32(0)
            for c in range(start, stop):
                above |= np.int32(block[r, c] >= least)
            if above:
                for c in range(start, stop):
                    if block[r, c] >= best[r, 0] and i + r != j + c:
                        _push_edge(best[r], where[r], block[r, c], j + c)


@compile_kernel(nogil=True)
def _search_columns(block: Any, best: Any, where: Any, i: Any) -> Any:
    """Offer the entries of each column to its unit, in the order in which they lie in memory."""
    least = best[:, 0].copy()
    for r in range(block.shape[0]):
        for start in range(0, block.shape[1], LANES):
            stop, above = min(start + LANES, block.shape[1]), np.int32(0)
            for c in range(start, stop):
                above |= np.int32(block[r, c] >= least[c])
            if above:
                for c in range(start, stop):
                    if block[r, c] >= least[c]:
                        _push_edge(best[c], where[c], block[r, c], i + r)
                        least[c] = best[c, 0]


@compile_kernel(nogil=True)
def _is_lighter(weight: Any, unit: Any, other_weight: Any, other_unit: Any) -> Any:
    """Return True if an edge is lighter than another. Of equal weights, the edge to the higher unit is lighter."""
    return weight < other_weight or (weight == other_weight and unit > other_unit)


@compile_kernel(nogil=True)
def _push_edge(heap: Any, where: Any, weight: Any, unit: Any) -> Any:
    """Replace the lightest edge of a heap, its root, by an edge that is heavier, and restore the heap."""
    k, at = len(heap), 0
    if not _is_lighter(heap[0], where[0], weight, unit):
        return
    while 2 * at + 1 < k:
        child = 2 * at + 1
        if child + 1 < k and _is_lighter(heap[child + 1], where[child + 1], heap[child], where[child]):
            child += 1
        if not _is_lighter(heap[child], where[child], weight, unit):
            break
        heap[at], where[at] = heap[child], where[child]
        at = child
    heap[at], where[at] = weight, unit


@compile_kernel(nogil=True)
def _keeps_edge(best: Any, where: Any, i: Any, j: Any) -> Any:
    """Return True if unit i keeps an edge to unit j."""
    keeps = False
    for s in range(best.shape[1]):
        keeps |= where[i, s] == j and best[i, s] > 0
    return keeps


@compile_kernel(nogil=True)
def _count_edges(best: Any, where: Any, starts: Any) -> Any:
    """Write the number of edges of unit i to starts[i + 1]."""
    for i in range(best.shape[0]):
        for s in range(best.shape[1]):
            if best[i, s] > 0:
                starts[i + 1] += 1
                if not _keeps_edge(best, where, where[i, s], i):
                    starts[where[i, s] + 1] += 1


@compile_kernel(nogil=True)
def _fill_graph(best: Any, where: Any, starts: Any) -> Any:
    """Return weights and sorted columns of the symmetric graph. Transposing a symmetric matrix sorts its columns."""
    n, at = best.shape[0], starts[:-1].copy()
    weights, columns = np.empty(starts[n], dtype=best.dtype), np.empty(starts[n], dtype=np.int32)
    for i in range(n):
        for s in range(best.shape[1]):
            j = where[i, s]
            if best[i, s] > 0:
                weights[at[i]], columns[at[i]] = best[i, s], j
                at[i] += 1
                if not _keeps_edge(best, where, j, i):
                    weights[at[j]], columns[at[j]] = best[i, s], i
                    at[j] += 1
    at[:] = starts[:-1]
    sorted_weights, sorted_columns = np.empty_like(weights), np.empty_like(columns)
    for i in range(n):
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            sorted_weights[at[j]], sorted_columns[at[j]] = weights[e], i
            at[j] += 1
    return sorted_weights, sorted_columns


@compile_kernel(nogil=True)
def _place_block(block: Any, i: Any, j: Any, degree: Any, weights: Any, columns: Any) -> Any:
    """Write a block and its mirror image into the arrays of a complete graph."""
    for r in range(block.shape[0]):
        at = (i + r) * degree
        for c in range(block.shape[1]):
            v = j + c
            if v != i + r:
                weights[at + v - (v > i + r)], columns[at + v - (v > i + r)] = block[r, c], v
    if i == j:
        return
    for first in range(0, block.shape[0], LANES):
        for c in range(block.shape[1]):
            at = (j + c) * degree + i
            for r in range(first, min(first + LANES, block.shape[0])):
                weights[at + r], columns[at + r] = block[r, c], i + r
