"""Building levels one after the other: transfers, the coarse network, its repair and its measured error.

Every level is written from a *base*. That is the given network at the resolution of the level, without the blocks that have merged,
and with all its units. Channels lead from the base to the level in one step. The other directions change the base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from netgraph.analysis.remove_blocks import drop_blocks
from netgraph.analysis.residual_chains import Chain, explain_no_chain, find_chains
from netgraph.coarsen.directions.block_alignment import align_blocks
from netgraph.coarsen.directions.depth import ChainCoarsening, DepthMap, coarsen_chain
from netgraph.coarsen.directions.resolution import trace_at_resolution
from netgraph.coarsen.hierarchy.budget import Budget, spread_budget
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.loss_gap import LossGap
from netgraph.coarsen.hierarchy.merge_plan import GraphStore, Judge, MergePlan, MergeStep
from netgraph.coarsen.network.finite_values import list_overflowed
from netgraph.coarsen.network.functional_error import (
    ExpectedOutputs,
    FunctionErrorJudge,
    choose_batch,
    explain_inputs,
    function_error,
    iterate_outputs,
    split_batches,
)
from netgraph.coarsen.network.head_alignment import (
    HeadRotation,
    apply_rotations,
    find_rotatable_axes,
    find_rotations,
    lift_rotations,
    rotate_network,
)
from netgraph.coarsen.network.oracles import check_coarse_network, check_example
from netgraph.coarsen.network.rewrite import coarse_network, traced_state
from netgraph.coarsen.repair.pipeline import Original, has_named_stops, repair_network
from netgraph.coarsen.transfer.nested_transfer import compose_transfers, count_coarse
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import Measure
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import named_state
from netgraph.tracing.unit_spec import UnitSpec

JUDGE_ROWS = 256  # of calibration data, for the repair of networks that are only compared


@dataclass(frozen=True)
class Calibration:
    """Calibration data.

    Parameters
    ----------
    inputs : Tensor, tuple or dict
    batches : list
        The inputs, split into batches.
    expected : ExpectedOutputs
        Outputs of the finest network.
    """

    inputs: Any
    batches: list[Any]
    expected: ExpectedOutputs

    @classmethod
    def of(cls, model: nn.Module, data: Any, outputs: Sequence[str] = ()) -> Calibration | None:
        """Run the network on the data. This shows before work begins that they fit."""
        if data is None:
            return None
        try:
            batches = split_batches(data, choose_batch(model, data, 64, outputs))
            return cls(data, batches, ExpectedOutputs.of(model, batches, outputs))
        except NetgraphError:  # which says by itself what is wrong with the inputs
            raise
        except Exception as error:  # operators raise many kinds
            raise explain_inputs(error, "the calibration data") from error


@dataclass
class LevelBuilder:
    """Builds one level after the other. Parameters go down unrepaired, and each level is repaired by itself.

    Parameters
    ----------
    root : torch.nn.Module
        The given network.
    spec : UnitSpec
        Of the given network, and later of the base.
    example : Tensor, tuple or dict
    plan : MergePlan
    budget : Budget, optional
    rung : str
        Rung of the repair.
    data : Calibration, optional
    gap : LossGap, optional
    depth_by : {"split", "copy"}, default "split"
        How merged blocks become several again (`netgraph.coarsen.directions.depth.coarsen_chain`).
    blocks : int, optional
        Number of blocks of each chain that stay, in place of a share.
    graphs : GraphStore, optional
        Graphs of the units of the last level that several builders share (`fork`).

    Attributes
    ----------
    composed : dict of str to Transfer
        From the units of the base to those of the last level.
    state : dict of str to Tensor
        Parameters of the last level before its repair.
    rotations : list of HeadRotation
        Rotations that have not been written into the base yet.
    pool : int
        Divisor of the resolution.
    specs : dict of int to UnitSpec
        Traces of the given network by divisor of the resolution.
    dropped : frozenset of str
        Blocks that have merged into others, or are left out.
    runs : dict of str to str
        By kept block the last block of the run for which it stands.
    unshortened : torch.nn.Module
        The given network with heads in the basis of those of the base. Shorter networks are repaired from its outputs.
    """

    root: nn.Module
    spec: UnitSpec
    example: Any
    plan: MergePlan
    budget: Budget | None
    rung: str
    data: Calibration | None
    gap: LossGap | None = None
    depth_by: str = "split"
    blocks: int | None = None
    graphs: GraphStore | None = None
    unrotated: nn.Module = field(init=False)
    unshortened: nn.Module = field(init=False)
    runs: dict[str, str] = field(default_factory=dict)
    rotations: list[HeadRotation] = field(default_factory=list)
    rotating: set[str] = field(init=False)
    pool: int = 1
    specs: dict[int, UnitSpec] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    state: dict[str, Tensor] = field(init=False)
    composed: dict[str, Transfer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unrotated = self.unshortened = self.root
        self.specs[1] = self.spec
        self.state = traced_state(self.root)
        axes = [axis.name for axis in self.spec.free if axis.name not in self.plan.kept]
        self.rotating = find_rotatable_axes(self.root, self.spec, self.example, axes, seed=self.plan.seed)

    @property
    def base(self) -> nn.Module:
        """The base with merged heads in one basis (`netgraph.coarsen.network.head_alignment`), written on first use."""
        if self.rotations:
            self.unrotated = rotate_network(self.unrotated, self.spec, self.rotations)
            self.unshortened = rotate_network(self.unshortened, self.specs[1], self.rotations)
            self.rotations = []
        return self.unrotated

    def trace_resolutions(self, n_steps: int) -> None:
        """Trace the network at every resolution of the hierarchy.

        A resolution at which the network does not run is refused here, before work begins.
        """
        for step in range(1, n_steps + 1):
            self.specs[2**step] = trace_at_resolution(self.root, self.example, self.specs[1], 2**step)

    def fork(self, plan: MergePlan, *, rung: str = "none", graphs: GraphStore | None = None) -> LevelBuilder:
        """Return a builder at the same level with another plan and repair. Neither sees what the other builds.

        Parameters
        ----------
        plan : MergePlan
        rung : str, default "none"
            Rung of the repair.
        graphs : GraphStore, optional
            Graphs of the units of this level under the affinity of the plan. Those that are missing are added.
        """
        other = copy(self)
        other.plan, other.rung, other.graphs = plan, rung, graphs
        return other

    def build_next(self, level: Level, directions: frozenset[str]) -> Level | None:
        """Return the next coarser level, or None if nothing shrinks."""
        started = time.perf_counter()
        reasons: dict[str, Any] = {}
        chain_steps = self._coarsen_chains(reasons) if "depth" in directions else ()
        pool = self.pool * (2 if "space" in directions else 1)
        if chain_steps or pool != self.pool:
            self.rebase(chain_steps, pool)
        transfers = self._coarsen_axes(level, reasons) if "channels" in directions else {}
        if not (transfers or chain_steps or "space" in directions):
            level.reasons.update({k: v for k, v in reasons.items() if k == "unable"})
            return None
        built = self.build_level(transfers, reasons, chain_steps)
        built.seconds = time.perf_counter() - started
        return built

    def build_level(
        self, transfers: dict[str, Transfer], reasons: dict[str, Any], chain_steps: tuple[ChainCoarsening, ...] = ()
    ) -> Level:
        """Return the level in which these units of the last one have merged, repaired.

        Parameters
        ----------
        transfers : dict of str to Transfer
            By axis that shrinks.
        reasons : dict
            Gets what the repair did and the error on the calibration data.
        chain_steps : tuple of ChainCoarsening, default ()
            Blocks that have merged in the base.
        """
        started, composed = time.perf_counter(), self.composed
        self.state, self.composed, coarse, rotations = self._merge_units(transfers)
        try:
            check_coarse_network(coarse, self.example)
        except NetgraphError:
            check_example(self.root, self.example)
            raise
        self.rotations = lift_rotations(rotations, self.spec, composed)
        self._repair_level(coarse, reasons)
        if overflowed := list_overflowed(traced_state(coarse), traced_state(self.root)):
            reasons["overflowed"] = overflowed
        spec = self._level_spec()
        return Level(
            coarse, spec, transfers, time.perf_counter() - started, spec.flops, reasons, chain_steps, self.pool
        )

    def _level_spec(self) -> UnitSpec:
        """Return the spec of the base with the last level's numbers of units."""
        return self.spec.with_sizes(count_coarse(self.spec, self.composed))

    # depth and space change the base

    def _coarsen_chains(self, reasons: dict[str, Any]) -> tuple[ChainCoarsening, ...]:
        """Return the chains that become shorter. If there are none, ``reasons`` gets the cause."""
        spec = self._level_spec()
        # The spec is that of the level: blocks whose units have merged to different sizes are no longer alike.
        chain_list, obstacles = find_chains(spec)
        options: dict[str, Any] = {"seed": self.plan.seed, "by": self.depth_by, "n_blocks": self.blocks}
        steps = [coarsen_chain(chain, self.state, self.plan.ratio(chain.name), **options) for chain in chain_list]
        chain_steps = tuple(align_blocks(spec, self.state, step) for step in steps if step is not None)
        if not chain_steps:
            reasons["unable"] = {"depth": _explain_no_chain(chain_list, obstacles, self.blocks)}
        return chain_steps

    def rebase(self, chain_steps: Sequence[ChainCoarsening], pool: int = 1) -> None:
        """Take another base, shorter or of lower resolution. Its units that have merged stay merged.

        Parameters
        ----------
        chain_steps : sequence of ChainCoarsening
            Blocks of the last level that merge or are left out.
        pool : int, default 1
            Divisor of the resolution.
        """
        base = traced_state(self.base)
        # The steps match inner units of the coarse level. The base has all units, and needs a matching of its own.
        base_steps = [align_blocks(self.spec, base, step) for step in chain_steps] if self.composed else chain_steps
        self.pool, self.dropped = pool, self.dropped.union(*(step.dropped for step in chain_steps))
        self.runs = _extend_runs(self.runs, chain_steps)
        self.spec = self.specs[pool]
        if self.dropped:
            self.spec = drop_blocks(self.spec, named_state(self.root), self.dropped)
        self.state = DepthMap(chain_steps).inject(self.state)
        self.unrotated = coarse_network(self.root, self.spec, {}, state=DepthMap(base_steps).inject(base))
        self.composed = {axis: t for axis, t in self.composed.items() if axis in self.spec.axes}

    # channels

    def begin_channels(self, n_rows: int | None = None) -> tuple[MergeStep, Judge | None, Judge | None]:
        """Return the step down from the last level, and the judges of one axis, without and with repair. Both need data.

        Parameters
        ----------
        n_rows : int, optional
            Rows on which the judges compare outputs, and the judge with repair then fits only the layers of the axis. By default those
            of one batch, and it fits all layers.
        """
        spec = self._level_spec()
        step = self.plan.begin_step(spec, self.state, self.composed, self._build_measure(spec))
        if self.graphs is not None:
            step.graphs = self.graphs
        return step, self._build_judge(n_rows), self._build_judge(n_rows, repair=True, merged_only=n_rows is not None)

    def _coarsen_axes(self, level: Level, reasons: dict[str, Any]) -> dict[str, Transfer]:
        """Return the transfer of every axis that shrinks. Choices and measured costs go into ``reasons``."""
        step, judge, repaired_judge = self.begin_channels()
        if self.budget is not None:
            reasons["ratios"], reasons["curves"] = spread_budget(step, self.budget, judge, repaired_judge)
        if self.gap is not None:
            reasons["ratios"], reasons["gaps"] = self._find_gap_ratios(self.gap, level, step, judge)
        transfers, chosen = step.choose_transfers(repaired_judge or judge, reasons.get("ratios", {}))
        if chosen:
            reasons["coarseners"] = chosen
        if transfers and self.plan.quality is not None:
            reasons["quality"] = step.measure_costs(transfers, judge)
        return transfers

    def _merge_units(
        self, transfers: Mapping[str, Transfer]
    ) -> tuple[dict[str, Tensor], dict[str, Transfer], GraphNetwork, list[HeadRotation]]:
        """Merge the units of the last level.

        Returns
        -------
        state : dict of str to Tensor
            Coarse parameters.
        composed : dict of str to Transfer
            From the base to the coarse units.
        network : GraphNetwork
        rotations : list of HeadRotation
            Rotations of heads before merging.
        """
        # Two index spaces meet here. `transfers` lead from the units of the last level, `composed` from those of the base.
        # Parameters go down from level to level, and the graph is always rewritten from the base.
        spec = self._level_spec()
        rotating = {axis: t for axis, t in transfers.items() if axis in self.rotating}
        rotations = find_rotations(spec, rotating, self.state)
        state = inject(spec, transfers, apply_rotations(rotations, self.state))
        composed = compose_transfers(self.composed, transfers)
        return state, composed, coarse_network(self.base, self.spec, composed, state=state), rotations

    def _find_gap_ratios(
        self, gap: LossGap, level: Level, step: MergeStep, judge: Judge | None
    ) -> tuple[dict[str, float], dict[float, float]]:
        """Return the ratio of every axis that a bound on the loss allows, and the gaps that were measured."""

        def candidate(ratio: float) -> GraphNetwork | None:
            transfers, _ = step.choose_transfers(
                judge, dict.fromkeys((a.name for a in step.axes), ratio), keep_graphs=True
            )
            return self._merge_units(transfers)[2] if transfers else None

        ratio, gaps = gap.ratio(level.model, candidate)
        return dict.fromkeys((axis.name for axis in step.axes), ratio), gaps

    # repair and error

    def _repair_level(self, coarse: GraphNetwork, reasons: dict[str, Any]) -> None:
        """Repair the network of a level, and measure its error on the calibration data."""
        if self.rung != "none":
            inputs = None if self.data is None else self.data.inputs
            base = self.base
            report = repair_network(
                base, self.spec, self.composed, coarse, rung=self.rung, data=inputs, seed=self.plan.seed,
                original=self._find_original(coarse),
            )  # fmt: skip
            reasons["repair"] = asdict(report)
        if self.data is not None:
            reasons["error"] = function_error(
                self.data.expected, iterate_outputs(coarse, self.data.batches, self.spec.outputs)
            )

    def _find_original(self, coarse: GraphNetwork) -> Original | None:
        """Return the network with all blocks, from whose outputs a shorter one is repaired. None where it has no counterparts."""
        if not self.dropped or self.pool > 1:
            return None
        whole = coarse_network(self.unshortened, self.specs[1], {})
        original = Original(whole, self.runs, self.dropped)
        return original if has_named_stops(original, coarse) else None

    def measure_base(self, n_rows: int, *, repair: bool = False) -> float:
        """Return the error of the base against the given network, on the first rows of the data.

        Parameters
        ----------
        n_rows : int
        repair : bool, default False
            Repair it on the last rows before, as `begin_channels` does it.
        """
        judge = self._build_judge(n_rows, repair=repair)
        assert judge is not None
        return judge.measure({})

    def _build_judge(
        self, n_rows: int | None, *, repair: bool = False, merged_only: bool = False
    ) -> FunctionErrorJudge | None:
        """Return the judge of one axis on the first rows. With ``repair`` it repairs on the last rows before it compares."""
        if self.data is None or (repair and self.rung not in ("norms", "ridge", "tune")):
            return None
        last_rows = split_batches(self.data.inputs, JUDGE_ROWS)[-1] if repair else None
        candidate = partial(self._repair_candidate, last_rows, merged_only) if repair else None
        batches = self.data.batches[:1]
        if n_rows is not None:
            rows = split_batches(self.data.inputs, n_rows)[0]
            batches = split_batches(rows, choose_batch(self.root, rows, n_rows, self.spec.outputs))
        expected = ExpectedOutputs.of(self.root, batches, self.spec.outputs)
        return FunctionErrorJudge(self.base, self.spec, self.composed, batches, expected, candidate, self.rotating)

    def _repair_candidate(
        self, rows: Any, merged_only: bool, model: nn.Module, transfers: Mapping[str, Transfer], network: GraphNetwork
    ) -> None:
        """Repair a network that is only compared. Tuning would take too long, and ridge takes its place."""
        rung = "norms" if self.rung == "norms" else "ridge"
        turned = self.rotating & transfers.keys()  # in `model`, and not in the network with all blocks
        original = None if turned else self._find_original(network)
        merged_only = merged_only and not self.dropped  # of missing blocks all layers make up
        repair_network(
            model, self.spec, transfers, network, rung=rung, data=rows, original=original, merged_only=merged_only
        )

    def _build_measure(self, spec: UnitSpec) -> Callable[[Measure], Mapping[str, Tensor]] | None:
        """Return a function that measures units on the calibration data, or None without data."""
        if self.data is None:
            return None
        batches = self.data.batches
        network = cache(lambda: coarse_network(self.base, self.spec, self.composed).eval())
        return cache(lambda measure: measure(network(), spec, batches))


def _extend_runs(runs: Mapping[str, str], steps: Sequence[ChainCoarsening]) -> dict[str, str]:
    """Return by kept block the last block of its run, after some more blocks have merged or were left out."""
    longer: dict[str, str] = {}
    for step in steps:
        longer |= {kept: runs.get(last, last) for kept, last in step.runs.items()}
    return {**runs, **longer}


def _explain_no_chain(chain_list: list[Chain], obstacles: list[str], blocks: int | None) -> str:
    """Return the reason why no blocks merge, in a sentence."""
    if chain_list:
        asked = "the ratio keeps" if blocks is None else f"blocks (--blocks) of {blocks} keeps"
        return f"{asked} every block of {', '.join(chain.name for chain in chain_list[:3])}. Give a smaller one."
    return f"depth merges alike residual blocks, and there are none: {explain_no_chain(obstacles)}"
