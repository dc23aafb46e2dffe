"""The networks of a sweep: merged by one coarsener on the graphs of one affinity, and repaired.

The trace, the graphs of an affinity, the error curves of a coarsener and the merged units of a ratio are made once and serve all rows
that need them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from netgraph.coarsen.compression.selection import Chooser
from netgraph.coarsen.hierarchy.compile_time import measure_compilation
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.hierarchy.merge_plan import GraphStore, MergePlan, load_coarseners
from netgraph.coarsen.partition.size_costs import COSTS
from netgraph.coarsen.sweeps.combinations import Combination, Named
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.plugins import load_plugin
from netgraph.utils.choices import DATA_RUNGS


class Merged(NamedTuple):
    """The units that merge at one ratio, before repair.

    Parameters
    ----------
    transfers : dict of str to Transfer
    reasons : dict
        The errors of the coarseners that were tried, for ``auto``.
    seconds : float
        Without compiling kernels and building graphs.
    """

    transfers: dict[str, Transfer]
    reasons: dict[str, Any]
    seconds: float


class NetworkMaker:
    """Makes the networks of one affinity and one coarsener.

    Parameters
    ----------
    builder : LevelBuilder
        Of the network, at its finest level.
    weigh : str or callable
        The affinity.
    coarsener : str or callable
    graphs : GraphStore
        Of the affinity.
    example : Tensor, tuple or dict
    repaired_errors : bool, default False
        Spread budgets by errors after repair, where a repair reads data.

    Raises
    ------
    NetgraphError
        One of the two does not import.
    """

    def __init__(
        self,
        builder: LevelBuilder,
        weigh: Named,
        coarsener: Named,
        graphs: GraphStore,
        example: Any,
        *,
        repaired_errors: bool = False,
    ) -> None:
        affinity = load_plugin("netgraph.affinities", weigh) if isinstance(weigh, str) else weigh
        self.plan = replace(builder.plan, coarseners=load_coarseners(coarsener), weigh=affinity)
        self.builder, self.graphs, self.example = builder, graphs, example
        self.repaired_errors, self.curve_seconds = repaired_errors, 0.0
        self._choosers: dict[str, Chooser] = {}
        self._merged: tuple[Any, Merged] | None = None

    def find_chooser(self, repair: str) -> Chooser:
        """Return the error curves of all axes, measured once, which choose sizes within a budget. Those after repair are of one rung."""
        rung = repair if self.repaired_errors and repair in DATA_RUNGS else "none"
        if rung not in self._choosers:
            started, graphs = time.perf_counter(), self.graphs.seconds
            builder = self.builder.fork(replace(self.plan), rung=rung, graphs=self.graphs)
            self._choosers[rung] = Chooser(builder, self.example, self.plan.round_to, repaired=rung != "none")
            self.curve_seconds += time.perf_counter() - started - (self.graphs.seconds - graphs)
        return self._choosers[rung]

    def build(self, combination: Combination) -> tuple[Level, float]:
        """Return the level of a combination, and the seconds of merging and repair.

        Raises
        ------
        NothingToMergeError
            No unit merges.
        NetgraphError
            The budget cannot be met, or the affinity, the coarsener or the repair refuses.
        """
        plan = self._plan_sizes(combination)
        merged = self._merge(combination, plan)
        if not merged.transfers:
            raise NothingToMergeError(plan.explain_nothing(self.builder.spec, None))
        with measure_compilation() as kernels:
            builder = self.builder.fork(plan, rung=combination.repair, graphs=self.graphs)
            level = builder.build_level(dict(merged.transfers), dict(merged.reasons))
        return level, merged.seconds + (level.seconds or 0.0) - kernels.seconds

    def _plan_sizes(self, combination: Combination) -> MergePlan:
        """Return the plan with the ratio of each axis."""
        if combination.budget is None:
            return replace(self.plan, ratios={"*": combination.ratio})
        spec, costs = self.builder.spec, COSTS[combination.budget](self.builder.spec)
        sizes, is_met = self.find_chooser(combination.repair).choose_for_cost(
            costs, combination.ratio * costs.measure({})
        )
        if not is_met:
            raise NetgraphError(
                f"the budget {combination.budget}={combination.ratio:g} cannot be met, with the fewest units of every axis. Give a larger share."
            )
        ratios: Mapping[str, float] = {name: n / spec.axes[name].size for name, n in sizes.items()}
        return replace(self.plan, ratios={**ratios, "*": 1.0}, round_to=1)

    def _merge(self, combination: Combination, plan: MergePlan) -> Merged:
        """Return the merged units, those of the row before if it differs in the repair alone."""
        tries_several = len(plan.coarseners) > 1  # which are judged after the repair
        by_repair = tries_several or (self.repaired_errors and combination.budget is not None)
        key = (combination.budget, combination.ratio, combination.repair if by_repair else None)
        if self._merged is None or self._merged[0] != key:
            self._merged = key, self._merge_anew(plan, combination.repair if tries_several else "none")
        return self._merged[1]

    def _merge_anew(self, plan: MergePlan, rung: str) -> Merged:
        """Merge units on the shared graphs."""
        started, graphs = time.perf_counter(), self.graphs.seconds
        with measure_compilation() as kernels:
            step, judge, repaired = self.builder.fork(plan, rung=rung, graphs=self.graphs).begin_channels()
            transfers, chosen = step.choose_transfers(repaired or judge, {}, keep_graphs=True)
        seconds = time.perf_counter() - started - kernels.seconds - (self.graphs.seconds - graphs)
        return Merged(transfers, {"coarseners": chosen} if chosen else {}, max(seconds, 0.0))
