"""Claim: on large axes, an exact nearest-neighbour graph costs about half the matrix product of all pairs.

Compared are `netgraph.affinity.similarity.cosine_graph`, `approximate_cosine_graph` of `netgraph.affinity.approximate_neighbors`
with its recall on 300 units, and the product of all pairs in the same blocks and threads. They run in turn. Units lie near 16
dimensions, with a tenth of noise in all d. Search by descent finds fewer neighbours in more dimensions, and one row shows how many
in 64. The largest size has one round, and every eighth row of blocks of its product. Times are processor time of all threads,
ratios within a round, as median, minimum and maximum. Memory is the peak of the process minus its memory with the features.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/coarsening/affinity.py
    .venv/bin/python benchmarks/coarsening/affinity.py 50000x4000      # this size again, the other rows stay
"""

from __future__ import annotations

import json
import platform
import sys
import tracemalloc
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import spread, time_result

from netgraph.affinity.approximate_neighbors import approximate_cosine_graph
from netgraph.affinity.nearest_neighbors import BLOCK
from netgraph.affinity.similarity import NEIGHBORS, cosine_graph
from netgraph.utils.parallel import parallel_for, split_range

RESULTS = Path(__file__).parent.parent / "results" / "affinity.json"
SIZES = ((8192, 4096), (20_000, 1000), (20_000, 2000), (20_000, 2000, 64), (50_000, 4000))
ROUNDS = 3
LARGE = 40_000  # from this number of units on: one round, and a part of the product


def draw_units(n: int, d: int, rank: int) -> Any:
    """Return n units in d dimensions that lie near a subspace of dimension ``rank``."""
    rng = np.random.default_rng(0)
    near = rng.standard_normal((n, rank), dtype=np.float32) @ rng.standard_normal((rank, d), dtype=np.float32)
    near /= np.sqrt(np.float32(rank))
    near += 0.1 * rng.standard_normal((n, d), dtype=np.float32)
    return near


def multiply_all_pairs(x: Any) -> float:
    """Compute blocks of x x', and return the share of blocks that were computed."""
    parts = split_range(len(x), BLOCK)
    some = parts[:: 8 if len(x) >= LARGE else 1]
    parallel_for(lambda pair: x[pair[0]] @ x[pair[1]].T, [(i, j) for i in some for j in parts])
    return sum(s.stop - s.start for s in some) / len(x)


def measure_recall(x: Any, graph: Any) -> float:
    """Return the share of the nearest neighbours of 300 units that are in the graph."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    recalls = []
    for u in np.random.default_rng(1).integers(0, len(x), 300):
        similarity = x @ x[u]
        similarity[u] = -2
        best = np.argpartition(-similarity, NEIGHBORS)[:NEIGHBORS]
        recalls.append(np.isin(best, graph.indices[graph.indptr[u] : graph.indptr[u + 1]]).mean())
    return float(np.mean(recalls))


def measure_size(n: int, d: int, rank: int = 16) -> dict[str, Any]:
    """Return the measurements of one size."""
    x, rounds = draw_units(n, d, rank), []
    for _ in range(1 if n >= LARGE else ROUNDS):
        seconds, part = time_result(lambda: multiply_all_pairs(x))
        exact, near = time_result(lambda: cosine_graph(x)), time_result(lambda: approximate_cosine_graph(x))
        rounds.append((exact[0], near[0], seconds / part))
    tracemalloc.start()
    cosine_graph(x[:LARGE])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "n": n,
        "d": d,
        "dimensions": rank,
        "exact_over_the_product": spread([a / c for a, _, c in rounds]),
        "approximate_over_the_product": spread([b / c for _, b, c in rounds]),
        "recall": {"exact": round(measure_recall(x, exact[1]), 4), "approximate": round(measure_recall(x, near[1]), 4)},
        "exact_memory_over_the_features": round(peak / x[:LARGE].nbytes, 2),
        "seconds": dict(zip(("exact", "approximate", "product"), map(spread, zip(*rounds, strict=True)), strict=True)),
        "share_of_the_product_made": part,
    }


def main(asked: list[str]) -> None:
    """Run the benchmark for all sizes, or for the given ones."""
    machine = {
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("numpy", "numba", "torch", "pynndescent")},
        "seed": 0,
        "note": "processor time of all threads; two cores shared with other work",
    }
    sizes = [size for size in SIZES if not asked or f"{size[0]}x{size[1]}" in asked]
    kept = json.loads(RESULTS.read_text())["rows"] if asked else []
    rows = [r for r in kept if (r["n"], r["d"]) not in {size[:2] for size in sizes}]
    approximate_cosine_graph(draw_units(3000, 64, 8))  # compile the kernels first
    for size in sizes:
        rows.append(measure_size(*size))
        print(json.dumps(rows[-1]), flush=True)
        RESULTS.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
