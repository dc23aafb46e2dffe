"""Networks with fewer residual blocks, as beginnings of ways to a target: which blocks are missing, and the loss of that.

For each chain of alike blocks and several numbers m of blocks, three candidates are measured by the error of the outputs, as the units of an
axis are:

    weak      the m blocks that change the stream least are left out         Men et al., "ShortGPT", 2024
    run       the m consecutive blocks that change it least together         Gromov et al., "The unreasonable ineffectiveness
                                                                             of the deeper layers", 2024
    merged    neighbours whose weights are alike merge                       `netgraph.coarsen.directions.depth`

Chains then become shorter one step after the other, always the one that adds the least loss for the blocks that go. Each place of this way
is a network of its own, in which units merge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from netgraph.analysis.residual_chains import Chain, explain_no_chain, find_chains
from netgraph.coarsen.compression.selection import JUDGED_ROWS, Chooser
from netgraph.coarsen.directions.block_alignment import align_blocks
from netgraph.coarsen.directions.block_similarity import choose_run, choose_weak_blocks, measure_similarity
from netgraph.coarsen.directions.depth import ChainCoarsening, coarsen_chain, leave_out
from netgraph.coarsen.hierarchy.budget import GRID, compute_loss
from netgraph.coarsen.hierarchy.level_builder import LevelBuilder
from netgraph.coarsen.hierarchy.merge_plan import GraphStore
from netgraph.coarsen.network.functional_error import choose_batch, split_batches
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.partition.size_costs import COSTS
from netgraph.errors import NothingToMergeError

MOST_COUNTS = 12  # numbers of missing blocks that are measured for each chain
MOST_BASES = 12  # networks with fewer blocks in which numbers of units are chosen


@dataclass(frozen=True)
class DepthTrial:
    """A chain with fewer blocks, and what that costs.

    Parameters
    ----------
    way : {"weak", "run", "merged"}
        How the blocks were chosen.
    step : ChainCoarsening
    error : float
        Of the outputs, where this chain alone is shorter.
    """

    way: str
    step: ChainCoarsening
    error: float

    def document(self) -> dict[str, Any]:
        """Return the trial as plain data."""
        return {
            "chain": self.step.chain.name,
            "way": self.way,
            "missing": list(self.step.dropped),
            "error": self.error,
        }


def build_bases(whole: Chooser, trials: Sequence[DepthTrial], kind: str) -> list[Chooser]:
    """Return choosers of the network and of networks with fewer blocks, at most `MOST_BASES` of them.

    Parameters
    ----------
    whole : Chooser
        Of the network with all blocks.
    trials : sequence of DepthTrial
        As `measure_depths` returns them.
    kind : str
        Name of the cost that blocks are to save.
    """
    plans = list(_walk_plans(whole.builder, trials, kind))
    chosen = np.unique(np.linspace(0, len(plans) - 1, min(len(plans), MOST_BASES)).round().astype(int))
    return [whole, *(_make_base(whole, *plans[i]) for i in chosen)]


def _make_base(whole: Chooser, steps: tuple[ChainCoarsening, ...], loss: float) -> Chooser:
    """Return a chooser of the network with shorter chains. The errors of axes that are there too are those of the whole network."""
    builder = whole.builder.fork(whole.builder.plan, graphs=GraphStore())
    builder.rebase(steps)
    fine, axes = whole.builder.spec.axes, builder.spec.axes
    known = {n: e for n, e in whole.errors.items() if n in axes and axes[n].size == fine[n].size}
    return replace(whole, builder=builder, steps=steps, loss=loss, known=known)


def measure_depths(builder: LevelBuilder, *, repaired: bool) -> list[DepthTrial]:
    """Return for each chain and several numbers of missing blocks the candidate of the smallest error, and the others behind it.

    Parameters
    ----------
    builder : LevelBuilder
        Of the network, with calibration data.
    repaired : bool
        Measure errors after repair.

    Raises
    ------
    NothingToMergeError
        The network has no chain of alike residual blocks.
    """
    chains, obstacles = find_chains(builder.spec)
    if not chains:
        raise NothingToMergeError(
            f"depth leaves out alike residual blocks, and there are none: {explain_no_chain(obstacles)}. Take channels alone."
        )
    trials = []
    for i, chain in enumerate(chains):
        if builder.plan.progress is not None:
            builder.plan.progress(f"blocks from {chain.name} on", i, len(chains))
        for candidates in _list_candidates(builder, chain):
            measured = [DepthTrial(way, step, _measure(builder, step, repaired)) for way, step in candidates]
            trials += sorted(measured, key=lambda trial: trial.error)
    return trials


def _list_candidates(builder: LevelBuilder, chain: Chain) -> Iterator[list[tuple[str, ChainCoarsening]]]:
    """Yield the candidates of each number of missing blocks. Those that leave out the same blocks are one."""
    assert builder.data is not None
    network = coarse_network(builder.root, builder.spec, {}).eval()
    rows = split_batches(builder.data.inputs, JUDGED_ROWS)[0]
    batches = split_batches(rows, choose_batch(builder.root, rows, JUDGED_ROWS, builder.spec.outputs))
    cosines = measure_similarity(network, builder.spec, chain, batches)
    n = len(chain.blocks)
    most = n - math.ceil(n * GRID[-1])
    for missing in np.unique(np.linspace(1, most, min(most, MOST_COUNTS)).round().astype(int)).tolist():
        weak = choose_weak_blocks(chain, cosines, missing)
        run = choose_run(chain, cosines, missing)
        candidates = [("weak", leave_out(chain, weak))]
        if run != weak:
            candidates.append(("run", leave_out(chain, run)))
        merged = coarsen_chain(
            chain, builder.state, 1.0, n_blocks=n - missing, seed=builder.plan.seed, by=builder.depth_by
        )
        if merged is not None:
            candidates.append(("merged", align_blocks(builder.spec, builder.state, merged)))
        yield candidates


def _measure(builder: LevelBuilder, step: ChainCoarsening, repaired: bool) -> float:
    """Return the error of the outputs where a chain is shorter."""
    shorter = builder.fork(builder.plan, rung=builder.rung)
    shorter.rebase((step,))
    return shorter.measure_base(JUDGED_ROWS, repair=repaired)


def _walk_plans(
    builder: LevelBuilder, trials: Sequence[DepthTrial], kind: str
) -> Iterator[tuple[tuple[ChainCoarsening, ...], float]]:
    """Yield shorter chains and the sum of their losses, always with the step that adds the least loss for what it saves."""
    ladders = _build_ladders(trials)
    savings = {name: _measure_saving(builder, ladder[0][0], kind) for name, ladder in ladders.items()}
    places = dict.fromkeys(ladders, -1)

    def add_loss(name: str, place: int) -> float:
        return ladders[name][place][1] - (ladders[name][places[name]][1] if places[name] >= 0 else 0.0)

    def price(name: str) -> float:
        return add_loss(name, places[name] + 1) / max(savings[name], 1e-300)

    loss = 0.0
    while open_ := [name for name, place in places.items() if place + 1 < len(ladders[name])]:
        name = min(open_, key=price)
        loss += add_loss(name, places[name] + 1)
        places[name] += 1
        yield tuple(ladders[n][place][0] for n, place in places.items() if place >= 0), loss


def _build_ladders(trials: Sequence[DepthTrial]) -> dict[str, list[tuple[ChainCoarsening, float]]]:
    """Return by chain the best candidate of each number of missing blocks with its loss, which does not fall."""
    best: dict[str, dict[int, DepthTrial]] = {}
    for trial in trials:
        counts = best.setdefault(trial.step.chain.name, {})
        missing = len(trial.step.dropped)
        if missing not in counts or trial.error < counts[missing].error:
            counts[missing] = trial
    ladders = {}
    for name, counts in best.items():
        losses = np.maximum.accumulate([compute_loss(counts[missing].error) for missing in sorted(counts)])
        steps = [counts[missing].step for missing in sorted(counts)]
        ladders[name] = list(zip(steps, losses.tolist(), strict=True))
    return ladders


def _measure_saving(builder: LevelBuilder, step: ChainCoarsening, kind: str) -> float:
    """Return what one block of a chain costs."""
    measure: Callable[[Any], Any] = COSTS[kind]
    shorter = builder.fork(builder.plan)
    shorter.rebase((step,))
    return float(measure(builder.spec).measure({}) - measure(shorter.spec).measure({})) / len(step.dropped)
