"""The contract of a coarsener: `check_coarsener`, runnable by anyone, and the check of every answer at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.errors import AggregatesError, PluginError

Coarsener = Callable[..., Any]
Made = TypeVar("Made", bound=Coarsener)


def declare_traits(**traits: bool) -> Callable[[Made], Made]:
    """Say of a coarsener what `check_coarsener` then holds it to: ``leaves_out``, ``ignores_edges``.

    An attribute set by hand says the same.
    """

    def told(coarsener: Made) -> Made:
        vars(coarsener).update(traits)
        return coarsener

    return told


def leaves_out(coarsener: Coarsener) -> bool:
    """Return whether a coarsener says, by a function attribute ``leaves_out``, that it may answer -1 for a unit."""
    return bool(getattr(coarsener, "leaves_out", False))


def ignores_edges(coarsener: Coarsener) -> bool:
    """Return whether a coarsener says, by a function attribute ``ignores_edges``, that affinities are nothing to it."""
    return bool(getattr(coarsener, "ignores_edges", False))


def check_aggregates(aggregates: Any, graph: AxisGraph, name: str, *, leaves_out: bool = False) -> NDArray[np.int64]:
    """Return aggregates as int64 if they are a partition of the graph's units, or of those not left out.

    Parameters
    ----------
    aggregates : array-like
        What the coarsener returned.
    graph : AxisGraph
    name : str
        The coarsener's, for messages.
    leaves_out : bool
        Whether -1 is allowed, for a unit that the coarse network does without.

    Raises
    ------
    AggregatesError
        They are not; says what came back and how to renumber it.
    """
    array = _to_array(aggregates)
    asked = f"coarsener {name!r} returned"
    of = f"for axis {graph.name!r} of {graph.n_units} units"
    rule = (
        "Aggregates are an int array of shape (n_units,) numbered from 0 with none skipped; "
        "numpy.unique(x, return_inverse=True)[1] renumbers any array that way."
    )
    if array.shape != (graph.n_units,) or array.dtype.kind not in "iu":
        raise AggregatesError(f"{asked} {array.dtype} of shape {array.shape} {of}. {rule}")
    kept = array[array != -1] if leaves_out else array
    if not kept.size and array.size:
        raise AggregatesError(f"{asked} -1 for every unit {of}; keep at least one")
    present = np.unique(kept)
    if present.size and present[0] >= 0 and present[-1] >= graph.n_units:
        raise AggregatesError(f"{asked} {present[-1] + 1} aggregates {of}. {rule}")
    if not np.array_equal(present, np.arange(len(present))):
        raise AggregatesError(
            f"{asked} numbers {present.min()} to {present.max()}, {len(present)} of them, {of}. {rule}{_explain_minus_one(present)}"
        )
    sizes = np.bincount(kept)
    if graph.fixed is not None and (array[graph.fixed] < 0).any():
        lost = int(np.flatnonzero(graph.fixed & (array < 0))[0])
        raise AggregatesError(f"{asked} -1 for unit {lost} {of}, which must stay: honour graph.fixed")
    if graph.fixed is not None and (sizes[array[graph.fixed]] > 1).any():
        joined = int(np.flatnonzero(graph.fixed & (sizes[array] > 1))[0])
        raise AggregatesError(f"{asked} unit {joined} merged {of}, which must stay alone: honour graph.fixed")
    if graph.equal and len(set(sizes.tolist())) > 1:
        raise AggregatesError(
            f"{asked} aggregates of {sizes.min()} to {sizes.max()} units {of}, whose aggregates must all have one size: "
            "honour graph.equal"
        )
    return array.astype(np.int64)


def _explain_minus_one(present: NDArray[Any]) -> str:
    return " Only a coarsener whose attribute leaves_out is True leaves a unit out with -1." if present[0] == -1 else ""


def _to_array(aggregates: Any) -> NDArray[Any]:
    try:
        return np.asarray(aggregates)
    except (TypeError, ValueError):  # ragged lists, tensors on a device
        return np.array(None)


def check_coarsener(coarsener: Coarsener, *, name: str | None = None, fixed: bool = False) -> None:
    """Prove that a callable is a coarsener.

    It must return an int array of shape (n_units,) numbered from 0 with none skipped (and -1 for units that it leaves
    out, if its attribute ``leaves_out`` is True), leave the graph unchanged,
    answer alike for one seed, accept an edgeless graph and a single unit, keep every unit for ``n_coarse = n_units``,
    never return fewer aggregates than asked for, honour ``graph.equal``, and answer alike whatever the edges if its
    attribute ``ignores_edges`` is True.

    Parameters
    ----------
    coarsener : callable ``(graph, n_coarse, *, seed) -> aggregates``
    name : str, optional
        For messages.
    fixed : bool
        Whether it must keep units alone that ``graph.fixed`` marks. Hierarchies mark none so far.

    Raises
    ------
    AggregatesError
        The first rule that is broken.
    """
    called = name or str(getattr(coarsener, "__name__", repr(coarsener)))
    for graph, n_coarse in _make_trials() + (_make_fixed_trials() if fixed else []):
        before = _copy_contents(graph)
        first, second = (_call_coarsener(coarsener, graph, n_coarse, called) for _ in range(2))
        if not np.array_equal(first, second):
            raise AggregatesError(
                f"coarsener {called!r} gave two answers for one seed on {graph.name}; draw from seed only"
            )
        if not all(map(np.array_equal, before, _copy_contents(graph))):
            raise AggregatesError(f"coarsener {called!r} changed the graph {graph.name}; work on a copy")
        _check_count(first, graph, n_coarse, called)
        if ignores_edges(coarsener):
            _check_ignores_edges(coarsener, first, graph, n_coarse, called)


def _call_coarsener(coarsener: Coarsener, graph: AxisGraph, n_coarse: int, name: str) -> NDArray[np.int64]:
    try:
        return check_aggregates(coarsener(graph, n_coarse, seed=3), graph, name, leaves_out=leaves_out(coarsener))
    except (AggregatesError, PluginError):
        raise
    except Exception as error:  # whatever a stranger's function raises is what it did wrong
        edges = f"{graph.n_units} units and {graph.adjacency.nnz // 2} edges"
        raise AggregatesError(
            f"coarsener {name!r} failed on {graph.name}, {edges}, asked for {n_coarse} aggregates: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check_ignores_edges(
    coarsener: Coarsener, answer: NDArray[np.int64], graph: AxisGraph, n_coarse: int, name: str
) -> None:
    bare = replace(graph, affinity=sparse.csr_array(graph.adjacency.shape))
    if not np.array_equal(answer, _call_coarsener(coarsener, bare, n_coarse, name)):
        raise AggregatesError(
            f"coarsener {name!r} says that it ignores edges and answers otherwise without those of {graph.name}; "
            "take its attribute ignores_edges away"
        )


def _copy_contents(graph: AxisGraph) -> list[NDArray[Any]]:
    a = graph.adjacency
    fixed = np.zeros(graph.n_units, bool) if graph.fixed is None else graph.fixed
    return [x.copy() for x in (a.data, a.indices, a.indptr, graph.weight, graph.features, fixed)]


def _check_count(aggregates: NDArray[np.int64], graph: AxisGraph, n_coarse: int, name: str) -> None:
    found = int(aggregates.max()) + 1
    if found < n_coarse:
        raise AggregatesError(
            f"coarsener {name!r} made {found} aggregates where {n_coarse} were asked for, on {graph.name}"
        )


def _make_trials() -> list[tuple[AxisGraph, int]]:
    full, points = _make_full_graph()
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


def _make_fixed_trials() -> list[tuple[AxisGraph, int]]:
    full, points = _make_full_graph()
    fixed = np.isin(np.arange(24), (0, 7, 23))
    return [
        (AxisGraph(f"fixed trial {i}", full, np.ones(24), lambda: points, False, mask), k)
        for i, (mask, k) in enumerate([(fixed, 12), (fixed, 2), (~fixed, 12), (fixed | ~fixed, 12)])
    ]


def _make_full_graph() -> tuple[sparse.csr_array, NDArray[Any]]:
    points = np.random.default_rng(0).normal(size=(24, 5))
    dense = np.maximum(points @ points.T, 0)
    np.fill_diagonal(dense, 0)
    return sparse.csr_array(dense), points
