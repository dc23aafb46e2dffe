"""Tensors for PyTorch Geometric: ``HeteroData.from_dict(torch.load(path))``. Loading the file runs no code."""

from __future__ import annotations

from pathlib import Path

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.graph.graph import unit_graph
from netgraph.io.files.pickles import save_pickle
from netgraph.viz.formats.flat_graph import compose_aggregates, parse_level


def write_pyg(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write the graph of a level as a dict of tensors, with a node type for each axis.

    Each node type has the name of its ``axis``, and tensors ``level1``, ``level2``, ... with the unit of that level that
    each unit joins.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : str or Path
        File to write. ``net.level1.pt`` is the graph of level 1.
    """
    level = parse_level(hierarchy, Path(path)) or 0
    graph = unit_graph(hierarchy.levels[level].model, hierarchy.levels[level].spec)
    data, at = graph.to_pyg(), graph.offsets()
    for name, units in compose_aggregates(hierarchy, graph, level).items():
        for axis, store in zip(graph.axes, data.node_stores, strict=True):
            store[name] = torch.from_numpy(units[at[axis] : at[axis] + graph.axes[axis].size].copy())
    save_pickle(data.to_dict(), Path(path))
