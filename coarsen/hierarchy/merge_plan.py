"""The plan of merging: the coarseners, the affinity and the ratio of each axis, and the steps that follow from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netgraph import plugins
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.matching.outer_units import restrict_to_units, split_aggregates, split_composed, split_measured
from netgraph.coarsen.matching.unit_importance import measure_importance
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.partition.contract import Coarsener, leaves_out, run_coarsener
from netgraph.coarsen.partition.metrics import quality
from netgraph.coarsen.partition.target_size import choose_n_coarse, target_count
from netgraph.coarsen.transfer.nested_transfer import NestedTransfer
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.graph.affinity_answers import measure_affinity
from netgraph.graph.axis_units import AxisUnits, Measure
from netgraph.tracing.unit_spec import Axis, UnitSpec

AUTO = ("hem", "kmeans", "ward", "graclus", "local-variation", "magnitude")  # tried by coarsener "auto"
Judge = Callable[[str, Transfer], float]


@dataclass(frozen=True)
class MergePlan:
    """How axes are merged, the same on every level.

    Parameters
    ----------
    coarseners : dict of str to callable
        If there are several, each axis takes the one with the smallest error.
    weigh : callable
        The affinity.
    ratios : dict of str to float
        By axis, ``"*"`` for the others.
    kept : set of str
        Axes that do not merge.
    fixed : dict of str to int array, default {}
        By axis, units of the finest network that do not merge.
    round_to : int, default 1
        Numbers of units become multiples of it, if possible.
    seed : int, default 0
    progress : callable ``(axis, done, total)``, optional
    quality : int, optional
        Measure the cost of merging each axis, with that number of eigenvalues. By default nothing is measured.
    alike : bool, default False
        Merge channels alike in all groups, because a budget may merge whole groups too.
    importance : str, default "none"
        How important units are: their weights in the means of aggregates (`netgraph.coarsen.matching.unit_importance`).

    Raises
    ------
    NetgraphError
        ``quality`` is below 0.
    """

    coarseners: Mapping[str, Coarsener]
    weigh: Callable[..., Any]
    ratios: Mapping[str, float]
    kept: set[str]
    fixed: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    round_to: int = 1
    seed: int = 0
    progress: Progress | None = None
    quality: int | None = None
    alike: bool = False
    importance: str = "none"

    def __post_init__(self) -> None:
        if self.quality is not None and self.quality < 0:
            raise NetgraphError(f"quality, a number of eigenvalues to compare, is {self.quality}. Give 0 or more.")

    def ratio(self, name: str) -> float:
        """Return the share of the units of an axis, or of the blocks of a chain, that stay."""
        return self.ratios.get(name, self.ratios["*"])

    def axis_ratio(self, axis: Axis) -> float:
        """Return the share of the units of an axis that stay. Groups with channels that merge inside them stay by default."""
        return 1.0 if axis.inner is not None and axis.name not in self.ratios else self.ratio(axis.name)

    def count_coarse(self, axis: Axis, ratio: float, coarsener: str) -> int:
        """Return the number of units to aim for. Of units that are chosen by rank, any number may go but the last ones."""
        if axis.fewest and leaves_out(self.coarseners[coarsener]):
            return max(target_count(axis.size, ratio, self.round_to), axis.fewest)
        return choose_n_coarse(axis, ratio, self.round_to)

    def merges_alike(self, axis: Axis, spec: UnitSpec) -> bool:
        """Return True if the units of an axis merge alike in all units of its outer axis, or it has none."""
        if axis.within is None:
            return True
        is_group = spec.axes[axis.within].inner == axis.name
        return is_group and (self.alike or axis.within in self.ratios)

    def begin_step(
        self, spec: UnitSpec, state: Mapping[str, Tensor], composed: Mapping[str, Transfer], measure: Any
    ) -> MergeStep:
        """Return the step down from a level.

        Parameters
        ----------
        spec : UnitSpec
            Of the level.
        state : dict of str to Tensor
            Its parameters.
        composed : dict of str to Transfer
            From the finest units to those of the level.
        measure : callable or None
            Measures units on calibration data (`netgraph.graph.axis_units.AxisUnits`).
        """
        only_leaves_out = all(leaves_out(coarsener) for coarsener in self.coarseners.values())
        axes = spec.removable if only_leaves_out else spec.free
        axes = [axis for axis in axes if axis.name not in self.kept]
        return MergeStep(self, spec, state, composed, measure, axes)

    def explain_nothing(self, spec: UnitSpec, budget: str | None) -> str:
        """Return the reason why no axis became smaller, in a sentence."""
        axes = [axis for axis in spec.free if axis.name not in self.kept and axis.size > 1]
        if not axes:
            reasons = [f"{a.name}: {a.kept}" for a in spec.axes.values() if a.kind != "index" and a.kept][:3]
            reasons += [f"{name}: you asked to keep it" for name in sorted(self.kept)][:3]
            return f"nothing in this network can be merged: {'; '.join(reasons) or 'every axis has one unit'}"
        if budget is not None:
            return f"nothing merges: the first step on any axis costs more than the budget {budget}. Give a larger one."
        asked = [axis for axis in axes if choose_n_coarse(axis, self.axis_ratio(axis), self.round_to) < axis.size]
        if not asked:
            ratios = ", ".join(f"{axis.name} {self.axis_ratio(axis):g}" for axis in axes[:3])
            return (
                f"nothing merges: the ratios ({ratios}) keep every unit, or no divisor of the number of units is near. "
                "Give smaller ratios."
            )
        names = ", ".join(axis.name for axis in asked[:3])
        return (
            f"nothing merges: {', '.join(self.coarseners)} found no two units alike on {names}. Units with zero "
            "weights or affinities do not merge. Use another coarsener or affinity."
        )


@dataclass
class GraphStore:
    """Graphs of the units of one level under one affinity. Several steps may share them.

    Parameters
    ----------
    whole : dict of str to AxisGraph, default {}
        By axis.
    inner : dict of str to list of AxisGraph, default {}
        By axis, one for each unit of its outer axis.
    seconds : float, default 0
        Time that building them took.
    """

    whole: dict[str, AxisGraph] = field(default_factory=dict)
    inner: dict[str, list[AxisGraph]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class MergeStep:
    """The axes of one level and their graphs, from which transfers are made.

    Parameters
    ----------
    plan : MergePlan
    spec : UnitSpec
        Of the level that is made smaller.
    state : dict of str to Tensor
        Its parameters.
    composed : dict of str to Transfer
        From the finest units to its units.
    measure : callable or None
        Measures units on calibration data.
    axes : list of Axis
        Those that may shrink.
    graphs : GraphStore, default empty
        Graphs that are there already. Those that are missing are added.
    """

    plan: MergePlan
    spec: UnitSpec
    state: Mapping[str, Tensor]
    composed: Mapping[str, Transfer]
    measure: Callable[[Measure], Mapping[str, Tensor]] | None
    axes: list[Axis]
    graphs: GraphStore = field(default_factory=GraphStore)

    def choose_transfers(
        self, judge: Judge | None, ratios: Mapping[str, float], *, keep_graphs: bool = False
    ) -> tuple[dict[str, Transfer], dict[str, Any]]:
        """Return the transfer of every axis that shrinks, and the errors of the coarseners that were tried.

        Parameters
        ----------
        judge : callable ``(axis, transfer) -> error``, optional
            By default the error of the units' own weights is taken.
        ratios : dict of str to float
            For axes with another ratio than the plan's.
        keep_graphs : bool, default False
            Keep the graphs for another call. By default each graph is freed after its axis, and its memory serves the next.
        """
        out, reasons = {}, {}
        for index, axis in enumerate(self.axes):
            if self.plan.progress is not None:
                self.plan.progress(axis.name, index, len(self.axes))
            transfer, errors = self.choose_transfer(axis, ratios.get(axis.name, self.plan.axis_ratio(axis)), judge)
            if transfer is not None:
                out[axis.name] = transfer
                if len(self.plan.coarseners) > 1:
                    reasons[axis.name] = errors
            if not keep_graphs:
                self.graphs.whole.pop(axis.name, None)
                self.graphs.inner.pop(axis.name, None)
        return out, reasons

    def choose_transfer(
        self, axis: Axis, ratio: float, judge: Judge | None
    ) -> tuple[Transfer | None, dict[str, float]]:
        """Return the transfer with the smallest error at a ratio, or None if the axis stays, and all errors by coarsener."""
        merge = self._merge_axis if self.plan.merges_alike(axis, self.spec) else self._merge_in_each
        counts = {name: self.plan.count_coarse(axis, ratio, name) for name in self.plan.coarseners}
        candidates = {name: merge(axis, name, n) for name, n in counts.items() if n < axis.size}
        candidates = {name: t for name, t in candidates.items() if t.n_coarse < axis.size}
        if len(self.plan.coarseners) == 1 or not candidates:
            return next(iter(candidates.values()), None), {}
        errors = {name: (judge or self.weight_error)(axis.name, t) for name, t in candidates.items()}
        return candidates[min(errors, key=errors.__getitem__)], errors

    def measure_costs(self, transfers: Mapping[str, Transfer], judge: Judge | None) -> dict[str, dict[str, float]]:
        """Return the cost of merging each axis.

        It is a `Quality` and the error when this axis alone merges. Without a judge that is the error of the weights.
        """
        costs = {}
        for axis, transfer in transfers.items():
            error = "weight_error" if judge is None else "function_error"
            measured = [
                asdict(quality(graph, part.aggregates, n_eigenvalues=self.plan.quality or 0, seed=self.plan.seed))
                for graph, part in self._list_parts(axis, transfer)
            ]
            means = {name: _average([numbers[name] for numbers in measured]) for name in measured[0]}
            numbers = {**means, error: (judge or self.weight_error)(axis, transfer)}
            costs[axis] = {name: x for name, x in numbers.items() if x is not None and np.isfinite(x)}
        return costs

    def _list_parts(self, axis: str, transfer: Transfer) -> list[tuple[AxisGraph, Transfer]]:
        """Return the graph of an axis and its transfer, or those in each unit of the outer axis."""
        if isinstance(transfer, NestedTransfer):
            return list(zip(self.build_inner_graphs(axis), transfer.parts, strict=True))
        return [(self.build_graph(axis), transfer)]

    def weight_error(self, axis: str, transfer: Transfer) -> float:
        """Return |X - P R X| / |X| for the incoming weights X of the units. It needs no data."""
        parts = [(graph.features, part) for graph, part in self._list_parts(axis, transfer)]
        residual = float(sum(_sum_residual(weights, part) for weights, part in parts))
        whole = float(sum(np.square(weights.astype(np.float64)).sum() for weights, _ in parts))
        return float(np.sqrt(residual)) / max(float(np.sqrt(whole)), 1e-30)

    def _merge_axis(self, axis: Axis, name: str, n_coarse: int) -> Transfer:
        """Return the transfer that one coarsener gives for an axis."""
        merge, graph = self.plan.coarseners[name], self.build_graph(axis.name)
        return _make_transfer(run_coarsener(merge, graph, n_coarse, seed=self.plan.seed, name=name), graph)

    def _merge_in_each(self, axis: Axis, name: str, n_coarse: int) -> Transfer:
        """Return the transfer that one coarsener gives for the units of an axis in each unit of its outer axis."""
        merge, graphs = self.plan.coarseners[name], self.build_inner_graphs(axis.name)
        run = partial(run_coarsener, merge, seed=self.plan.seed, name=name)
        rows = [run(graph, n_coarse) for graph in graphs]
        most = max(int(row.max()) + 1 for row in rows)
        if axis.equal is not None and any(
            row.max() + 1 < most for row in rows
        ):  # sizes stay equal in another answer only
            rows = [run(graph, most) for graph in graphs]
        assert axis.within is not None
        parts = [_make_transfer(split_aggregates(row, most), graph) for row, graph in zip(rows, graphs, strict=True)]
        return NestedTransfer.of(axis.within, parts)

    def build_graph(self, name: str) -> AxisGraph:
        """Return the graph of an axis. It is built on first use."""
        if name not in self.graphs.whole:
            units = AxisUnits(self.spec, self.state, name, self.plan.seed, self.measure)
            self.graphs.whole[name] = self._build_graph(units, self.composed.get(name), name)
        return self.graphs.whole[name]

    def build_inner_graphs(self, name: str) -> list[AxisGraph]:
        """Return the graphs of an axis in each unit of its outer axis. They are built on first use."""
        if name not in self.graphs.inner:
            outer = self.spec.axes[name].within
            assert outer is not None
            composed = split_composed(self.composed, name, outer, self.spec.axes[outer].size)
            spec, states = restrict_to_units(self.spec, self.state, name, outer)
            self.graphs.inner[name] = [
                self._build_graph(
                    AxisUnits(spec, state, name, self.plan.seed, self._measure_in(outer, unit)),
                    composed[unit],
                    f"{name} in {outer}[{unit}]",
                )
                for unit, state in enumerate(states)
            ]
        return self.graphs.inner[name]

    def _measure_in(self, outer: str, unit: int) -> Callable[[Measure], Mapping[str, Tensor]] | None:
        """Return a function that measures the units inside one outer unit on calibration data, or None without data."""
        if self.measure is None:
            return None
        measure = self.measure
        return lambda measured: split_measured(measure(measured), self.spec, outer, unit)

    def _build_graph(self, units: AxisUnits, composed: Transfer | None, name: str) -> AxisGraph:
        """Return the graph of units, with the number of finest units that each stands for."""
        started, axis = time.perf_counter(), self.spec.axes[units.axis]
        weight = np.ones(axis.size) if composed is None else composed.sizes
        affinity = measure_affinity(self.plan.weigh, units, seed=self.plan.seed, name=name)
        fixed = self._fixed_mask(axis, composed)
        importance = measure_importance(units, self.plan.importance)
        self.graphs.seconds += time.perf_counter() - started
        return AxisGraph(name, affinity, weight, lambda: units.incoming, axis.equal is not None, fixed, importance)

    def _fixed_mask(self, axis: Axis, composed: Transfer | None) -> NDArray[np.bool_] | None:
        """Return a mask of the units of a level that do not merge. They have not merged on any level above."""
        units = self.plan.fixed.get(axis.name)
        if units is None:
            return None
        level_units = units if composed is None else composed.aggregates[units]
        return np.isin(np.arange(axis.size), level_units)


def _average(values: list[Any]) -> float | None:
    """Return the mean of numbers, or None if one is missing."""
    return None if any(value is None for value in values) else float(np.mean(values))


def _make_transfer(aggregates: NDArray[np.int64], graph: AxisGraph) -> Transfer:
    """Return the transfer of aggregates, with the importances of the units as their weights if any of them merge."""
    merges = np.bincount(aggregates[aggregates >= 0]).max(initial=1) > 1
    return Transfer(aggregates, graph.importance if merges else None)


def _sum_residual(weights: NDArray[Any], transfer: Transfer) -> float:
    """Return |X - P R X|² for weights X."""
    means = np.zeros((transfer.n_coarse, weights.shape[1]))
    is_merged = transfer.aggregates >= 0
    np.add.at(means, transfer.aggregates[is_merged], weights[is_merged] * transfer.shares[is_merged, None])
    residual = np.where(is_merged[:, None], weights - means[np.where(is_merged, transfer.aggregates, 0)], weights)
    return float(np.square(residual.astype(np.float64)).sum())


def load_coarseners(coarsener: str | Coarsener) -> dict[str, Coarsener]:
    """Return a coarsener by its name, or those of `AUTO` for ``"auto"``."""
    if not isinstance(coarsener, str):
        plugins.check_callable("netgraph.coarseners", coarsener)
        return {plugins.name_function(coarsener): coarsener}
    names = AUTO if coarsener == "auto" else (coarsener,)
    coarseners = {name: plugins.load_plugin("netgraph.coarseners", name) for name in names}
    for loaded in coarseners.values():
        plugins.check_callable("netgraph.coarseners", loaded)
    return coarseners
