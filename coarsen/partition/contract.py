"""The contract of a coarsener: `check_coarsener` tests a coarsener, `check_aggregates` checks every answer at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from netgraph import plugins
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.errors import AggregatesError, NetgraphError, describe_error

Coarsener = Callable[..., Any]
Made = TypeVar("Made", bound=Coarsener)


def declare_traits(**traits: bool) -> Callable[[Made], Made]:
    """Declare traits of a coarsener, as a decorator.

    The traits become attributes of the function. Setting the attributes by hand has the same effect.

    Parameters
    ----------
    **traits : bool
        ``leaves_out=True``: the coarsener may return -1 for a unit, which the coarse network then lacks.
        ``ignores_edges=True``: the answer does not depend on the affinities.

    Returns
    -------
    callable
        Decorator that returns the same function.

    Examples
    --------
    >>> import numpy as np
    >>> from netgraph.coarsen import declare_traits
    >>> @declare_traits(ignores_edges=True)
    ... def merge_runs(graph, n_coarse, *, seed=0):
    ...     return np.arange(graph.n_units) * n_coarse // graph.n_units
    >>> merge_runs.ignores_edges
    True
    """

    def declare(coarsener: Made) -> Made:
        vars(coarsener).update(traits)
        return coarsener

    return declare


def leaves_out(coarsener: Coarsener) -> bool:
    """Return True if a coarsener declares that it may return -1 for a unit."""
    return bool(getattr(coarsener, "leaves_out", False))


def ignores_edges(coarsener: Coarsener) -> bool:
    """Return True if a coarsener declares that its answer does not depend on the affinities."""
    return bool(getattr(coarsener, "ignores_edges", False))


def check_aggregates(aggregates: Any, graph: AxisGraph, name: str, *, leaves_out: bool = False) -> NDArray[np.int64]:
    """Check that aggregates are a partition of the units of a graph, and return them as int64.

    Parameters
    ----------
    aggregates : array-like
        Answer of a coarsener.
    graph : AxisGraph
        The axis that the coarsener was given.
    name : str
        Name of the coarsener, for messages.
    leaves_out : bool, default False
        Allow -1, for a unit that is left out.

    Returns
    -------
    int array of shape (n_units,)

    Raises
    ------
    AggregatesError
        The answer is no such array, skips a number, merges a unit that must stay alone, or has unequal sizes although
        ``graph.equal`` is set.
    """
    array = _to_array(aggregates)
    returned = f"coarsener {name!r} returned"
    of = f"for axis {graph.name!r} of {graph.n_units} units"
    rule = (
        "Aggregates are an int array of shape (n_units,) numbered from 0 with none skipped. "
        "numpy.unique(x, return_inverse=True)[1] renumbers any array that way."
    )
    if array is None:
        raise AggregatesError(f"{returned} a {type(aggregates).__name__} {of}. {rule}")
    if array.shape != (graph.n_units,) or array.dtype.kind not in "iu":
        raise AggregatesError(f"{returned} {array.dtype} of shape {array.shape} {of}. {rule}")
    kept = array[array != -1] if leaves_out else array
    if not kept.size and array.size:
        raise AggregatesError(f"{returned} -1 for every unit {of}. Keep at least one unit.")
    present = np.unique(kept)
    if present.size and present[0] >= 0 and present[-1] >= graph.n_units:
        raise AggregatesError(f"{returned} {int(present[-1]) + 1} aggregates {of}. {rule}")
    if not np.array_equal(present, np.arange(len(present))):
        raise AggregatesError(
            f"{returned} numbers {present.min()} to {present.max()}, {len(present)} of them, {of}. {rule}"
            + _explain_minus_one(present)
        )
    sizes = np.bincount(kept)
    if graph.fixed is not None and (array[graph.fixed] < 0).any():
        lost = int(np.flatnonzero(graph.fixed & (array < 0))[0])
        raise AggregatesError(
            f"{returned} -1 for unit {lost} {of}, but this unit must stay. Keep the units of graph.fixed."
        )
    if graph.fixed is not None and (sizes[array[graph.fixed]] > 1).any():
        joined = int(np.flatnonzero(graph.fixed & (sizes[array] > 1))[0])
        raise AggregatesError(
            f"{returned} unit {joined} merged {of}, but this unit must stay alone. Do not merge the units of graph.fixed."
        )
    if graph.equal and len(set(sizes.tolist())) > 1:
        raise AggregatesError(
            f"{returned} aggregates of {sizes.min()} to {sizes.max()} units {of}, but graph.equal asks for aggregates of one size. "
            "Merge equally many units into each."
        )
    return array.astype(np.int64)


def run_coarsener(coarsener: Coarsener, graph: AxisGraph, n_coarse: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """Return the checked answer of a coarsener.

    Parameters
    ----------
    coarsener : callable
    graph : AxisGraph
    n_coarse : int
        Number of aggregates that are asked for.
    seed : int
    name : str
        Name of the coarsener, for messages.

    Returns
    -------
    int array of shape (n_units,)

    Raises
    ------
    AggregatesError
        The coarsener fails, or its answer is no partition (`check_aggregates`).
    NetgraphError
        The coarsener refuses with an error of its own, such as a library that is not installed.
    """
    try:
        answer = coarsener(graph, n_coarse, seed=seed)
    except NetgraphError:
        raise
    except KeyboardInterrupt:
        plugins.log_interruption(_describe(coarsener, name), f"merged the {graph.n_units} units of axis {graph.name!r}")
        raise
    except BaseException as error:  # a function of the user may fail in any way
        edges = f"{graph.n_units} units and {graph.adjacency.nnz // 2} edges"
        fits = plugins.takes(coarsener, None, 1, seed=0)
        mend = "" if fits else " A coarsener is called as coarsener(graph, n_coarse, seed=seed)."
        raise AggregatesError(
            f"{_describe(coarsener, name)} failed on axis {graph.name!r}, {edges}, asked for {n_coarse} aggregates: "
            f"{describe_error(error)}.{mend}"
        ) from error
    try:
        return check_aggregates(answer, graph, name, leaves_out=leaves_out(coarsener))
    except AggregatesError as error:
        raise AggregatesError(str(error).replace(f"coarsener {name!r}", _describe(coarsener, name), 1)) from None


def _describe(coarsener: Coarsener, name: str) -> str:
    """Return a coarsener in words, with its distribution if it is a plug-in of another one."""
    described = plugins.describe_plugin("netgraph.coarseners", coarsener)
    return described if " of " in described else f"coarsener {name!r}"


def _explain_minus_one(present: NDArray[Any]) -> str:
    """Return the sentence to add if the numbers contain -1 without permission."""
    return " Only a coarsener whose attribute leaves_out is True leaves a unit out with -1." if present[0] == -1 else ""


def _to_array(aggregates: Any) -> NDArray[Any] | None:
    """Return an answer as an array, or None if it is none, such as a generator, a sparse matrix or an array with masked entries."""
    if isinstance(aggregates, torch.Tensor) and aggregates.layout == torch.strided:
        aggregates = aggregates.detach().to("cpu") if not aggregates.is_meta else None
    if np.ma.is_masked(aggregates):
        return None
    try:
        array = np.asarray(aggregates)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors that are not dense
        return None
    return None if array.dtype == object and array.ndim == 0 else array


def check_coarsener(coarsener: Coarsener, *, name: str | None = None, fixed: bool = False) -> None:
    """Check that a callable keeps the contract of a coarsener.

    The coarsener is called on a few small graphs: with all pairs, a path, without edges, of a single unit, and with
    aggregates of one size. Each answer must keep these rules:

    - It is an int array of shape (n_units,), numbered from 0 with none skipped. A coarsener whose attribute
      ``leaves_out`` is True may return -1 for a unit.
    - It has at least ``n_coarse`` aggregates, so no unit merges for ``n_coarse = n_units``.
    - It is the same for the same seed, and the graph is unchanged.
    - All aggregates have one size if ``graph.equal`` is set.
    - It does not depend on the edges if the attribute ``ignores_edges`` is True.

    Parameters
    ----------
    coarsener : callable ``(graph, n_coarse, *, seed) -> aggregates``
        ``graph`` is a `netgraph.coarsen.AxisGraph`.
    name : str, optional
        Name in messages. By default the name of the function.
    fixed : bool, default False
        Check also that the units marked by ``graph.fixed`` stay alone.

    Raises
    ------
    AggregatesError
        A rule is broken. The message names the first one.
    PluginError
        The coarsener needs a library that is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import netgraph as ng
    >>> def merge_runs(graph, n_coarse, *, seed=0):
    ...     return np.arange(graph.n_units) * n_coarse // graph.n_units
    >>> ng.check_coarsener(merge_runs)
    >>> ng.check_coarsener(lambda graph, n_coarse, *, seed: np.arange(graph.n_units) // 100, name="mine")
    Traceback (most recent call last):
        ...
    netgraph.errors.AggregatesError: coarsener 'mine' made 1 aggregates on trial 0, but 12 were asked for. ...
    """
    label = name or plugins.name_function(coarsener)
    for graph, n_coarse in _make_trials() + (_make_fixed_trials() if fixed else []):
        before = _copy_contents(graph)
        first, second = (_call_coarsener(coarsener, graph, n_coarse, label) for _ in range(2))
        if not np.array_equal(first, second):
            raise AggregatesError(
                f"coarsener {label!r} gave two answers for one seed on {graph.name}. Draw random numbers from the seed only."
            )
        if not all(map(np.array_equal, before, _copy_contents(graph))):
            raise AggregatesError(f"coarsener {label!r} changed the graph {graph.name}. Work on a copy.")
        _check_count(first, graph, n_coarse, label)
        if ignores_edges(coarsener):
            _check_ignores_edges(coarsener, first, graph, n_coarse, label)


def _call_coarsener(coarsener: Coarsener, graph: AxisGraph, n_coarse: int, name: str) -> NDArray[np.int64]:
    """Return the checked answer for the seed of the trials."""
    return run_coarsener(coarsener, graph, n_coarse, seed=3, name=name)


def _check_ignores_edges(
    coarsener: Coarsener, answer: NDArray[np.int64], graph: AxisGraph, n_coarse: int, name: str
) -> None:
    """Check that the answer is the same without any edge."""
    bare = replace(graph, affinity=sparse.csr_array(graph.adjacency.shape))
    if not np.array_equal(answer, _call_coarsener(coarsener, bare, n_coarse, name)):
        raise AggregatesError(
            f"coarsener {name!r} says that it ignores edges, but its answer changes without the edges of {graph.name}. "
            "Remove its attribute ignores_edges."
        )


def _copy_contents(graph: AxisGraph) -> list[NDArray[Any]]:
    """Return copies of all arrays of a graph."""
    a = graph.adjacency
    fixed = np.zeros(graph.n_units, bool) if graph.fixed is None else graph.fixed
    return [x.copy() for x in (a.data, a.indices, a.indptr, graph.weight, graph.features, fixed)]


def _check_count(aggregates: NDArray[np.int64], graph: AxisGraph, n_coarse: int, name: str) -> None:
    """Check that there are at least ``n_coarse`` aggregates."""
    n_made = int(aggregates.max()) + 1
    if n_made < n_coarse:
        raise AggregatesError(
            f"coarsener {name!r} made {n_made} aggregates on {graph.name}, but {n_coarse} were asked for. "
            "Never merge further than n_coarse."
        )


def _make_trials() -> list[tuple[AxisGraph, int]]:
    """Return small graphs, each with a number of aggregates."""
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
    """Return complete graphs with units that must stay alone."""
    full, points = _make_full_graph()
    fixed = np.isin(np.arange(24), (0, 7, 23))
    return [
        (AxisGraph(f"fixed trial {i}", full, np.ones(24), lambda: points, False, mask), k)
        for i, (mask, k) in enumerate([(fixed, 12), (fixed, 2), (~fixed, 12), (fixed | ~fixed, 12)])
    ]


def _make_full_graph() -> tuple[sparse.csr_array, NDArray[Any]]:
    """Return a complete graph of 24 random points, and the points."""
    points = np.random.default_rng(0).normal(size=(24, 5))
    dense = np.maximum(points @ points.T, 0)
    np.fill_diagonal(dense, 0)
    return sparse.csr_array(dense), points
