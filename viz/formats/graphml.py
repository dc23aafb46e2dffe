"""GraphML and GEXF, the formats of Gephi, yEd, networkx and NetworKit.

Brandes et al., "GraphML progress report", Graph Drawing 2001. GEXF 1.3, gexf.net. XML forbids control characters and
halves of surrogate pairs. They are written as ``\\u0000``. Other characters without a picture are written as ``&#8206;``, and read back
as themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.utils.text import replace_hidden
from netgraph.viz.formats.flat_graph import FlatGraph, build_flat_graph, parse_level

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPED = {'"': "&quot;"}


def escape_xml(text: str) -> str:
    """Return text for XML, between tags or quotes, that reads back unchanged."""
    text = escape(_FORBIDDEN.sub(lambda m: f"\\u{ord(m[0]):04x}", text), _ESCAPED)
    return replace_hidden(text, lambda c: f"&#{ord(c)};")  # a reader turns bare tabs and ends of lines into spaces


def write_graphml(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level as GraphML.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write. ``net.level1.graphml`` is the graph of level 1.
    """
    _write_lines(Path(path), format_graphml(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def write_gexf(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level as GEXF 1.3.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write. ``net.level1.gexf`` is the graph of level 1.
    """
    _write_lines(Path(path), format_gexf(build_flat_graph(hierarchy, parse_level(hierarchy, Path(path)) or 0)))


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write UTF-8 with line feeds on every system."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _node_columns(graph: FlatGraph) -> list[tuple[str, str, list[str]]]:
    """Return the attributes of the nodes as (name, type, values as XML text)."""
    names, kinds = ([escape_xml(word) for word in words] for words in (graph.names, graph.kinds))
    axis = graph.axis.tolist()
    return [
        ("axis", "string", [names[a] for a in axis]),
        ("kind", "string", [kinds[a] for a in axis]),
        ("index", "int", [str(i) for i in graph.index.tolist()]),
        *((level, "int", [str(i) for i in units.tolist()]) for level, units in graph.aggregates.items()),
    ]


def format_graphml(graph: FlatGraph) -> Iterator[str]:
    """Yield the lines of a graph as GraphML."""
    columns = [("label", "string", [escape_xml(label) for label in graph.labels()]), *_node_columns(graph)]
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    for i, (name, kind, _) in enumerate(columns):
        yield f'<key id="d{i}" for="node" attr.name="{name}" attr.type="{kind}"/>\n'
    yield '<key id="w" for="edge" attr.name="weight" attr.type="double"/>\n'
    yield '<key id="r" for="edge" attr.name="relation" attr.type="string"/>\n<graph edgedefault="undirected">\n'
    row = "".join(f'<data key="d{i}">%s</data>' for i in range(len(columns)))
    for i, values in enumerate(zip(*(c[2] for c in columns), strict=True)):
        yield f'<node id="n{i}">{row % values}</node>\n'
    for i, j, weight, relation in _edge_rows(graph):
        yield (
            f'<edge source="n{i}" target="n{j}"><data key="w">{weight!r}</data><data key="r">{relation}</data></edge>\n'
        )
    yield "</graph>\n</graphml>\n"


def format_gexf(graph: FlatGraph) -> Iterator[str]:
    """Yield the lines of a graph as GEXF.

    Every attribute has a number as its id. Gephi Lite and Sigma read files by graphology, which shows any other id in the place of
    the title.
    """
    columns = _node_columns(graph)
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<gexf xmlns="http://gexf.net/1.3" version="1.3">\n'
    yield '<graph defaultedgetype="undirected" mode="static">\n<attributes class="node" mode="static">\n'
    for i, (name, kind, _) in enumerate(columns):
        yield f'<attribute id="{i}" title="{name}" type="{"integer" if kind == "int" else kind}"/>\n'
    yield '</attributes>\n<attributes class="edge" mode="static">\n'
    yield '<attribute id="0" title="relation" type="string"/>\n</attributes>\n<nodes>\n'
    row = "".join(f'<attvalue for="{i}" value="%s"/>' for i in range(len(columns)))
    labels = map(escape_xml, graph.labels())
    for i, (label, *values) in enumerate(zip(labels, *(c[2] for c in columns), strict=True)):
        yield f'<node id="{i}" label="{label}"><attvalues>{row % tuple(values)}</attvalues></node>\n'
    yield "</nodes>\n<edges>\n"
    for k, (i, j, weight, relation) in enumerate(_edge_rows(graph)):
        yield (
            f'<edge id="{k}" source="{i}" target="{j}" weight="{weight!r}"><attvalues><attvalue for="0" '
            f'value="{relation}"/></attvalues></edge>\n'
        )
    yield "</edges>\n</graph>\n</gexf>\n"


def _edge_rows(graph: FlatGraph) -> Iterator[tuple[int, int, float, str]]:
    """Return (first end, second end, weight, relation) of each edge."""
    ends = graph.rows.tolist(), graph.columns.tolist()
    return zip(*ends, graph.values.astype(float).tolist(), graph.relations(), strict=True)
