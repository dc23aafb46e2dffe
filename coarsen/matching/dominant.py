"""Locally dominant matching: the greedy matching by weight, found for all vertices at once.

Preis, "Linear time 1/2-approximation algorithm for maximum weighted matching in general graphs", STACS 1999. Rounds:
Birn, Osipov, Sanders, Schulz and Sitchinava, "Efficient parallel and external matching", Euro-Par 2013, section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.affinity.all_pairs import Affinity, AllPairs
from netgraph.environment.kernel_cache import compile_kernel

# Invariant. Edges have one total order: by falling weight, then by a hash of their ends. An edge that is the first edge of
# both its ends belongs to the greedy matching, because no edge that meets it comes earlier. Taking all such edges at once
# and repeating on the rest therefore gives the greedy matching. It depends on the weights and the seed only. The order in
# which vertices are visited does not matter, so threads could not change the result either.
#
# Rounds. Each vertex points to its first edge. Two vertices that point to each other are matched, and edges with a matched
# end are dropped. On typical graphs three of four edges go in a round, so almost all the work is one pass over the graph
# (`_point_to_first_edges`) and one over half of its rows, which copies the remaining edges (`_copy_free_edges`). Later
# rounds filter the copy in place. If all pairs are edges, rows are read again instead of copied (`_reread_rows`), because
# their columns need not be looked up. A graph that hardly shrinks, such as a path of growing weights, is sorted.
#
# Keys. The first 32 bits of a positive float, read as an integer, have the order of the float. A key holds these bits in
# its upper half and the vertex at the other end in its lower half, so the maximum of the keys of a row is its heaviest
# edge. A row keeps two maxima: `high` prefers the last vertex among equal bits, and `low`, with the lower half inverted,
# the first. If they name the same vertex, the first edge is known. Otherwise, or if the bits are those of zero, infinity or
# nan, the row is read once more with exact weights and hashes (`_find_first_edge`).
#
# Branches. Most rows are short, and a branch that the processor cannot predict costs as much as several edges. The inner
# loops therefore have none: a key is made negative where a vertex is not free, and a position moves on by 0 or 1. Unsigned
# indices spare the test for counting from the end.
VERTEX = 0xFFFFFFFF  # lower half of a key
UNDECIDED = -2
LEAST, RANGE = 1 << 32, 0x7F7FFFFF << 32  # LEAST <= key < LEAST + RANGE: bits above zero, below infinity in float32
Mates = NDArray[np.int32]


def dominant_matching(affinity: Affinity, seed: int = 0) -> Mates:
    """Return the greedy matching: repeatedly the heaviest edge with two free ends.

    Parameters
    ----------
    affinity : csr_array or AllPairs, of shape (n, n)
        Symmetric weights. An entry on the diagonal, or one that is not above zero, is not an edge.
    seed : int, default 0
        Seeds the hash that orders edges of equal weight.

    Returns
    -------
    mate : int32 array of shape (n,)
        Partner of each vertex, -1 for an unmatched one.
    """
    indptr, indices, data = _read_rows(affinity)
    hash_seed, shared = np.uint64(seed % 2**64), isinstance(affinity, AllPairs)
    words = data.itemsize // 4
    first_bits = data.view(np.int32) if words == 1 else data.view(np.int32)[1::2]
    mate, rows = _match_in_rounds(indptr, indices, data, first_bits, shared, hash_seed)
    if len(rows):
        _match_sorted_edges(affinity.tocsr(), rows, mate, hash_seed)
    return np.asarray(mate)


def mate_weights(adjacency: sparse.csr_array, mate: NDArray[Any]) -> NDArray[Any]:
    """Return the weight of the edge from each vertex to its mate, (n,), zero for an unmatched vertex."""
    return np.asarray(_look_up_weights(adjacency.indptr, adjacency.indices, adjacency.data, mate))


def _read_rows(affinity: Affinity) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the arrays indptr, indices and data. All rows of `AllPairs` share the columns of one."""
    if isinstance(affinity, AllPairs):
        n = len(affinity.weights)
        starts = np.arange(n + 1, dtype=np.int32 if n < 1 << 15 else np.int64) * n
        return starts, np.arange(n, dtype=np.int32), _to_ordered_floats(affinity.weights.ravel())
    return affinity.indptr, affinity.indices, _to_ordered_floats(affinity.data)


def _to_ordered_floats(data: NDArray[Any]) -> NDArray[Any]:
    """Return little-endian weights of 4 or 8 bytes, so that positive numbers have the order of their bits."""
    return np.ascontiguousarray(data, dtype="<f4" if data.dtype == np.float32 else "<f8")


def _match_sorted_edges(adjacency: sparse.csr_array, rows: Mates, mate: Mates, seed: Any) -> None:
    """Match the free vertices ``rows`` greedily, with their edges sorted."""
    free = np.zeros(len(mate), dtype=np.bool_)
    free[rows] = True
    edges = sparse.coo_array(adjacency[rows])
    i, j, weight = rows[edges.row], edges.col, edges.data
    kept = free[j] & (i < j) & (weight > 0)
    i, j, weight = i[kept], j[kept].astype(np.int32), weight[kept]
    _match_greedily(i, j, np.lexsort((hash_edges(i, j, seed), -weight)), mate)


