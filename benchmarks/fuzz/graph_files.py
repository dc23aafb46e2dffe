"""Targets of the graph files that netgraph writes: METIS, Matrix Market, npz, GraphML, GEXF, DOT and node-link JSON.

netgraph reads none of these formats. The judges are their readers elsewhere: networkx, pydot, scipy, and for METIS pymetis with a parser
of a few lines after the manual. A graph with any names and weights must read back as it is.
"""

from __future__ import annotations

import io
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pydot
import pymetis
from document_edits import make_mutator, read_edits
from mutations import make_word_mutator
from own_formats import make_hierarchies
from scipy import io as scipy_io
from scipy import sparse
from watching import Target, WrongAnswerError

from netgraph.viz import export
from netgraph.viz.exporters import find_exporter
from netgraph.viz.formats.dot import format_dot
from netgraph.viz.formats.flat_graph import FlatGraph
from netgraph.viz.formats.graphml import format_gexf, format_graphml
from netgraph.viz.formats.matrices import transfer_matrix
from netgraph.viz.formats.metis import LARGEST, format_metis
from netgraph.viz.formats.node_link import format_node_link

BASES = [
    {"names": ["fc1", "layer.0.conv"], "kinds": ["linear", "conv"], "sizes": [3, 2], "edges": [[0, 1, 0.5], [1, 3, 1e-3], [2, 4, 2.0]], "aggregates": [0, 0, 1, 2, 2]},
    {"names": ['a"b\\', "é<&>{|}\u2028"], "kinds": ["x", "y"], "sizes": [1, 1], "edges": [[0, 1, 1e300]], "aggregates": [0, -1]},
]  # fmt: skip
NAMES = [
    "\\",
    '"',
    "\\n",
    "]]>",
    "<b>",
    "&amp;",
    "\u2028",
    "\ud800",
    "\x00",
    "{",
    "node",
    "strict",
    "é",
    "%d",
    "\U0001f600",
    "\ufffe",
    " ",
    "a:b",
    "-->",
]


def build_graph(spec: Any) -> FlatGraph | None:
    """Return the graph of a specification, or None for one that netgraph would not build."""
    try:
        names, kinds, sizes = (
            [str(n) for n in spec["names"]],
            [str(k) for k in spec["kinds"]],
            [int(n) for n in spec["sizes"]],
        )
        edges = {(int(i), int(j)): float(w) for i, j, w in spec["edges"]}
        joined = [int(a) for a in spec["aggregates"]]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
        return None
    n = sum(sizes)
    fits = (
        len(names) == len(kinds) == len(sizes) == len(set(names))
        and all(0 < size < 40 for size in sizes)
        and len(joined) == n
    )
    if (
        not fits
        or not all(0 <= i < j < n and 0 < w < math.inf for (i, j), w in edges.items())
        or not all(-1 <= a < 2**31 for a in joined)
    ):
        return None
    rows, columns = (np.array([edge[k] for edge in edges], dtype=np.int64) for k in (0, 1))
    index = np.concatenate([np.arange(size) for size in sizes] or [np.arange(0)])
    axis = np.repeat(np.arange(len(sizes)), sizes)
    return FlatGraph(
        names,
        kinds,
        axis,
        index,
        rows,
        columns,
        np.array(list(edges.values())),
        {"level1": np.array(joined, dtype=np.int64)},
    )


def check_formats(data: bytes, folder: Path) -> None:
    """Write a graph in each format, and read it with another library."""
    graph = build_graph(read_edits(data, BASES)[1])
    if graph is None:
        return
    edges = {
        (i, j): w for i, j, w in zip(graph.rows.tolist(), graph.columns.tolist(), graph.values.tolist(), strict=True)
    }
    _check_networkx(
        nx.read_graphml(io.BytesIO(_encode(format_graphml(graph)))),
        graph,
        edges,
        "GraphML",
        lambda v: int(v[1:]),
        _spell_for_xml,
    )
    _check_networkx(nx.read_gexf(io.BytesIO(_encode(format_gexf(graph)))), graph, edges, "GEXF", int, _spell_for_xml)
    document = json.loads("".join(format_node_link(graph)))
    _check_networkx(nx.node_link_graph(document, edges="edges"), graph, edges, "node-link JSON", int, str)
    _check_metis("".join(format_metis(graph)), graph, edges)
    _check_dot("".join(format_dot(graph)), graph, edges)


def _encode(lines: Any) -> bytes:
    return "".join(lines).encode("utf-8")


def _spell_for_xml(name: str) -> str:
    """Return a name as XML 1.0 can hold it (section 2.2): forbidden characters are written as text."""
    return "".join(
        c
        if c in "\t\n\r" or 0x20 <= ord(c) <= 0xD7FF or ord(c) >= 0x10000 or 0xE000 <= ord(c) <= 0xFFFD
        else f"\\u{ord(c):04x}"
        for c in name
    )


