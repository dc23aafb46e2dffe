"""The way from one level to the next: which coarsener, at which ratio, on each axis, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netgraph import plugins
from netgraph.coarsen.matching.axis_graph import AxisGraph
from netgraph.coarsen.network.oracles import Progress
from netgraph.coarsen.partition.contract import Coarsener, check_aggregates, leaves_out
from netgraph.coarsen.partition.metrics import quality
from netgraph.coarsen.partition.target_size import choose_n_coarse
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import AxisUnits, Measure
from netgraph.tracing.unit_spec import Axis, UnitSpec

AUTO = ("hem", "kmeans", "ward", "graclus", "local-variation", "magnitude")  # what coarsener "auto" tries
Judge = Callable[[str, Transfer], float]


@dataclass(frozen=True)
class MergePlan:
    """How axes are merged, the same on every level.

    Parameters
    ----------
    coarseners : dict of str to callable
        One, or several of which the one with the smallest error is taken on each axis.
    weigh : callable
        The affinity.
    ratios : dict of str to float
        By axis; ``"*"`` for the others.
    kept : set of str
        Axes to leave alone.
    fixed : dict of str to int array
        By axis the finest network's units that stay alone.
    round_to, seed : int
    progress : callable, optional
    quality : int, optional
        How many eigenvalues to compare where it is measured what merging costs each axis; None measures nothing.

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

    def __post_init__(self) -> None:
        if self.quality is not None and self.quality < 0:
            raise NetgraphError(f"quality, a number of eigenvalues to compare, is {self.quality}; give 0 or more")

    def ratio(self, axis: str) -> float:
        """Return the share of an axis' units that stay."""
        return self.ratios.get(axis, self.ratios["*"])

    def down(self, spec: UnitSpec, state: Mapping[str, Tensor], whole: Mapping[str, Transfer], seen: Any) -> MergeStep:
        """Return the step down from a level; ``whole`` is the way so far, ``seen`` measures on data (`AxisUnits`)."""
        axes = [axis for axis in spec.free if axis.name not in self.kept]
        return MergeStep(self, spec, state, whole, seen, axes)

    def explain_nothing(self, spec: UnitSpec, budget: str | None) -> str:
        """Return why no axis became smaller, in a sentence."""
        axes = [axis for axis in spec.free if axis.name not in self.kept and axis.size > 1]
        if not axes:
            reasons = [f"{a.name}: {a.kept}" for a in spec.axes.values() if a.kind != "index" and a.kept][:3]
            reasons += [f"{name}: you asked to keep it" for name in sorted(self.kept)][:3]
            return f"nothing in this network can be merged; {'; '.join(reasons) or 'every axis has one unit'}"
        if budget is not None:
            return f"nothing merges: the first step on any axis costs more than the budget {budget}; give a larger one"
        asked = [axis for axis in axes if choose_n_coarse(axis, self.ratio(axis.name), self.round_to) < axis.size]
        if not asked:
            ratios = ", ".join(f"{axis.name} {self.ratio(axis.name):g}" for axis in axes[:3])
            return (
                f"nothing merges: the ratios ({ratios}) keep every unit, or no divisor of its number is near; "
                "give smaller ones"
            )
        names = ", ".join(axis.name for axis in asked[:3])
        return (
            f"nothing merges: {', '.join(self.coarseners)} found no two units alike on {names}; units whose weights are "
            "zero, or whose affinities are, stay alone: take another coarsener or affinity"
        )


