"""The contract of a coarsener: `check_coarsener`, runnable by anyone, and the check of every answer at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.axisgraph import AxisGraph
from netgraph.errors import AggregatesError

Coarsener = Callable[..., Any]


def checked_aggregates(aggregates: Any, graph: AxisGraph, name: str) -> NDArray[np.int64]:
    """Return aggregates as int64 if they are a partition of the graph's units.

    Raises
    ------
    AggregatesError
        They are not; says what came back and how to renumber it.
    """
    array = np.asarray(aggregates)
    asked = f"coarsener {name!r} returned"
    of = f"for axis {graph.name!r} of {graph.n_units} units"
    rule = (
        "Aggregates are an int array of shape (n_units,) numbered from 0 with none skipped; "
        "numpy.unique(x, return_inverse=True)[1] renumbers any array that way."
    )
    if array.shape != (graph.n_units,) or array.dtype.kind not in "iu":
        raise AggregatesError(f"{asked} {array.dtype} of shape {array.shape} {of}. {rule}")
    present = np.unique(array)
    if not np.array_equal(present, np.arange(len(present))):
        raise AggregatesError(
            f"{asked} numbers {present.min()} to {present.max()}, {len(present)} of them, {of}. {rule}"
        )
    if graph.equal and len(set(np.bincount(array).tolist())) > 1:
        sizes = np.bincount(array)
        raise AggregatesError(
            f"{asked} aggregates of {sizes.min()} to {sizes.max()} units {of}, whose aggregates must all have one size: "
            "honour graph.equal"
        )
    return array.astype(np.int64)


def check_coarsener(coarsener: Coarsener, *, name: str | None = None) -> None:
    """Prove that a callable is a coarsener.

    It must return an int array of shape (n_units,) numbered from 0 with none skipped, leave the graph unchanged,
    answer alike for one seed, accept an edgeless graph and a single unit, keep every unit for ``n_coarse = n_units``,
    never return fewer aggregates than asked for, and honour ``graph.equal``.

    Parameters
    ----------
    coarsener : callable ``(graph, n_coarse, *, seed) -> aggregates``
    name : str, optional
        For messages.

    Raises
    ------
    AggregatesError
        The first rule that is broken.
    """
    called = name or str(getattr(coarsener, "__name__", repr(coarsener)))
    for graph, n_coarse in _trials():
        before = (graph.adjacency.copy(), graph.weight.copy())
        first = checked_aggregates(coarsener(graph, n_coarse, seed=3), graph, called)
        second = checked_aggregates(coarsener(graph, n_coarse, seed=3), graph, called)
        if not np.array_equal(first, second):
            raise AggregatesError(
                f"coarsener {called!r} gave two answers for one seed on {graph.name}; draw from seed only"
            )
        if (before[0] != graph.adjacency).nnz or not np.array_equal(before[1], graph.weight):
            raise AggregatesError(f"coarsener {called!r} changed the graph {graph.name}; work on a copy")
        _check_count(first, graph, n_coarse, called)


def _check_count(aggregates: NDArray[np.int64], graph: AxisGraph, n_coarse: int, name: str) -> None:
    found = int(aggregates.max()) + 1
    if found < n_coarse:
        raise AggregatesError(
            f"coarsener {name!r} made {found} aggregates where {n_coarse} were asked for, on {graph.name}"
        )


def _trials() -> list[tuple[AxisGraph, int]]:
    random = np.random.default_rng(0)
    points = random.normal(size=(24, 5))
    dense = np.maximum(points @ points.T, 0)
    np.fill_diagonal(dense, 0)
    full = sparse.csr_array(dense)
    path = sparse.csr_array(sparse.diags_array([np.ones(6), np.ones(6)], offsets=[-1, 1]))
    empty = sparse.csr_array((5, 5))
    graphs = [
        (full, 12, False),
        (full, 5, False),
        (full, 24, False),
        (full, 1, False),
        (full, 12, True),
        (full, 8, True),
    ]
    graphs += [
        (path, 4, False),
        (empty, 3, False),
        (sparse.csr_array((6, 6)), 3, True),
        (sparse.csr_array((1, 1)), 1, False),
    ]
    return [
        (AxisGraph(f"trial {i}", a, np.ones(a.shape[0]), lambda n=a.shape[0]: points[:n], equal), k)  # type: ignore[misc]
        for i, (a, k, equal) in enumerate(graphs)
    ]
