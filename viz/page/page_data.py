"""A hierarchy as JSON data for the page: all axes, packed units, and the strongest connections.

Arrays over units are base64 of little-endian integers. The browser unpacks them when an axis is opened. Weights and affinities
have 8 bits, because they are shown as colours and widths.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.report import measure_coverage
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.graph.axis_units import AxisUnits
from netgraph.graph.graph import unit_graph
from netgraph.tracing.unit_spec import UnitSpec, term_axes

STRONGEST = 2  # strongest connections of each unit, for each pair of axes and from both ends
MAX_EDGES = 100_000  # most connections of a level
ROWS = 1 << 16  # units in memory at a time


def build_page_data(hierarchy: Hierarchy) -> dict[str, Any]:
    """Return the data of the page."""
    spec = hierarchy.levels[0].spec
    # Levels with fewer blocks lack the axes of merged blocks. The page shows the axes of all levels, without positions.
    everywhere = set.intersection(*(set(level.spec.axes) for level in hierarchy.levels))
    names = [n for n in order_axes(spec) if n in everywhere and spec.axes[n].kind != "index"]
    share, reasons = measure_coverage(hierarchy)
    options = {} if hierarchy.options is None else hierarchy.options.to_plain()
    return {
        "name": type(hierarchy.levels[0].model).__name__,
        "complexity": [hierarchy.operator_complexity, hierarchy.grid_complexity],
        "options": {k: str(v) for k, v in options.items() if k in ("coarsener", "ratio", "budget", "repair")},
        "merged": share,
        "kept": reasons[:12],
        "axes": [_describe_axis(hierarchy, name) for name in names],
        "levels": [_describe_level(hierarchy, i, names) for i in range(len(hierarchy.levels))],
    }


def order_axes(spec: UnitSpec) -> list[str]:
    """Return the axes of the unit graph in the order of the parameters, inputs of a layer before its outputs."""
    order: dict[str, None] = {}
    for name, terms in spec.parameters.items():
        axes = [(a not in spec.sums.get((name, d), ()), a) for d, t in enumerate(terms) for a in term_axes(t)]
        if not all(is_output for is_output, _ in axes):
            order |= dict.fromkeys(a for _, a in sorted(axes, key=lambda pair: pair[0]))
    return list(order | dict.fromkeys(spec.used))


def _describe_axis(hierarchy: Hierarchy, name: str) -> dict[str, Any]:
    """Return name, kind, sizes and parameters of an axis."""
    axis = hierarchy.levels[0].spec.axes[name]
    readers = hierarchy.levels[0].spec.readers(name)
    return {
        "name": name,
        "kind": axis.kind,
        "kept": axis.kept,
        "sizes": [level.spec.axes[name].size for level in hierarchy.levels],
        "parameters": [f"{parameter}, dimension {dim}" for parameter, dim in readers[:40]],
        "more": max(0, len(readers) - 40),
    }


def _describe_level(hierarchy: Hierarchy, i: int, names: list[str]) -> dict[str, Any]:
    """Return the counts, units and connections of a level."""
    level = hierarchy.levels[i]
    below = hierarchy.levels[i + 1].transfers if i + 1 < len(hierarchy.levels) else {}
    links, edges = _summarize_connections(level, names)
    return {
        "units": level.n_units,
        "parameters": level.n_parameters,
        "flops": level.flops,
        "seconds": level.seconds,
        "axes": [_describe_units(level, name, below.get(name)) for name in names],
        "links": links,
        "edges": edges,
    }


def _describe_units(level: Level, name: str, transfer: Transfer | None) -> dict[str, Any]:
    """Return the weight of each unit, the aggregate it joins, and its similarity to that aggregate, (1 + cos) / 2."""
    x = AxisUnits(level.spec, traced_state(level.model), name).incoming
    lengths = np.nan_to_num(np.linalg.norm(x, axis=1) if x.shape[1] else np.zeros(len(x)), posinf=0)
    largest = float(lengths.max(initial=0))
    out = {
        "largest": largest,
        "weight": pack_integers(np.rint(lengths * (255 / (largest or 1))).astype(np.uint8)),
        "meanWeight": float(lengths.mean()) if len(lengths) else 0.0,
    }
    if transfer is None:
        return out
    alike = compare_with_aggregates(x, transfer, lengths)
    joins = pack_integers((transfer.aggregates + 1).astype(np.uint32))  # 0 for units that are left out
    likely = pack_integers(np.rint(alike * 255).astype(np.uint8))
    return {**out, "joins": joins, "affinity": likely, "meanAffinity": float(alike.mean())}


def compare_with_aggregates(x: NDArray[Any], transfer: Transfer, lengths: NDArray[Any]) -> NDArray[Any]:
    """Return ``(1 + cos) / 2`` between each unit and the mean of its aggregate, (n,), or 0 for a unit that is left out."""
    means = transfer.R.astype(x.dtype) @ x  # (k, n) @ (n, d)
    norms = np.linalg.norm(means, axis=1)
    out = np.zeros(len(x))
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        to = transfer.aggregates[part]
        dots = np.einsum("ij,ij->i", x[part], means[to])
        scale = np.maximum(lengths[part] * norms[to], 1e-30)
        out[part] = np.where(to >= 0, (1 + np.clip(dots / scale, -1, 1)) / 2, 0)
    return np.nan_to_num(out)


def _summarize_connections(level: Level, names: list[str]) -> tuple[list[Any], list[Any]]:
    """Return the root mean square weight between each two axes, and the strongest connections between units."""
    graph = unit_graph(level.model, level.spec, affinity=_no_affinity)
    number = {name: i for i, name in enumerate(names)}
    kept = min(STRONGEST, MAX_EDGES // max(sum(sum(block.shape) for block in graph.blocks.values()), 1))
    links, edges = [], []
    for (a, b), block in graph.blocks.items():
        if a not in number or b not in number:
            continue
        links.append([number[a], number[b], float(np.nan_to_num(np.sqrt(np.square(block, dtype=np.float64).mean())))])
        if kept:
            i, j = find_strongest(block, kept)
            largest = float(np.nan_to_num(block).max(initial=0))
            width = np.rint(np.nan_to_num(block[i, j]) * (255 / (largest or 1))).astype(np.uint8)
            edges.append([number[a], number[b], largest, pack_integers(i), pack_integers(j), pack_integers(width)])
    return links, edges


def _no_affinity(units: AxisUnits, *, seed: int = 0) -> sparse.csr_array:
    """An affinity without edges, because the page compares units with their aggregates only."""
    n = units.spec.axes[units.axis].size
    return sparse.csr_array((n, n))


def find_strongest(block: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows and columns of the entries that are among the k largest of their row or column."""
    chosen = np.zeros(block.shape, dtype=bool)
    for matrix, marks in ((block, chosen), (block.T, chosen.T)):
        n = matrix.shape[1]
        columns = np.argpartition(matrix, n - min(k, n), axis=1)[:, n - min(k, n) :]
        np.put_along_axis(marks, columns, True, axis=1)
    rows, columns = np.nonzero(chosen & (block > 0))
    return rows, columns


def pack_integers(numbers: NDArray[Any]) -> list[Any]:
    """Return non-negative integers as [bytes each, base64], in the smallest sufficient width."""
    largest = int(numbers.max(initial=0))
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    return [width, base64.b64encode(numbers.astype(f"<u{width}").tobytes()).decode("ascii")]
