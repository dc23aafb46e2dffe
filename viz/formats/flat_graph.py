"""FlatGraph: one level of a hierarchy as arrays of nodes and edges, the common input of all graph formats.

The name of a file may choose the level: ``net.level1.graphml`` is the graph of level 1, ``net.graphml`` that of level 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.graph.graph import UnitGraph, unit_graph
from netgraph.utils.text import shorten

SHOWN = 80  # most characters of an axis name in a label; files also hold the full name


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """A graph with numbered nodes that lists each edge once.

    Parameters
    ----------
    names : list of str
        Name of each axis.
    kinds : list of str
        Kind of the units of each axis.
    axis : int array of shape (n,)
        Axis of each node, as a position in ``names``.
    index : int array of shape (n,)
        Number of each node in its axis.
    rows : int array of shape (m,)
        First end of each edge.
    columns : int array of shape (m,)
        Second end of each edge, greater than the first.
    values : array of shape (m,)
        Edge weights: affinities within an axis, connections between axes.
    aggregates : dict of str to int array of shape (n,)
        For each coarser level, by a name such as ``level1``, the unit of that level that each node joins, or -1.
    """

    names: list[str]
    kinds: list[str]
    axis: NDArray[np.int64]
    index: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[Any]
    aggregates: Mapping[str, NDArray[np.int64]]

    @property
    def n_nodes(self) -> int:
        """Number of units."""
        return len(self.axis)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.rows)

    def labels(self) -> list[str]:
        """Return a short name for each node: ``fc1[3]``."""
        short = [shorten(name, SHOWN, substitute=None) for name in self.names]
        return [f"{short[a]}[{i}]" for a, i in zip(self.axis.tolist(), self.index.tolist(), strict=True)]

    def relations(self) -> list[str]:
        """Return ``affinity`` for each edge within an axis, and ``connection`` for each edge between two axes."""
        within = self.axis[self.rows] == self.axis[self.columns]
        return [("connection", "affinity")[w] for w in within.tolist()]

    def adjacency(self) -> sparse.csr_array:
        """Return the symmetric matrix of edge weights, (n, n)."""
        half = sparse.csr_array((self.values, (self.rows, self.columns)), shape=(self.n_nodes, self.n_nodes))
        return sparse.csr_array(half + half.T)


def parse_level(hierarchy: Hierarchy, path: Path) -> int | None:
    """Return the level in the name of a file, or None.

    Raises
    ------
    NetgraphError
        The hierarchy has no such level.
    """
    numbers = [int(m[1]) for word in path.suffixes[:-1] if (m := re.fullmatch(r"\.level(\d+)", word))]
    if not numbers:
        return None
    if numbers[-1] >= len(hierarchy.levels):
        raise NetgraphError(
            f"{path.name} asks for level {numbers[-1]}, but the hierarchy has levels 0 to {len(hierarchy.levels) - 1}. "
            "Name one of them."
        )
    return numbers[-1]


def build_flat_graph(hierarchy: Hierarchy, level: int = 0) -> FlatGraph:
    """Return the graph of the units of one level, with the unit that each joins on coarser levels.

    Raises
    ------
    NetgraphError
        A weight is not finite, or there are more edges than `netgraph.graph.graph.MAX_EDGES`.
    """
    graph = unit_graph(hierarchy.levels[level].model, hierarchy.levels[level].spec)
    return flatten_unit_graph(graph, compose_aggregates(hierarchy, graph, level))


def flatten_unit_graph(graph: UnitGraph, aggregates: Mapping[str, NDArray[np.int64]]) -> FlatGraph:
    """Return a unit graph as arrays.

    Raises
    ------
    NetgraphError
        A weight is not finite.
    """
    edges = sparse.triu(graph.to_scipy(), 1, format="coo")
    n_wrong = int((~np.isfinite(edges.data)).sum())
    if n_wrong:
        raise NetgraphError(
            f"{n_wrong:,} of {edges.nnz:,} edges have a weight that is not finite, because parameters of the network are "
            "not finite. Replace these parameters before the export."
        )
    sizes = [axis.size for axis in graph.axes.values()]
    return FlatGraph(
        list(graph.axes),
        [axis.kind for axis in graph.axes.values()],
        np.repeat(np.arange(len(sizes)), sizes),
        np.concatenate([np.arange(n) for n in sizes] or [np.arange(0)]),
        edges.row.astype(np.int64),
        edges.col.astype(np.int64),
        edges.data,
        aggregates,
    )


def compose_aggregates(hierarchy: Hierarchy, graph: UnitGraph, level: int) -> dict[str, NDArray[np.int64]]:
    """Return the unit that each unit of ``level`` joins on every coarser level, axis after axis."""
    joined = {name: np.arange(axis.size) for name, axis in graph.axes.items()}
    out = {}
    for i in range(level + 1, len(hierarchy.levels)):
        for name, transfer in hierarchy.levels[i].transfers.items():
            if name in joined:
                joined[name] = np.where(joined[name] >= 0, transfer.aggregates[joined[name]], -1)
        out[f"level{i}"] = np.concatenate([*joined.values(), np.arange(0)])
    return out
