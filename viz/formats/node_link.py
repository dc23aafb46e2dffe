"""Node-link JSON, the format of `networkx.node_link_graph` and d3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.viz.formats.flat_graph import FlatGraph, build_flat_graph, parse_level


def write_node_link(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level as node-link JSON.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write. ``net.level1.json`` is the graph of level 1.
    """
    with Path(path).open("w", encoding="ascii", newline="\n") as file:
        file.writelines(format_node_link(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def format_node_link(graph: FlatGraph) -> Iterator[str]:
    """Yield a graph as pieces of JSON text."""
    axes = [
        f'"axis": {json.dumps(name)}, "kind": {json.dumps(kind)}'
        for name, kind in zip(graph.names, graph.kinds, strict=True)
    ]
    row = ", ".join(['{"id": %d, %s, "index": %d', *(f'"{level}": %d' for level in graph.aggregates)]) + "}"
    lists = [values.tolist() for values in (graph.index, *graph.aggregates.values())]
    yield '{"directed": false, "multigraph": false, "graph": {}, "nodes": [\n'
    nodes = enumerate(zip(graph.axis.tolist(), *lists, strict=True))
    yield ",\n".join(row % (i, axes[axis], *numbers) for i, (axis, *numbers) in nodes)
    yield '\n], "edges": [\n'
    ends = graph.rows.tolist(), graph.columns.tolist()
    edges = zip(*ends, graph.values.astype(float).tolist(), graph.relations(), strict=True)
    yield ",\n".join(f'{{"source": {i}, "target": {j}, "weight": {w!r}, "relation": "{r}"}}' for i, j, w, r in edges)
    yield "\n]}\n"