@dataclass
class MergeStep:
    """One level's axes and their graphs, from which transfers are made.

    Parameters
    ----------
    way : Way
    spec : UnitSpec
        Of the level that is made smaller.
    state : dict of str to Tensor
        Its parameters.
    whole : dict of str to Transfer
        From the finest units to its units.
    seen : callable or None
    axes : list of Axis
        Those that may shrink.
    """

    way: MergePlan
    spec: UnitSpec
    state: Mapping[str, Tensor]
    whole: Mapping[str, Transfer]
    seen: Callable[[Measure], Mapping[str, Tensor]] | None
    axes: list[Axis]
    graphs: dict[str, AxisGraph] = field(default_factory=dict)

    def transfers(
        self, judge: Judge | None, ratios: Mapping[str, float], *, again: bool = False
    ) -> tuple[dict[str, Transfer], dict[str, Any]]:
        """Return the transfer of every axis that shrinks, and for each what every coarsener's error was.

        Parameters
        ----------
        judge : callable ``(axis, transfer) -> error``, optional
            By default the error in the units' own weights is taken.
        ratios : dict of str to float
            For axes whose ratio is not that of the way.
        again : bool
            Whether they will be asked for again; else each graph is let go with its axis, and its memory serves the next.
        """
        out, reasons = {}, {}
        for done, axis in enumerate(self.axes):
            if self.way.progress is not None:
                self.way.progress(axis.name, done, len(self.axes))
            found, errors = self.best(axis, ratios.get(axis.name, self.way.ratio(axis.name)), judge)
            if found is not None:
                out[axis.name] = found
                if len(self.way.coarseners) > 1:
                    reasons[axis.name] = errors
            if not again:
                self.graphs.pop(axis.name, None)
        return out, reasons

    def best(self, axis: Axis, ratio: float, judge: Judge | None) -> tuple[Transfer | None, dict[str, float]]:
        """Return the transfer of the smallest error at a ratio, None where the axis stays, and all errors by coarsener."""
        n_coarse = choose_n_coarse(axis, ratio, self.way.round_to)
        if n_coarse >= axis.size:
            return None, {}
        found = {name: self._merged(axis, name, n_coarse) for name in self.way.coarseners}
        found = {name: t for name, t in found.items() if t.n_coarse < axis.size}
        if len(self.way.coarseners) == 1 or not found:
            return next(iter(found.values()), None), {}
        errors = {name: (judge or self.weight_error)(axis.name, t) for name, t in found.items()}
        return found[min(errors, key=errors.__getitem__)], errors

    def costs(self, transfers: Mapping[str, Transfer], judge: Judge | None) -> dict[str, dict[str, float]]:
        """Return what merging costs each axis: its `Quality`, and the error when it alone merges, of weights without judge."""
        found = {}
        for axis, transfer in transfers.items():
            measured = quality(
                self.graph(axis), transfer.aggregates, n_eigenvalues=self.way.quality or 0, seed=self.way.seed
            )
            error = "weight_error" if judge is None else "function_error"
            numbers = {**asdict(measured), error: (judge or self.weight_error)(axis, transfer)}
            found[axis] = {name: x for name, x in numbers.items() if x is not None and np.isfinite(x)}
        return found

    def weight_error(self, axis: str, transfer: Transfer) -> float:
        """Return |X - P R X| / |X| of the units' incoming weights X: what merging takes away, without data."""
        x = self.graph(axis).features
        sums = np.zeros((transfer.n_coarse, x.shape[1]))
        kept = transfer.aggregates >= 0
        np.add.at(sums, transfer.aggregates[kept], x[kept])
        means = sums / transfer.sizes[:, None]
        rest = np.where(kept[:, None], x - means[np.where(kept, transfer.aggregates, 0)], x)
        return float(np.linalg.norm(rest)) / max(float(np.linalg.norm(x)), 1e-30)

    def _merged(self, axis: Axis, name: str, n_coarse: int) -> Transfer:
        merge, graph = self.way.coarseners[name], self.graph(axis.name)
        answer = merge(graph, n_coarse, seed=self.way.seed)
        return Transfer(check_aggregates(answer, graph, name, leaves_out=leaves_out(merge)))

    def graph(self, name: str) -> AxisGraph:
        """Return an axis' graph, made once."""
        if name not in self.graphs:
            axis = self.spec.axes[name]
            weight = self.whole[name].sizes if name in self.whole else np.ones(axis.size)
            units = AxisUnits(self.spec, self.state, name, self.way.seed, self.seen)
            try:
                affinity = self.way.weigh(units, seed=self.way.seed)
            except NetgraphError as error:
                raise NetgraphError(f"axis {name!r}: {error}") from None
            self.graphs[name] = AxisGraph(
                name, affinity, weight, lambda: units.incoming, axis.equal is not None, self._fixed(axis)
            )
        return self.graphs[name]

    def _fixed(self, axis: Axis) -> NDArray[np.bool_] | None:
        """Return which of a level's units stay alone; they have been alone on all levels above."""
        units = self.way.fixed.get(axis.name)
        if units is None:
            return None
        here = self.whole[axis.name].aggregates[units] if axis.name in self.whole else units
        return np.isin(np.arange(axis.size), here)


def load_coarseners(coarsener: str | Coarsener) -> dict[str, Coarsener]:
    """Return a coarsener by its name; those of `AUTO` for ``"auto"``."""
    if not isinstance(coarsener, str):
        return {str(getattr(coarsener, "__name__", repr(coarsener))): coarsener}
    names = AUTO if coarsener == "auto" else (coarsener,)
    return {name: plugins.load_plugin("netgraph.coarseners", name) for name in names}
