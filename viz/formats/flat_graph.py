"""FlatGraph: one level of a hierarchy as arrays of nodes and edges, which every graph format writes its own way.

A file's name may say which level: ``net.level1.graphml`` is the graph of level 1, ``net.graphml`` that of level 0.
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

SHOWN = 80  # characters of an axis' name in a label; the name itself stands whole beside it


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """Units as numbered nodes, and each edge once.

    Parameters
    ----------
    names, kinds : list of str
        Of the axes.
    axis, index : int arrays of shape (n,)
        Which axis each node belongs to, and its number there.
    rows, columns : int arrays of shape (m,)
        The two ends of each edge, rows before columns.
    values : array of shape (m,)
        Edge weights: affinities within an axis, connections between axes.
    aggregates : dict of str to int array of shape (n,)
        For each coarser level, ``level1`` say, the unit of that level which each node joins; -1 where it is left out.
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
        """Return for each edge ``affinity`` within an axis, ``connection`` between two."""
        within = self.axis[self.rows] == self.axis[self.columns]
        return [("connection", "affinity")[w] for w in within.tolist()]

    def adjacency(self) -> sparse.csr_array:
        """Return the symmetric matrix of edge weights, (n, n)."""
        half = sparse.csr_array((self.values, (self.rows, self.columns)), shape=(self.n_nodes, self.n_nodes))
        return sparse.csr_array(half + half.T)


def parse_level(hierarchy: Hierarchy, path: Path) -> int | None:
    """Return the level that a file's name asks for, None where it asks for none.

    Raises
    ------
    NetgraphError
        The hierarchy has no such level.
    """
    asked = [int(m[1]) for word in path.suffixes[:-1] if (m := re.fullmatch(r"\.level(\d+)", word))]
    if not asked:
        return None
    if asked[-1] >= len(hierarchy.levels):
        raise NetgraphError(
            f"{path.name} asks for level {asked[-1]}, and the hierarchy has {len(hierarchy.levels)}, numbered from 0; "
            "name one of them"
        )
    return asked[-1]


def build_flat_graph(hierarchy: Hierarchy, level: int = 0) -> FlatGraph:
    """Return the graph of one level's units, with what becomes of them on coarser levels.

    Raises
    ------
    NetgraphError
        A weight is not finite, or there are more edges than `netgraph.graph.graph.MAX_EDGES`.
    """
    graph = unit_graph(hierarchy.levels[level].model, hierarchy.levels[level].spec)
    return flatten_unit_graph(graph, compose_aggregates(hierarchy, graph, level))


def flatten_unit_graph(graph: UnitGraph, aggregates: Mapping[str, NDArray[np.int64]]) -> FlatGraph:
    """Return a unit graph as arrays."""
    edges = sparse.triu(graph.to_scipy(), 1, format="coo")
    wrong = int((~np.isfinite(edges.data)).sum())
    if wrong:
        raise NetgraphError(
            f"{wrong:,} of {edges.nnz:,} edges have a weight that is not finite; the network has weights that are not "
            "finite: mend it before it is written"
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
    """Return for each level below ``level`` the unit that each unit of ``level`` joins, axis after axis."""
    now = {name: np.arange(axis.size) for name, axis in graph.axes.items()}
    out = {}
    for i in range(level + 1, len(hierarchy.levels)):
        for name, transfer in hierarchy.levels[i].transfers.items():
            if name in now:
                now[name] = np.where(now[name] >= 0, transfer.aggregates[now[name]], -1)
        out[f"level{i}"] = np.concatenate([*now.values(), np.arange(0)])
    return out
