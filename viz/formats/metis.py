"""METIS .graph files, the format of METIS, KaHIP, Scotch and NetworKit (METIS 5 manual, section 4.1.1).

Weights in this format are positive integers. They are scaled so that the largest is `LARGEST`, and at least 1.
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
    """Write the graph of a level as a METIS file.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write. ``net.level1.graph`` is the graph of level 1.
    """
    with Path(path).open("w", encoding="ascii", newline="\n") as file:
        file.writelines(format_metis(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def format_metis(graph: FlatGraph) -> Iterator[str]:
    """Yield the lines: a head, then a line for each unit with its neighbours, numbered from 1, and their weights."""
    matrix = graph.adjacency()
    scale = LARGEST / max(float(matrix.data.max(initial=0)), 1e-300)
    weights = np.maximum(np.rint(matrix.data * scale), 1).astype(np.int64).tolist()
    words = [f"{j} {w}" for j, w in zip((matrix.indices + 1).tolist(), weights, strict=True)]
    yield f"{graph.n_nodes} {graph.n_edges} 001\n"
    for start, end in pairwise(matrix.indptr.tolist()):
        yield " ".join(words[start:end]) + "\n"
