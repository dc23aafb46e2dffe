"""Claim: writing a graph of 10,000 units and 100,000 edges takes no longer than the writers of networkx.

GraphML, GEXF, DOT and node-link JSON are written from arrays, and by the writers of networkx (of pydot for DOT) from an existing graph
with the same attributes. Times are processor time in rounds that alternate. Ratios within a round are median, minimum and maximum.

    .venv/bin/pip install -c constraints.txt -e '.[dev]'
    .venv/bin/python benchmarks/viz/exports.py
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/common.py
from common import spread, time_call

from netgraph.viz.formats.dot import format_dot
from netgraph.viz.formats.flat_graph import FlatGraph
from netgraph.viz.formats.graphml import format_gexf, format_graphml
from netgraph.viz.formats.node_link import format_node_link

RESULTS = Path(__file__).parent.parent / "results" / "exports.json"
UNITS, EDGES, ROUNDS = 10_000, 100_000, 5


def random_graph() -> FlatGraph:
    """Return ten axes of a thousand units with random edges."""
    rng = np.random.default_rng(0)
    ends = np.unique(np.sort(rng.integers(0, UNITS, (2, EDGES + 5_000)), axis=0), axis=1)
    ends = ends[:, ends[0] < ends[1]]
    ends = ends[:, np.sort(rng.permutation(ends.shape[1])[:EDGES])]
    axis, index = np.divmod(np.arange(UNITS), UNITS // 10)
    names = [f"layer{i // 3}.{i % 3}.conv" for i in range(10)]
    values = rng.random(EDGES).astype(np.float32)
    return FlatGraph(names, ["channel"] * 10, axis, index, ends[0], ends[1], values, {"level1": index // 2})


def to_networkx(flat: FlatGraph) -> Any:
    """Return the same graph in networkx, with the same attributes."""
    out = nx.Graph()
    for i, label in enumerate(flat.labels()):
        axis, index = int(flat.axis[i]), int(flat.index[i])
        level = {"level1": int(flat.aggregates["level1"][i])}
        out.add_node(i, label=label, axis=flat.names[axis], kind="channel", index=index, **level)
    ends = zip(flat.rows.tolist(), flat.columns.tolist(), flat.values.tolist(), flat.relations(), strict=True)
    for i, j, weight, relation in ends:
        out.add_edge(i, j, weight=weight, relation=relation)
    return out


def write_pieces(pieces: Any, path: Path) -> None:
    """Write the text that a format yields, as the exporters do."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(pieces)


def main() -> None:
    """Run the benchmark."""
    flat = random_graph()
    other = to_networkx(flat)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net"

        def nx_json() -> None:
            path.write_text(json.dumps(nx.node_link_data(other, edges="edges")))

        ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "GraphML": (lambda: write_pieces(format_graphml(flat), path), lambda: nx.write_graphml(other, path)),
            "GEXF": (lambda: write_pieces(format_gexf(flat), path), lambda: nx.write_gexf(other, path)),
            "node-link JSON": (lambda: write_pieces(format_node_link(flat), path), nx_json),
            "DOT": (lambda: write_pieces(format_dot(flat), path), lambda: nx.nx_pydot.write_dot(other, path)),
        }
        rows = {
            name: [(time_call(ours), time_call(theirs)) for _ in range(ROUNDS)] for name, (ours, theirs) in ways.items()
        }
    table = [
        {
            "format": name,
            "seconds": spread([a for a, _ in pairs]),
            "networkx_times_ours": spread([b / a for a, b in pairs]),
        }
        for name, pairs in rows.items()
    ]
    print(json.dumps(table, indent=1))
    machine = {
        "machine": platform.platform(),
        "versions": {p: version(p) for p in ("networkx", "pydot", "numpy")},
        "units": UNITS,
        "edges": EDGES,
        "rounds": ROUNDS,
        "note": "processor time; two cores shared with other work; median, least, most",
    }
    RESULTS.write_text(json.dumps({**machine, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