@compile_kernel(nogil=True, inline="always")
def hash_edge(i: Any, j: Any, seed: Any) -> Any:
    """Hash the ends of an edge (splitmix64, Steele, Lea and Flood, OOPSLA 2014), which orders edges of equal weight."""
    x = np.uint64(0x9E3779B97F4A7C15) * np.uint64(min(i, j)) + np.uint64(max(i, j)) + seed
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compile_kernel(nogil=True)
def hash_edges(i: Any, j: Any, seed: Any) -> Any:
    """Return `hash_edge` of many edges, uint64 (m,)."""
    out = np.empty(len(i), dtype=np.uint64)
    for p in range(len(i)):
        out[p] = hash_edge(i[p], j[p], seed)
    return out


@compile_kernel(nogil=True)
def _match_in_rounds(indptr: Any, indices: Any, data: Any, first_bits: Any, shared: Any, seed: Any) -> Any:
    """Return the mate of each vertex, and the vertices that are still free because a round hardly shrank the graph."""
    n = len(indptr) - 1
    mate, free = np.empty(n, dtype=np.int32), np.ones(n, dtype=np.uint8)
    _point_to_first_edges(indptr, indices, data, first_bits, shared, seed, mate, free)
    rows, entries = _find_waiting(mate, free, np.arange(n).astype(np.int32), indptr)
    if shared:
        rows = _reread_rows(indptr, indices, data, first_bits, seed, mate, free, rows)
    else:
        rows = _shrink_rows(indptr, indices, data, first_bits, seed, mate, free, rows, entries)
    for v in rows:
        mate[v] = -1
    return mate, rows


@compile_kernel(nogil=True)
def _reread_rows(
    indptr: Any, indices: Any, data: Any, first_bits: Any, seed: Any, mate: Any, free: Any, rows: Any
) -> Any:
    """Repeat rounds over all pairs, and return the rows that are still free. Only rows that point to a matched vertex are read."""
    before = 2 * len(rows)
    while len(rows) < before - before // 16:
        before, taken = len(rows), free.astype(np.int64) - 1  # below zero where a vertex is not free
        for u in rows:
            if not free[mate[u]]:
                high, low, bits = np.int64(0), np.int64(0), first_bits[indptr[u] : indptr[u + 1]]
                for v in range(len(bits)):
                    key = (np.int64(bits[v]) << 32) | np.int64(v) | taken[v]
                    high, low = max(high, key), max(low, key ^ VERTEX)
                mate[u] = _decode_keys(high, low, u)
                if mate[u] == UNDECIDED:
                    mate[u] = _find_first_edge(indptr, indices, data, True, u, seed, free)
        rows, _ = _find_waiting(mate, free, rows, indptr)
    return rows


@compile_kernel(nogil=True)
def _shrink_rows(
    indptr: Any, indices: Any, data: Any, first_bits: Any, seed: Any, mate: Any, free: Any, rows: Any, entries: Any
) -> Any:
    """Repeat rounds over a copy of the edges between free vertices, and return the rows that are still free."""
    keys = np.empty(entries + 1, dtype=np.int64)
    starts, stops = np.empty(len(free), dtype=np.int64), np.empty(len(free), dtype=np.int64)
    before, entries = (
        2 * entries,
        _copy_free_edges(indptr, indices, data, first_bits, seed, mate, free, rows, starts, stops, keys),
    )
    while entries < before - before // 8:
        before = entries
        rows, _ = _find_waiting(mate, free, rows, indptr)
        entries = _filter_free_edges(indptr, indices, data, seed, mate, free, rows, starts, stops, keys)
    return _find_waiting(mate, free, rows, indptr)[0]


@compile_kernel(nogil=True, inline="always")
def _read_row(indptr: Any, indices: Any, values: Any, shared: Any, u: Any) -> Any:
    """Return the values and columns of the edges of u."""
    start, stop = indptr[u], indptr[u + 1]
    return values[start:stop], indices[: stop - start] if shared else indices[start:stop]


@compile_kernel(nogil=True)
def _find_waiting(mate: Any, free: Any, rows: Any, indptr: Any) -> Any:
    """Return the rows that have an edge but are not pointed back to, and the sum of their degrees. Update ``free``."""
    left, at, entries = np.empty(len(rows), dtype=np.int32), np.int64(0), np.int64(0)
    for v in rows:
        place = np.uint32(v)
        m = mate[place]
        waits = np.int64((m >= 0) & (mate[np.uint32(max(m, 0))] != v))
        left[np.uint64(at)] = v
        free[place] = waits
        at += waits
        entries += waits * np.int64(indptr[v + 1] - indptr[place])
    return left[:at], entries


