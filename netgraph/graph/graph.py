"""UnitGraph: a network as a weighted graph of its units.

Nodes are the units of every axis that a parameter runs over. Edges between axes are connections, weighted by the
parameters that join two units. Edges within an axis are affinities. Connections are stored in blocks, one for each pair
of axes, and only `UnitGraph.to_scipy` and its siblings build one large matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from netgraph import plugins
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.graph.affinity_answers import measure_affinity
from netgraph.graph.axis_units import AxisUnits
from netgraph.graph.unit_rows import iter_unit_rows
from netgraph.tracing.unit_spec import Axis, UnitSpec, term_axes
from netgraph.utils.html_table import render_table

MAX_EDGES = 50_000_000  # a flat graph of more edges is refused, because it takes gigabytes of memory


@dataclass(frozen=True)
class UnitGraph:
    """A weighted graph of the units of a network. `unit_graph` makes one.

    Parameters
    ----------
    axes : dict of str to Axis
        The axes, in the order of their units in flat matrices.
    blocks : dict of (str, str) to array of shape (n_from, n_to)
        Connections from the units of one axis to those of another: the root mean square of the joining weights.
    affinities : dict of str to csr_array of shape (n_units, n_units)
        For each axis that may merge, the affinities of its units.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> graph = ng.unit_graph(model, ng.trace(model, torch.zeros(2, 5)))
    >>> graph.n_units, graph.n_connections, graph.offsets()
    (16, 64, {'0': 0, '2': 8, '0.in': 11})
    >>> graph.to_scipy().shape
    (16, 16)
    """

    axes: dict[str, Axis]
    blocks: dict[tuple[str, str], NDArray[Any]]
    affinities: dict[str, sparse.csr_array]

    @property
    def n_units(self) -> int:
        """Number of nodes of the graph."""
        return sum(axis.size for axis in self.axes.values())

    @property
    def n_connections(self) -> int:
        """Number of edges between axes."""
        return sum(int(np.count_nonzero(b)) for b in self.blocks.values())

    def offsets(self) -> dict[str, int]:
        """Return the row of each axis' first unit in flat matrices."""
        ends = np.cumsum([0] + [axis.size for axis in self.axes.values()])
        return dict(zip(self.axes, ends.tolist(), strict=False))

    def to_scipy(self) -> sparse.csr_array:
        """Return connections and affinities as one symmetric sparse matrix.

        Returns
        -------
        csr_array of shape (n_units, n_units)

        Raises
        ------
        NetgraphError
            The graph has more than `MAX_EDGES` edges.
        """
        edges = self.n_connections + sum(a.nnz for a in self.affinities.values())
        if edges > MAX_EDGES:
            raise NetgraphError(
                f"one matrix of this graph would have {edges:,} edges, and at most {MAX_EDGES:,} are allowed. "
                "Use .blocks and .affinities instead."
            )
        offsets, parts = self.offsets(), []
        for (a, b), block in self.blocks.items():
            i, j = np.nonzero(block)
            rows, columns = i + offsets[a], j + offsets[b]
            parts += [(block[i, j], rows, columns), (block[i, j], columns, rows)]
        for name, affinity in self.affinities.items():
            coo = affinity.tocoo()
            parts.append((coo.data, coo.row + offsets[name], coo.col + offsets[name]))
        if not parts:
            return sparse.csr_array((self.n_units, self.n_units))
        data, i, j = (np.concatenate([p[k] for p in parts]) for k in range(3))
        return sparse.csr_array((data, (i, j)), shape=(self.n_units, self.n_units))

    def to_networkx(self) -> Any:
        """Return the graph as a `networkx.Graph`.

        Returns
        -------
        networkx.Graph
            Nodes are pairs (axis, index) with the attributes ``kind``, ``axis``, ``index`` and ``weight``. Edges have
            ``weight`` and ``relation``, which is ``connection`` or ``affinity``.

        Raises
        ------
        NetgraphError
            The graph has more than `MAX_EDGES` edges.
        """
        networkx = import_package("networkx", "to_networkx")

        graph = networkx.Graph()
        for name, axis in self.axes.items():
            graph.add_nodes_from(
                ((name, i), {"kind": axis.kind, "axis": name, "index": i, "weight": 1}) for i in range(axis.size)
            )
        nodes = list(graph)
        edges = sparse.triu(
            self.to_scipy(), 1, format="coo"
        )  # two axes may be joined in both directions, and their weights add up
        for i, j, w in zip(edges.row.tolist(), edges.col.tolist(), edges.data.tolist(), strict=True):
            relation = "affinity" if nodes[i][0] == nodes[j][0] else "connection"
            graph.add_edge(nodes[i], nodes[j], weight=w, relation=relation)
        return graph

    def to_pyg(self) -> Any:
        """Return the graph as a `torch_geometric.data.HeteroData`.

        Returns
        -------
        torch_geometric.data.HeteroData
            A node type for each axis and an edge type for each relation of two axes. A type has the name of its axis
            with ``_`` for each dot, and the attribute ``axis`` of a node type has the original name.
        """
        geometric = import_package("torch_geometric.data", "to_pyg")
        data, type_names = geometric.HeteroData(), _make_type_names(self.axes)
        for name, axis in self.axes.items():
            data[type_names[name]].num_nodes = axis.size
            data[type_names[name]].axis = name
        for (a, b), block in self.blocks.items():
            i, j = np.nonzero(block)
            _fill_edges(data[type_names[a], "connection", type_names[b]], i, j, block[i, j])
        for name, affinity in self.affinities.items():
            coo = affinity.tocoo()
            _fill_edges(data[type_names[name], "affinity", type_names[name]], coo.row, coo.col, coo.data)
        return data

    def __repr__(self) -> str:
        edges = sum(a.nnz for a in self.affinities.values()) // 2
        return (
            f"UnitGraph({self.n_units:,} units of {len(self.axes)} axes, {self.n_connections:,} connections, "
            f"{edges:,} affinities)"
        )

    def _repr_html_(self) -> str:
        """Return the axes and connections as HTML tables for notebooks."""
        axes = [
            (name, x.size, x.kind, self.affinities[name].nnz // 2 if name in self.affinities else "–")
            for name, x in self.axes.items()
        ]
        joins = [(a, b, int(np.count_nonzero(w)), float(np.abs(w).max(initial=0))) for (a, b), w in self.blocks.items()]
        made = render_table("Axes", ["axis", "units", "kind", "affinities"], axes, foot=repr(self))
        return made + render_table("Connections", ["from", "to", "edges", "heaviest"], joins)


def _fill_edges(store: Any, i: Any, j: Any, weight: Any) -> None:
    """Write edges and weights into a store of torch-geometric."""
    store.edge_index = torch.from_numpy(np.stack([i, j]).astype(np.int64))
    store.edge_weight = torch.from_numpy(np.asarray(weight, dtype=np.float32))


def _make_type_names(axes: Iterable[str]) -> dict[str, str]:
    """Return a distinct name without dots for each axis."""
    type_names: dict[str, str] = {}
    for axis in axes:
        candidate, used_names = axis.replace(".", "_") or "root", set(type_names.values())
        numbers = itertools.count(2)
        while candidate in used_names:
            candidate = f"{axis.replace('.', '_')}_{next(numbers)}"
        type_names[axis] = candidate
    return type_names


def unit_graph(model: nn.Module, spec: UnitSpec, *, affinity: str | Any = "cosine", seed: int = 0) -> UnitGraph:
    """Return the weighted graph of a network's units.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    spec : UnitSpec
        The trace of the network.
    affinity : str or callable, default "cosine"
        The name of an entry point of ``netgraph.affinities``, or a callable ``(units, *, seed) -> csr_array`` of an
        `netgraph.graph.axis_units.AxisUnits`.
    seed : int, default 0
        Seed of the random choices that some affinities make.

    Returns
    -------
    UnitGraph

    Raises
    ------
    PluginError
        No affinity has this name.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> graph = ng.unit_graph(model, ng.trace(model, torch.zeros(2, 5)))
    >>> graph
    UnitGraph(16 units of 3 axes, 64 connections, 28 affinities)
    >>> graph.blocks["0", "2"].shape
    (8, 3)
    """
    state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weigh = plugins.load_plugin("netgraph.affinities", affinity) if isinstance(affinity, str) else affinity
    affinities = {
        axis.name: measure_affinity(weigh, AxisUnits(spec, state, axis.name, seed), seed=seed).tocsr()
        for axis in spec.free
    }
    return UnitGraph(spec.used, _build_blocks(spec, state), affinities)


def _build_blocks(spec: UnitSpec, state: Mapping[str, Tensor]) -> dict[tuple[str, str], NDArray[Any]]:
    """Return the root mean square of all weights that join two axes, for every pair."""
    squares: dict[tuple[str, str], Tensor] = {}
    counts: dict[tuple[str, str], int] = {}
    for name, terms in spec.parameters.items():
        for (i, o), block in _iter_connections(spec, name, terms, state[name]):
            squares[i, o] = squares[i, o] + block if (i, o) in squares else block
            counts[i, o] = counts.get((i, o), 0) + 1
    return {key: torch.sqrt(s / counts[key]).cpu().numpy() for key, s in squares.items()}


def _iter_connections(spec: UnitSpec, name: str, terms: tuple[Any, ...], tensor: Tensor) -> Any:
    """Yield the mean squares of a parameter for each pair of an incoming and an outgoing axis."""
    incoming = [(d, a) for d in range(len(terms)) for a in sorted(spec.sums.get((name, d), ()))]
    for d_in, a in incoming:
        for d_out in range(len(terms)):
            for b in dict.fromkeys(term_axes(terms[d_out])):
                if d_out == d_in or b in spec.sums.get((name, d_out), ()) or (a == b):
                    continue
                block = _mean_square(spec, terms, tensor, (d_in, a), (d_out, b))
                if block is not None:
                    yield (a, b), block


def _mean_square(
    spec: UnitSpec, terms: Any, tensor: Tensor, one: tuple[int, str], two: tuple[int, str]
) -> Tensor | None:
    """Return the mean squares (n_one, n_two) of the entries that join a unit of one axis to a unit of the other."""
    (d1, a), (d2, b) = one, two
    square = (
        tensor.detach().to("cpu", torch.float32).square().movedim((d1, d2), (0, 1)).flatten(2).mean(2)
        if tensor.ndim > 2
        else (tensor.detach().to("cpu", torch.float32).square().movedim((d1, d2), (0, 1)))
    )
    total = None
    for part in iter_unit_rows(square, 0, terms[d1], a, spec.sizes):
        part = part.unflatten(1, (-1, square.shape[1])).mean(1)  # (n_one, whole second dimension)
        for inner in iter_unit_rows(part, 1, terms[d2], b, spec.sizes):
            block = inner.unflatten(1, (part.shape[0], -1)).mean(2).T  # (n_one, n_two)
            total = block if total is None else total + block
    return total


def contract(graph: UnitGraph, transfers: Mapping[str, Any]) -> UnitGraph:
    """Merge the units of a graph. Connections and affinities are averaged over aggregates: ``R A R'``.

    Parameters
    ----------
    graph : UnitGraph
        The fine graph.
    transfers : dict of str to Transfer
        By axis, the aggregates of its units. Other axes stay as they are.

    Returns
    -------
    UnitGraph
        The coarse graph. Affinities of a unit to itself are dropped.

    Raises
    ------
    NetgraphError
        A transfer is of an axis that the graph lacks, or of another number of units.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> graph = ng.unit_graph(model, ng.trace(model, torch.zeros(2, 5)))
    >>> ng.contract(graph, {"0": ng.Transfer([0, 0, 1, 1, 2, 2, 3, 3])})
    UnitGraph(12 units of 3 axes, 32 connections, 6 affinities)
    """

    for name, transfer in transfers.items():
        size = graph.axes[name].size if name in graph.axes else None
        if size is None or getattr(transfer, "n_fine", None) != size:
            known = f"has {size} units" if size is not None else f"is none of {', '.join(graph.axes)}"
            raise NetgraphError(
                f"axis {name!r} {known}, and {transfer!r} was given for it. Give a Transfer from the units of an axis."
            )

    def restrict_block(matrix: Any, a: str, b: str) -> Any:
        if a in transfers:
            matrix = transfers[a].R @ matrix
        return matrix @ transfers[b].R.T if b in transfers else matrix

    axes = {n: replace(x, size=transfers[n].n_coarse) if n in transfers else x for n, x in graph.axes.items()}
    blocks = {(a, b): restrict_block(m, a, b) for (a, b), m in graph.blocks.items()}
    affinities = {}
    for name, matrix in graph.affinities.items():
        coarse = sparse.lil_array(restrict_block(matrix, name, name))
        coarse.setdiag(0)
        affinities[name] = sparse.csr_array(coarse)
    return UnitGraph(axes, blocks, affinities)