def _check_networkx(read: Any, graph: FlatGraph, edges: Any, name: str, number: Any, spell: Any) -> None:
    """Compare nodes, names, and weights of a graph that networkx has read."""
    if read.number_of_nodes() != graph.n_nodes or read.number_of_edges() != graph.n_edges:
        raise WrongAnswerError(f"{name} reads back with other numbers of nodes or edges")
    for node, attributes in read.nodes(data=True):
        i = number(node)
        wanted = (spell(graph.names[graph.axis[i]]), int(graph.index[i]), int(graph.aggregates["level1"][i]))
        if (attributes["axis"], int(attributes["index"]), int(attributes["level1"])) != wanted:
            raise WrongAnswerError(f"{name} reads back with another name or number")
    for a, b, attributes in read.edges(data=True):
        if float(attributes["weight"]) != edges[tuple(sorted((number(a), number(b))))]:
            raise WrongAnswerError(f"{name} reads back with another weight")


def _check_metis(text: str, graph: FlatGraph, edges: Any) -> None:
    """Compare a METIS file with the graph, by its manual, and give it to METIS."""
    head, *lines = text.split("\n")[:-1]
    if [int(word) for word in head.split()] != [graph.n_nodes, graph.n_edges, 1] or len(lines) != graph.n_nodes:
        raise WrongAnswerError("the head of a METIS file is not that of its graph")
    scale, neighbours, weights = LARGEST / max(edges.values(), default=1.0), [], []
    for i, line in enumerate(lines):
        numbers = [int(word) for word in line.split()]
        neighbours.append([j - 1 for j in numbers[::2]])
        weights.append(numbers[1::2])
        for j, weight in zip(neighbours[-1], weights[-1], strict=True):
            exact = edges[tuple(sorted((i, j)))] * scale
            if weight < 1 or abs(weight - max(exact, 1)) > 0.5 + 1e-6 * weight:
                raise WrongAnswerError("a METIS file has another weight")
    if graph.n_nodes > 1 and edges:
        pymetis.part_graph(2, adjacency=neighbours, eweights=[w for row in weights for w in row])


def _check_dot(text: str, graph: FlatGraph, edges: Any) -> None:
    """Compare a DOT file with the graph, as pydot reads it."""
    (read,) = pydot.graph_from_dot_data(text) or (None,)
    if read is None:
        raise WrongAnswerError("DOT cannot be read by pydot")
    nodes = [node for node in read.get_nodes() if node.get_name() != "node"]
    if len(nodes) != graph.n_nodes or len(read.get_edges()) != graph.n_edges:
        raise WrongAnswerError("DOT reads back with other numbers of nodes or edges")
    for edge in read.get_edges():
        ends = tuple(int(end[1:]) for end in (edge.get_source(), edge.get_destination()))
        if float(edge.get("weight").strip('"')) != edges[ends]:
            raise WrongAnswerError("DOT reads back with another weight")


@cache
def list_formats() -> list[str]:
    """Return the suffixes of graphs and matrices. Pages and figures take too long here."""
    return ["mtx", "npz", "graphml", "gexf", "dot", "json", "graph"]


def check_file_name(data: bytes, folder: Path) -> None:
    """Export under any name: words before the suffix choose level and matrix. What is read back fits the hierarchy."""
    name = data.decode("utf-8", "replace").replace("/", "").replace("\0", "")[:80]
    path = folder / name
    if name in ("", ".", "..") or path.suffix.removeprefix(".").lower() not in list_formats():
        find_exporter(path) if name not in ("", ".", "..") else None
        return
    hierarchy = make_hierarchies()[0]
    export(hierarchy, path)
    try:
        _check_matrix(path, hierarchy)
    finally:
        path.unlink()


def _check_matrix(path: Path, hierarchy: Any) -> None:
    """Compare a matrix that scipy reads with the product of the transfers."""
    kind = path.suffix.lower()
    if kind not in (".mtx", ".npz"):
        return
    matrix = scipy_io.mmread(path) if kind == ".mtx" else sparse.load_npz(path)
    words = path.name.lstrip(".").split(".")[1:-1]
    letter = next((word for word in reversed(words) if word in ("P", "R", "A")), "P")
    levels = [int(word[5:]) for word in words if word.startswith("level") and word[5:].isascii() and word[5:].isdigit()]
    if letter == "A":
        if not np.allclose(matrix.toarray(), matrix.toarray().T):
            raise WrongAnswerError("the graph of a level reads back without symmetry")
    elif not np.allclose(
        matrix.toarray(), transfer_matrix(hierarchy, letter, levels[-1] if levels else None).toarray()
    ):
        raise WrongAnswerError(f"{letter} reads back as another matrix")


TARGETS = [
    Target("graph_formats", check_formats, lambda: [b'{"base":0,"edits":[]}', b'{"base":1,"edits":[]}'], make_mutator(lambda: BASES, [*NAMES, 1e-300, 1e-9, 1e17, 3, [0, 2, 0.1]])),
    Target("export_names", check_file_name, lambda: [f"net.{word}.{kind}".encode() for word in ("P", "R", "A", "level1.P", "level1.A") for kind in ("mtx", "npz")] + [b"net.level2.graphml", b"net.json", b"a.graph"],
           make_word_mutator(("net", "level", "level1", "level2", "level0", "level9", "²", "٣", "P", "R", "A", "mtx", "npz", "graphml", "gexf", "dot", "json", "graph", "é", "\n"), ".")),
]  # fmt: skip