@compile_kernel(nogil=True)
def _point_to_first_edges(
    indptr: Any, indices: Any, data: Any, first_bits: Any, shared: Any, seed: Any, mate: Any, free: Any
) -> Any:
    """Point each vertex to its first edge, in one pass over the weights that looks up no other vertex."""
    for u in range(len(mate)):
        high, low = np.int64(0), np.int64(0)
        bits, columns = _read_row(indptr, indices, first_bits, shared, u)
        for e in range(len(bits)):
            key = (np.int64(bits[e]) << 32) | np.int64(columns[e])
            high, low = max(high, key), max(low, key ^ VERTEX)
        mate[u] = _decode_keys(high, low, u)
        if mate[u] == UNDECIDED:
            mate[u] = _find_first_edge(indptr, indices, data, shared, u, seed, free)


@compile_kernel(nogil=True)
def _copy_free_edges(
    indptr: Any,
    indices: Any,
    data: Any,
    first_bits: Any,
    seed: Any,
    mate: Any,
    free: Any,
    rows: Any,
    starts: Any,
    stops: Any,
    keys: Any,
) -> Any:
    """Copy the edges between free vertices as keys, and point each vertex to its first edge."""
    at = np.int64(0)
    for u in rows:
        place = np.uint32(u)
        high, low, starts[place] = np.int64(0), np.int64(0), at
        bits, columns = _read_row(indptr, indices, first_bits, False, u)
        for e in range(len(bits)):
            v = np.uint32(columns[e])
            key = (np.int64(bits[e]) << 32) | np.int64(v)
            keys[np.uint64(at)] = key
            is_free = np.int64(free[v])
            at += is_free
            key |= is_free - 1  # below zero where v is not free
            high, low = max(high, key), max(low, key ^ VERTEX)
        stops[place] = at
        mate[place] = _decode_keys(high, low, u)
        if mate[place] == UNDECIDED:
            mate[place] = _find_first_edge(indptr, indices, data, False, u, seed, free)
    return at


@compile_kernel(nogil=True)
def _filter_free_edges(
    indptr: Any, indices: Any, data: Any, seed: Any, mate: Any, free: Any, rows: Any, starts: Any, stops: Any, keys: Any
) -> Any:
    """Drop the keys of edges to matched vertices in place, and point each vertex to its first edge."""
    entries = np.int64(0)
    for u in rows:
        place = np.uint32(u)
        high, low, at = np.int64(0), np.int64(0), np.uint64(starts[place])
        for e in range(at, np.uint64(stops[place])):
            key = keys[e]
            keys[at] = key
            is_free = np.int64(free[np.uint32(key)])
            at += np.uint64(is_free)
            key |= is_free - 1
            high, low = max(high, key), max(low, key ^ VERTEX)
        stops[place] = at
        entries += np.int64(at) - starts[place]
        mate[place] = _decode_keys(high, low, u)
        if mate[place] == UNDECIDED:
            mate[place] = _find_first_edge(indptr, indices, data, False, u, seed, free)
    return entries


@compile_kernel(nogil=True, inline="always")
def _decode_keys(high: Any, low: Any, u: Any) -> Any:
    """Return the other end of the first edge of u, -1 if u has no edge, or `UNDECIDED`."""
    alone = (high ^ low) == VERTEX and np.uint64(high - LEAST) < np.uint64(RANGE) and (high & VERTEX) != u
    return np.int32(high & VERTEX) if alone else np.int32(UNDECIDED if low > 0 else -1)


@compile_kernel(nogil=True)
def _find_first_edge(indptr: Any, indices: Any, data: Any, shared: Any, u: Any, seed: Any, free: Any) -> Any:
    """Return the other end of the first edge from u to a free vertex, by exact weights and hashes, or -1."""
    best, heaviest, rank = np.int32(-1), data.dtype.type(0), np.uint64(0)
    weights, columns = _read_row(indptr, indices, data, shared, u)
    for e in range(len(weights)):
        v, w = np.int32(columns[e]), weights[e]
        if w < heaviest or not w > 0 or v == u or not free[v]:
            continue
        place = hash_edge(u, v, seed)
        if w > heaviest or place < rank:
            best, heaviest, rank = v, w, place
    return best


@compile_kernel(nogil=True)
def _match_greedily(i: Any, j: Any, order: Any, mate: Any) -> Any:
    """Match the edges with two free ends, in this order."""
    for e in order:
        if mate[i[e]] < 0 and mate[j[e]] < 0:
            mate[i[e]], mate[j[e]] = j[e], i[e]


@compile_kernel(nogil=True)
def _look_up_weights(indptr: Any, indices: Any, data: Any, mate: Any) -> Any:
    """Search the row of one end of each matched edge."""
    out = np.zeros(len(mate), dtype=data.dtype)
    for u in range(len(mate)):
        if mate[u] > u:
            e = indptr[u]
            while indices[e] != mate[u]:
                e += 1
            out[u] = out[mate[u]] = data[e]
    return out
