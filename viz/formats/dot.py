"""DOT, the language of Graphviz (Gansner and North, Software: Practice and Experience 30(11), 2000).

All text is escaped as Graphviz expects. Labels also escape braces, bars and angle brackets, which mean fields in record
shapes, so a label shows the name for any shape of the nodes. Weights are quoted, because numbers in DOT have no exponent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.utils.text import replace_hidden
from netgraph.viz.formats.flat_graph import FlatGraph, build_flat_graph, parse_level


def escape_dot(text: str, *, label: bool = False) -> str:
    """Return quoted text. In a label, the characters that mean fields of a record are escaped too."""
    text = re.sub(r'([\\"{}|<>])' if label else r'([\\"])', r"\\\1", text)
    text = text.replace("\n", r"\n")  # one after a backslash would be lost
    return '"' + replace_hidden(text, lambda c: f"\\\\u{ord(c):04x}") + '"'


def write_dot(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level in DOT.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write. ``net.level1.dot`` is the graph of level 1.
    """
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(format_dot(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def format_dot(graph: FlatGraph) -> Iterator[str]:
    """Yield the lines of a graph in DOT."""
    axes = [
        f"axis={escape_dot(name)} kind={escape_dot(kind)}" for name, kind in zip(graph.names, graph.kinds, strict=True)
    ]
    columns = [f"{level}=%d" for level in graph.aggregates]
    row = " ".join(["n%d [label=%s %s index=%d", *columns]) + "];\n"
    labels = [escape_dot(label, label=True) for label in graph.labels()]
    lists = [values.tolist() for values in (graph.index, *graph.aggregates.values())]
    yield "graph units {\nnode [shape=box];\n"
    for i, (axis, label, *numbers) in enumerate(zip(graph.axis.tolist(), labels, *lists, strict=True)):
        yield row % (i, label, axes[axis], *numbers)
    ends = graph.rows.tolist(), graph.columns.tolist()
    for i, j, weight, relation in zip(*ends, graph.values.astype(float).tolist(), graph.relations(), strict=True):
        yield f'n{i} -- n{j} [weight="{weight!r}" relation={relation}];\n'
    yield "}\n"
