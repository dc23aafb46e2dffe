"""PyTorch Geometric tensors: ``HeteroData.from_dict(torch.load(path))``, without running anybody's code."""

from __future__ import annotations

from pathlib import Path

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.graph.graph import unit_graph
from netgraph.viz.formats.flat_graph import compose_aggregates, parse_level


def write_pyg(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level as a dict of tensors, a node type for each axis.

    Each node type has its ``axis`` by name and ``level1``, ``level2``, ...: the unit of that level which each joins.
    """
    level = parse_level(hierarchy, Path(path)) or 0
    graph = unit_graph(hierarchy.levels[level].model, hierarchy.levels[level].spec)
    data, at = graph.to_pyg(), graph.offsets()
    for name, found in compose_aggregates(hierarchy, graph, level).items():
        for axis, store in zip(graph.axes, data.node_stores, strict=True):
            store[name] = torch.from_numpy(found[at[axis] : at[axis] + graph.axes[axis].size].copy())
    torch.save(data.to_dict(), path)
