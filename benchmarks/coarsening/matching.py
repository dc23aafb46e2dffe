"""Claim: heavy-edge matching costs two to three passes over the edges, and augmented matching has .98 of the optimal weight.

Nearest-neighbour, geometric and RMAT graphs of 10^4 to 10^7 edges. Measured are one pass that reads weights, one pass that also looks
up a number of each edge's other end, and matchings by netgraph, NetworKit (with and without building its graph), PyAMG (pairwise) and
METIS (recursive, n/2 parts, up to 10^4 edges, slow beyond). Times are processor time. Rounds alternate between all of them, so other
work on the machine affects all alike. Ratios are taken within a round, and given as median, minimum and maximum. The matched weight is
compared with the heaviest matching (rustworkx, exact on integers) on graphs of 1,000 vertices.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/coarsening/matching.py
    .venv/bin/python benchmarks/coarsening/matching.py 10000 100000      # these numbers of edges again, the other rows stay
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from scipy import sparse
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import spread, time_call

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.dominant import dominant_matching
from netgraph.coarsen.matching.heavy_edge import augmented_matching, heavy_edge_matching, random_order_matching

RESULTS = Path(__file__).parent.parent / "results" / "matching.json"
SIZES = 10**4, 10**5, 10**6, 10**7
METIS, AUGMENTED = 20_000, 2_000_000  # largest numbers of edges for which these are timed


def build_graph(n: int, i: Any, j: Any, rng: Any) -> sparse.csr_array:
    """Return the graph of these edges with random weights."""
    i, j = np.minimum(i, j)[i != j], np.maximum(i, j)[i != j]
    upper = sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()
    upper.data = rng.random(len(upper.data), dtype=np.float32)
    return sparse.csr_array(upper + upper.T)


def knn(edges: int, rng: Any) -> sparse.csr_array:
    """Return the graph of points in eight dimensions and their ten nearest neighbours."""
    n = max(edges // 7, 12)
    points = rng.random((n, 8 if n < 200_000 else 3))  # a search in eight dimensions takes minutes beyond
    near = cKDTree(points).query(points, 11, workers=2)[1][:, 1:]
    return build_graph(n, np.repeat(np.arange(n), 10), near.ravel(), rng)


def geometric(edges: int, rng: Any) -> sparse.csr_array:
    """Return the graph of points in the unit square within a radius, eight neighbours on average."""
    n = edges // 4
    pairs = cKDTree(rng.random((n, 2))).query_pairs(np.sqrt(8 / (np.pi * n)), output_type="ndarray")
    return build_graph(n, pairs[:, 0], pairs[:, 1], rng)


def rmat(edges: int, rng: Any) -> sparse.csr_array:
    """Return an RMAT graph (Chakrabarti, Zhan, Faloutsos, SDM 2004): (0.57, 0.19, 0.19, 0.05), sixteen edges a vertex."""
    scale = int(np.log2(edges / 16)) + 1
    i = j = np.zeros(edges, dtype=np.int64)
    for _ in range(scale):
        part = np.searchsorted([0.57, 0.76, 0.95], rng.random(edges), side="right")
        i, j = 2 * i + part // 2, 2 * j + part % 2
    return build_graph(2**scale, i, j, rng)


@njit(cache=True)
def read_weights(data: Any) -> Any:
    """Read every weight."""
    out = 0.0
    for e in range(len(data)):
        out += data[e]
    return out


@njit(cache=True)
def read_weights_and_ends(indptr: Any, indices: Any, data: Any, x: Any) -> Any:
    """Read every weight and a number of the other end."""
    out = 0.0
    for u in range(len(indptr) - 1):
        for e in range(indptr[u], indptr[u + 1]):
            out += data[e] * x[indices[e]]
    return out


def list_methods(a: sparse.csr_array) -> dict[str, Callable[[], Any]]:
    """Return the functions to time, by name."""
    import networkit
    from pyamg.aggregation.aggregate import pairwise_aggregation

    networkit.setNumberOfThreads(1)  # its suitor uses one thread, and idle threads would count as processor time
    x, upper = np.ones(a.shape[0]), sparse.triu(a, 1, format="coo")

    def build() -> Any:
        return networkit.GraphFromCoo(
            (upper.data.astype(float), (upper.row, upper.col)), n=a.shape[0], weighted=True, directed=False
        )

    built, matrix = build(), sparse.csr_matrix(a)

    def suitor(graph: Any) -> None:
        networkit.matching.SuitorMatcher(graph, False, False).run()

    graph = AxisGraph("a", a, np.ones(a.shape[0]))
    out: dict[str, Callable[[], Any]] = {
        "streaming": lambda: read_weights(a.data),
        "indirect": lambda: read_weights_and_ends(a.indptr, a.indices, a.data, x),
        "matching": lambda: dominant_matching(a),
        "hem": lambda: heavy_edge_matching(graph, -(-a.shape[0] // 2)),
        "networkit": lambda: suitor(built),
        "networkit with building": lambda: suitor(build()),
        "pyamg": lambda: pairwise_aggregation(matrix, matchings=1, theta=0.0),
    }
    if a.nnz // 2 <= AUGMENTED:
        out["hem-augmented"] = lambda: augmented_matching(graph, -(-a.shape[0] // 2))
    if a.nnz // 2 <= METIS:
        out["metis"] = lambda: partition_with_metis(a)
    return out


def partition_with_metis(a: sparse.csr_array) -> None:
    """Cut into n/2 parts, weights as integers."""
    import pymetis

    weights = (1 + 1000 * a.data).astype(np.int64)
    pymetis.part_graph(a.shape[0] // 2, xadj=a.indptr, adjncy=a.indices, eweights=weights, recursive=True)


def measure_speed(name: str, a: sparse.csr_array) -> dict[str, Any]:
    """Time all methods in turn. Ratios are to netgraph's matching of the same round."""
    methods = list_methods(a)
    for method in ("streaming", "indirect", "matching", "hem", "networkit"):
        methods[method]()  # compile and warm up
    methods.get("hem-augmented", int)()
    rounds = 3 if a.nnz > 4_000_000 else 5
    rows = [{method: time_call(run) for method, run in methods.items()} for _ in range(rounds)]
    tracemalloc.start()
    dominant_matching(a)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    graph_bytes = a.data.nbytes + a.indices.nbytes + a.indptr.nbytes
    ratios = {w: spread([row[w] / row["matching"] for row in rows]) for w in methods if w != "matching"}
    median = statistics.median(row["matching"] for row in rows)
    return {
        "graph": name,
        "vertices": a.shape[0],
        "edges": a.nnz // 2,
        "edges_per_second": round(a.nnz / 2 / median),
        "indirect_passes": spread([row["matching"] / row["indirect"] for row in rows]),
        "times_ours": ratios,
        "memory_in_graphs": round(peak / graph_bytes, 2),
        "alike_on_1_and_2_threads": same_on_two_threads(a),
    }


