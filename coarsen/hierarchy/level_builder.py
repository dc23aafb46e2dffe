"""Making levels one below the other: which way, in which directions, repaired and measured.

Every level is written from a *base*: the network as given, at the level's resolution and without the blocks that have merged,
with units unmerged. Channels lead from the base to the level in one step; the other directions change the base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from netgraph.analysis.remove_blocks import drop_blocks
from netgraph.analysis.residual_chains import find_chains
from netgraph.coarsen.directions.block_alignment import align_blocks
from netgraph.coarsen.directions.depth import ChainCoarsening, DepthMap, coarsen_chain
from netgraph.coarsen.directions.resolution import trace_at_resolution
from netgraph.coarsen.hierarchy.budget import Budget, spread_budget
from netgraph.coarsen.hierarchy.level import Level
from netgraph.coarsen.hierarchy.loss_gap import LossGap
from netgraph.coarsen.hierarchy.merge_plan import Judge, MergePlan, MergeStep
from netgraph.coarsen.network.functional_error import FunctionErrorJudge, compute_outputs, function_error, split_batches
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
from netgraph.coarsen.repair.pipeline import repair_network as repaired
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.errors import NetgraphError
from netgraph.graph.axis_units import Measure
from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.recorder import named_state
from netgraph.tracing.unit_spec import UnitSpec

ROWS = 256  # of calibration data, for the repair of networks that only judge


@dataclass(frozen=True)
class Calibration:
    """Calibration data: whole, in batches, and what the finest network answers."""

    inputs: Any
    batches: list[Any]
    wanted: list[list[Tensor]]

    @classmethod
    def of(cls, model: nn.Module, data: Any) -> Calibration | None:
        """Run the network on the data, which shows before work begins whether they fit."""
        if data is None:
            return None
        batches = split_batches(data, 64)
        try:
            return cls(data, batches, compute_outputs(model, batches))
        except Exception as error:  # operators raise many kinds
            raise NetgraphError(
                f"the network does not run on the calibration data ({type(error).__name__}: {str(error)[:200]}); give "
                "inputs that nest as the example does"
            ) from error


@dataclass
class LevelBuilder:
    """Makes one level after the other; parameters go down unrepaired, and each level is repaired by itself.

    Parameters
    ----------
    root : torch.nn.Module
        The network as given.
    spec : UnitSpec
        Of it, and then of the base.
    example : Tensor, tuple or dict
    way : Way
    budget : Budget, optional
    rung : str
    data : Calibration, optional
    gap : Gap, optional
    depth_by : str
        How merged blocks become several again (`netgraph.coarsen.directions.depth.coarsen_chain`).
    """

    root: nn.Module
    spec: UnitSpec
    example: Any
    way: MergePlan
    budget: Budget | None
    rung: str
    data: Calibration | None
    gap: LossGap | None = None
    depth_by: str = "split"
    unturned: nn.Module = field(init=False)
    turns: list[HeadRotation] = field(default_factory=list)  # what `base` has been turned by since
    rotating: set[str] = field(init=False)
    pool: int = 1
    specs: dict[int, UnitSpec] = field(
        default_factory=dict
    )  # of the network as given, by how much lower the resolution is
    dropped: frozenset[str] = frozenset()
    state: dict[str, Tensor] = field(init=False)
    whole: dict[str, Transfer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unturned, self.specs[1] = self.root, self.spec
        self.state = traced_state(self.root)
        axes = [axis.name for axis in self.spec.free if axis.name not in self.way.kept]
        self.rotating = find_rotatable_axes(self.root, self.spec, self.example, axes, seed=self.way.seed)

    @property
    def base(self) -> nn.Module:
        """The base with merged heads in one basis (`netgraph.coarsen.network.head_alignment`), written when somebody wants it."""
        if self.turns:
            self.unturned, self.turns = rotate_network(self.unturned, self.spec, self.turns), []
        return self.unturned

    def trace_resolutions(self, n_steps: int) -> None:
        """Trace the network at every resolution that will be asked for; one that cannot be is refused before work begins."""
        for step in range(1, n_steps + 1):
            self.specs[2**step] = trace_at_resolution(self.root, self.example, self.specs[1], 2**step)

    def build_next(self, level: Level, directions: frozenset[str]) -> Level | None:
        """Return the next coarser level; None where nothing shrinks."""
        started = time.perf_counter()
        reasons: dict[str, Any] = {}
        short = self._shortened(reasons) if "depth" in directions else ()
        pool = self.pool * (2 if "space" in directions else 1)
        if short or pool != self.pool:
            self._rebase(short, pool)
        transfers = self._transfers(level, reasons) if "channels" in directions else {}
        if not (transfers or short or "space" in directions):
            level.reasons.update({k: v for k, v in reasons.items() if k == "unable"})
            return None
        whole = self.whole
        self.state, self.whole, coarse, turns = self._merged(transfers)
        try:
            check_coarse_network(coarse, self.example)
        except NetgraphError:
            check_example(self.root, self.example)
            raise
        self.turns = lift_rotations(turns, self.spec, whole)
        self._repair(coarse, reasons)
        here = self._here()
        return Level(coarse, here, transfers, time.perf_counter() - started, here.flops, reasons, short, pool)

    def _here(self) -> UnitSpec:
        """Return the base's spec with this level's numbers of units."""
        return self.spec.with_sizes({axis: t.n_coarse for axis, t in self.whole.items()})

    # depth and space change the base

    def _shortened(self, reasons: dict[str, Any]) -> tuple[ChainCoarsening, ...]:
        here = self._here()
        found, why = find_chains(here)  # blocks that have merged to unlike sizes are no longer alike
        how: dict[str, Any] = {"seed": self.way.seed, "by": self.depth_by}
        steps = [coarsen_chain(chain, self.state, self.way.ratio(chain.name), **how) for chain in found]
        short = tuple(align_blocks(here, self.state, step) for step in steps if step is not None)
        if not short:
            reasons["unable"] = {"depth": _explain_no_chain(found, why)}
        return short

    def _rebase(self, short: tuple[ChainCoarsening, ...], pool: int) -> None:
        """Take another base, shorter or of lower resolution; what has merged of it stays merged."""
        base = traced_state(self.base)
        # units that have merged are numbered otherwise there
        wide = [align_blocks(self.spec, base, step) for step in short] if self.whole else short
        self.pool, self.dropped = pool, self.dropped.union(*(step.dropped for step in short))
        self.spec = self.specs[pool]
        if self.dropped:
            self.spec = drop_blocks(self.spec, named_state(self.root), self.dropped)
        self.state = DepthMap(short).inject(self.state)
        self.unturned = coarse_network(self.root, self.spec, {}, state=DepthMap(wide).inject(base))
        self.whole = {axis: t for axis, t in self.whole.items() if axis in self.spec.axes}

    # channels

    def _transfers(self, level: Level, reasons: dict[str, Any]) -> dict[str, Transfer]:
        here = self._here()
        step = self.way.down(here, self.state, self.whole, self._seen(here))
        judge, mended = self._judge(), self._judge(repair=True)
        if self.budget is not None:
            reasons["ratios"], reasons["curves"] = spread_budget(step, self.budget, judge, mended)
        if self.gap is not None:
            reasons["ratios"], reasons["gaps"] = self._within(self.gap, level, step, judge)
        transfers, chosen = step.transfers(mended or judge, reasons.get("ratios", {}))
        if chosen:
            reasons["coarseners"] = chosen
        if transfers and self.way.quality is not None:
            reasons["quality"] = step.costs(transfers, judge)
        return transfers

    def _merged(
        self, transfers: Mapping[str, Transfer]
    ) -> tuple[dict[str, Tensor], dict[str, Transfer], GraphNetwork, list[HeadRotation]]:
        """Return coarse parameters, the way to them, their network, and how heads were rotated before they merged."""
        here = self._here()
        turns = find_rotations(here, {axis: t for axis, t in transfers.items() if axis in self.rotating}, self.state)
        state = inject(here, transfers, apply_rotations(turns, self.state))
        step = {a: self.whole[a].compose(t) if a in self.whole else t for a, t in transfers.items()}
        whole = {**self.whole, **step}
        return state, whole, coarse_network(self.base, self.spec, whole, state=state), turns

    def _within(
        self, gap: LossGap, level: Level, step: MergeStep, judge: Judge | None
    ) -> tuple[dict[str, float], dict[float, float]]:
        """Return the ratio of every axis that a bound on the loss allows, and the gaps that were measured."""

        def candidate(ratio: float) -> GraphNetwork | None:
            transfers, _ = step.transfers(judge, dict.fromkeys((a.name for a in step.axes), ratio), again=True)
            return self._merged(transfers)[2] if transfers else None

        ratio, gaps = gap.ratio(level.model, candidate)
        return dict.fromkeys((axis.name for axis in step.axes), ratio), gaps

    # repair and error

    def _repair(self, coarse: GraphNetwork, reasons: dict[str, Any]) -> None:
        if self.rung != "none":
            inputs = None if self.data is None else self.data.inputs
            done = repaired(self.base, self.spec, self.whole, coarse, rung=self.rung, data=inputs, seed=self.way.seed)
            reasons["repair"] = asdict(done)
        if self.data is not None:
            reasons["error"] = function_error(self.data.wanted, compute_outputs(coarse, self.data.batches))

    def _judge(self, *, repair: bool = False) -> FunctionErrorJudge | None:
        """Return what judges one axis on the first batch, or does so after repair on the last rows."""
        if self.data is None or (repair and self.rung not in ("norms", "ridge", "tune")):
            return None
        mend = partial(self._mend, split_batches(self.data.inputs, ROWS)[-1]) if repair else None
        return FunctionErrorJudge(
            self.base, self.spec, self.whole, self.data.batches[:1], self.data.wanted[:1], mend, self.rotating
        )

    def _mend(self, rows: Any, model: nn.Module, transfers: Mapping[str, Transfer], network: GraphNetwork) -> None:
        rung = "norms" if self.rung == "norms" else "ridge"
        repaired(model, self.spec, transfers, network, rung=rung, data=rows)

    def _seen(self, spec: UnitSpec) -> Callable[[Measure], Mapping[str, Tensor]] | None:
        if self.data is None:
            return None
        batches = self.data.batches
        network = cache(lambda: coarse_network(self.base, self.spec, self.whole).eval())
        return cache(lambda measure: measure(network(), spec, batches))


def _explain_no_chain(found: list[Any], why: list[str]) -> str:
    if found:
        return f"the ratio keeps every block of {', '.join(chain.name for chain in found[:3])}; give a smaller one"
    said = "; ".join(why[:3]) or "no two neighbouring modules have parameters of the same names and shapes"
    return f"no two neighbouring blocks are alike residual blocks: {said}"
