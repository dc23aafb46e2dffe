"""DOT, the language of Graphviz (Gansner, North, Software: Practice and Experience 30(11), 2000).

All text is written for Graphviz's escaped strings. Braces, bars and angle brackets mean fields in record shapes, so
labels escape them too: a label is the name it shows, whatever shape the nodes are given. Weights stand in quotes: a
number of the language has no exponent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.viz.formats.flat_graph import FlatGraph, build_flat_graph, parse_level

_UNSEEN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # newlines too: a bare one after a backslash would be lost


def escape_dot(text: str, *, label: bool = False) -> str:
    """Return quoted text; in a label, what means fields of a record is escaped."""
    text = re.sub(r'([\\"{}|<>])' if label else r'([\\"])', r"\\\1", text)
    text = text.replace("\n", r"\n")
    return '"' + _UNSEEN.sub(lambda m: f"\\\\u{ord(m[0]):04x}", text) + '"'


def write_dot(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level in DOT."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(format_dot(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def format_dot(graph: FlatGraph) -> Iterator[str]:
    """Yield a graph in DOT, in pieces."""
    axes = [
        f"axis={escape_dot(name)} kind={escape_dot(kind)}" for name, kind in zip(graph.names, graph.kinds, strict=True)
    ]
    columns = [f"{level}=%d" for level in graph.aggregates]
    row = " ".join(["n%d [label=%s %s index=%d", *columns]) + "];\n"
    labels = [escape_dot(label, label=True) for label in graph.labels()]
    found = [values.tolist() for values in (graph.index, *graph.aggregates.values())]
    yield "graph units {\nnode [shape=box];\n"
    for i, (axis, label, *numbers) in enumerate(zip(graph.axis.tolist(), labels, *found, strict=True)):
        yield row % (i, label, axes[axis], *numbers)
    ends = graph.rows.tolist(), graph.columns.tolist()
    for i, j, weight, relation in zip(*ends, graph.values.astype(float).tolist(), graph.relations(), strict=True):
        yield f'n{i} -- n{j} [weight="{weight!r}" relation={relation}];\n'
    yield "}\n"