def same_on_two_threads(a: sparse.csr_array) -> bool:
    """Return True if one thread and two threads give the same matching."""
    before, matchings = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        matchings.append(dominant_matching(a))
    torch.set_num_threads(before)
    return bool(np.array_equal(*matchings))


def measure_weight(name: str, a: sparse.csr_array) -> dict[str, Any]:
    """Return the matched weight relative to the heaviest matching."""
    import rustworkx

    a = a.copy()
    a.data = np.ceil(a.data * 10_000)
    upper, full = sparse.triu(a, 1, format="coo"), a.toarray()
    graph = rustworkx.PyGraph(multigraph=False)
    graph.add_nodes_from(range(a.shape[0]))
    graph.add_edges_from(
        list(zip(upper.row.tolist(), upper.col.tolist(), upper.data.astype(int).tolist(), strict=True))
    )
    best = sum(full[p] for p in rustworkx.max_weight_matching(graph, weight_fn=int))
    axis, row = AxisGraph("a", a, np.ones(a.shape[0])), {"graph": name, "vertices": a.shape[0], "edges": a.nnz // 2}
    for way, match in (
        ("hem-random", random_order_matching),
        ("hem", heavy_edge_matching),
        ("hem-augmented", augmented_matching),
    ):
        aggregates = match(axis, -(-a.shape[0] // 2))
        order = np.argsort(aggregates, kind="stable")
        same = aggregates[order][1:] == aggregates[order][:-1]
        row[way] = round(float(full[order[:-1][same], order[1:][same]].sum() / best), 4)
    return row


def main(asked: list[str]) -> None:
    """Run the benchmark for all numbers of edges, or for the given ones."""
    sizes = [int(size) for size in asked] or SIZES
    kept = json.loads(RESULTS.read_text())["speed"] if asked else []
    weights = []
    for make in (knn, geometric, rmat):
        for seed in range(3):
            weights.append(
                measure_weight(
                    make.__name__, make({knn: 7000, geometric: 4000, rmat: 8000}[make], np.random.default_rng(seed))
                )
            )
            print(json.dumps(weights[-1]), flush=True)
    rows = {(row["size"], row["graph"]): row for row in kept}
    for edges in sizes:
        for make in (knn, geometric, rmat):
            rows[edges, make.__name__] = {
                "size": edges,
                **measure_speed(make.__name__, make(edges, np.random.default_rng(0))),
            }
            print(json.dumps(rows[edges, make.__name__]), flush=True)
            write_results(weights, [rows[key] for key in sorted(rows)])


def write_results(weights: list[Any], rows: list[Any]) -> None:
    """Write the rows measured so far."""
    packages = ("numpy", "numba", "scipy", "networkit", "pyamg", "pymetis", "rustworkx")
    machine = {
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in packages},
        "seeds": [0, 1, 2],
        "note": "processor time of all threads, two cores shared with other work; ratios within rounds that alternate: median, least, most",
    }
    RESULTS.write_text(json.dumps({**machine, "weight_over_optimum": weights, "speed": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
