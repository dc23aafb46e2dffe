"""METIS .graph files, which METIS, KaHIP, Scotch and NetworKit read (METIS 5 manual, section 4.1.1).

METIS takes positive integers: weights are divided by the largest and multiplied by `LARGEST`, and those that would
round to 0 become 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.viz.formats.flat_graph import FlatGraph, build_flat_graph, parse_level

LARGEST = 1_000_000


def write_metis(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level as a METIS file."""
    with Path(path).open("w", encoding="ascii", newline="\n") as file:
        file.writelines(format_metis(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def format_metis(graph: FlatGraph) -> Iterator[str]:
    """Yield a graph as lines: a head, then for each unit its neighbours, numbered from 1, each with its weight."""
    matrix = graph.adjacency()
    scale = LARGEST / max(float(matrix.data.max(initial=0)), 1e-300)
    weights = np.maximum(np.rint(matrix.data * scale), 1).astype(np.int64).tolist()
    words = [f"{j} {w}" for j, w in zip((matrix.indices + 1).tolist(), weights, strict=True)]
    yield f"{graph.n_nodes} {graph.n_edges} 001\n"
    ends = matrix.indptr.tolist()
    for start, end in pairwise(ends):
        yield " ".join(words[start:end]) + "\n"
