"""One coarse step of a run: go down a level, and come up again with a correction.

A step begins only if three questions are answered with yes, the cheapest first. Is the level not resting after refusals? Can
the run afford the step (`netgraph.fas.solver.adaptive`)? Is the gate open (`netgraph.fas.levels.tau`)? The first two cost
nothing. The third takes two forward passes on one minibatch, and tau if these leave the gate open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from netgraph.errors import NetgraphError
from netgraph.fas.estimate.step import bound_measurements
from netgraph.fas.ledger import STEP, Ledger
from netgraph.fas.levels.correction import CorrectionResult, apply_correction, blend
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.moments import carry_moments_down, correct_moments, set_moments
from netgraph.fas.levels.tau import CoarseProblem, form_coarse_problem, mean_value, measure_gap, refusal_reason
from netgraph.fas.levels.vectors import assign, copy_vector, has_directions
from netgraph.fas.options.all_options import Options
from netgraph.fas.solver.adaptive import Backoff, CostAccount, VisitLength, bound_flops_per_row
from netgraph.fas.solver.cycles import Visit
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import Objective, count_batches, count_rows


class CoarseStepRun(Protocol):
    """The members of `netgraph.fas.solver.run.Run` that a coarse step uses."""

    maps: Maps
    problem: Objective
    options: Options
    grids: list[Grid]
    visits: list[Visit]
    stream: MinibatchStream
    ledger: Ledger
    top: int
    at: int
    backoffs: dict[int, Backoff]
    coarse_problems: dict[int, CoarseProblem]
    account: CostAccount
    steering: VisitLength

    @property
    def planned_flops(self) -> float:
        """Operations of all planned smoothing."""

    def find_step_end(self, at: int) -> int:
        """Return the position after a coarse step that is not taken."""

    def smooth_instead(self, why: str, figures: Mapping[str, float]) -> None:
        """Smooth the level in place of the coarse step."""

    def move_to_level(self, batch: Any, grid: Grid) -> Any:
        """Return a minibatch on the device of a level."""

    def read_clock(self) -> float:
        """Return the seconds of the run that decisions are made from."""

    def list_data(self) -> Iterable[Any]:
        """Return the minibatches of a pass beside the stream."""

    def emit_event(self, event: str, level: int, **figures: Any) -> None:
        """Write a record."""


# down


def begin_coarse_step(run: CoarseStepRun, level: int) -> None:
    """Leave a level for the coarser one, or smooth it instead."""
    why = skip_reason(run, level)
    if why is not None:
        run.smooth_instead(why, {})
        return
    if level == run.top:
        run.account.begun = run.ledger.total_flops()
    coarse_problem = _form_tau(run, level)
    why = refusal_reason(coarse_problem, run.options.gate_of(level))
    if why is not None:
        run.grids[level + 1].reset()
        _record_failure(run, level)
        run.smooth_instead(why, read_figures(coarse_problem))
        return
    _start_coarse_level(run, level, coarse_problem)
    if level == run.top:
        run.steering.begin_visit(run.read_clock())
    run.emit_event("down", level, **read_figures(coarse_problem))


def skip_reason(run: CoarseStepRun, level: int) -> str | None:
    """Return in words why no coarse step is tried, or None if one is."""
    backoff = run.backoffs.setdefault(level, Backoff())
    if backoff.left > 0:
        backoff.left -= 1
        return "the level rests after refusals"
    if level != run.top or not must_earn_cost(run):
        return None
    cost, owed = bound_flops(run, _find_coarse_visits(run)), run.account.owed
    share = run.options.gate_of(run.top).share
    if owed + cost <= share * run.planned_flops:
        return None
    lost = f", and {owed / run.planned_flops:.1%} is lost already" if owed else ""
    part = cost / max(run.planned_flops, 1e-300)
    return f"a coarse step could cost {part:.1%} of the run{lost}; gate.share is {share:.1%}"


def _find_coarse_visits(run: CoarseStepRun) -> list[Visit]:
    """Return the visits of the coarse step of the cycle that the run is in, at the largest cost that they can have.

    A coarse level that does not go down takes the steps of the levels below it, so a step may come to the finest coarse level.
    """
    cycle = run.visits[run.at : run.find_step_end(run.at)]
    coarse = [visit for visit in cycle if visit.kind != "smooth" or visit.level != run.top]
    return [visit._replace(level=run.top + 1) if visit.kind == "smooth" else visit for visit in coarse]


def must_earn_cost(run: CoarseStepRun) -> bool:
    """Return True if coarse steps have to earn their cost.

    If f is one minibatch, its value is exact and the line search alone decides.
    """
    return math.isfinite(run.options.gate_of(run.top).share) and count_batches(run.problem.batches) != 1


def bound_flops(run: CoarseStepRun, visits: Sequence[Visit], *, planned: bool = False) -> float:
    """Return an upper bound of the operations of some visits. If they are planned, estimated gradients count as what they cost."""
    n_all = count_batches(run.problem.batches)
    if n_all is None and any(run.options.tau_of(v.level).kind == "whole" for v in visits if v.kind == "down"):
        raise NetgraphError(
            "the cost of tau.kind = whole is unknown, because the minibatches have no length. Give a loader with len(), "
            "another tau.kind, or gate.share = inf."
        )
    flops, options = run.maps.flops, run.options
    measuring = sum(bound_measurements(v.level, v.steps, flops, options) for v in visits if v.kind == "smooth")
    per_row = bound_flops_per_row(visits, flops, options, n_all or 0, planned=planned)
    return per_row * count_rows(run.stream.peek()) + measuring


def _form_tau(run: CoarseStepRun, level: int) -> CoarseProblem:
    """Form tau on a set of minibatches, which coarse smoothing then goes through too.

    The gap on one minibatch comes first: it closes the gate in most cases, and the minibatch stays in the stream.
    """
    fine, coarse, tau, value = run.grids[level], run.grids[level + 1], run.options.tau_of(level), run.problem.value
    flops = run.maps.flops[level] + run.maps.flops[level + 1]
    with run.ledger.clock(level, "transfer"):
        assign(coarse.x, run.maps.inject(level, fine.x))
    with run.ledger.clock(level, "tau"):
        first = fine.common[:1] or [run.move_to_level(run.stream.peek(), fine)]
        coarse_problem = measure_gap(fine, coarse, value, first)
        run.ledger.spend(level, "tau", count_rows(first[0]) * flops)
        if refusal_reason(coarse_problem, run.options.gate_of(level)) is not None:
            return coarse_problem
        batches = _draw_batches(run, level)
        coarse.common = [] if tau.kind == "whole" else batches
        if tau.kind != "none":
            each = tau.kind == "several"
            coarse_problem = form_coarse_problem(run.maps, level, fine, coarse, value, batches, each=each)
            run.ledger.spend(level, "tau", STEP * sum(count_rows(batch) for batch in batches) * flops)
    return coarse_problem


def _draw_batches(run: CoarseStepRun, level: int) -> list[Any]:
    """Return the minibatches for tau: those of the finer level's set, all of the data, or the stream's next ones."""
    fine, tau = run.grids[level], run.options.tau_of(level)
    if tau.kind != "whole" and fine.common:
        return fine.common[: tau.batches]
    batches = run.list_data() if tau.kind == "whole" else run.stream.take(tau.batches)
    return [run.move_to_level(batch, fine) for batch in batches]


def _start_coarse_level(run: CoarseStepRun, level: int, coarse_problem: CoarseProblem) -> None:
    """Give the coarse level its right-hand side, a copy of inject x to subtract later, and moments."""
    fine, coarse = run.grids[level], run.grids[level + 1]
    coarse.rhs, coarse.position, run.coarse_problems[level] = coarse_problem.rhs, 0, coarse_problem
    coarse.injected = copy_vector({n: t for n, t in coarse.x.items() if has_directions(t)})
    with run.ledger.clock(level, "transfer"):
        carried = run.options.smoothing_of(level).moments
        set_moments(coarse.smoother, carry_moments_down(run.maps, level, fine.smoother) if carried else {})


# up


def finish_coarse_step(run: CoarseStepRun, level: int) -> None:
    """Correct a level with the coarser level's result if that lowers f, and record the gain.

    The gain is measured on the stream's next minibatch, which the coarse level has not seen.
    """
    fine, coarse = run.grids[level], run.grids[level + 1]
    judged = level == run.top and must_earn_cost(run)
    fresh = [run.move_to_level(run.stream.peek(), fine)] if judged else []
    with run.ledger.clock(level, "search"):
        before = mean_value(fine, run.problem.value, fresh)
        correction = _apply_coarse_correction(run, level)
        gain = before - mean_value(fine, run.problem.value, fresh) if correction.length else 0.0
        run.ledger.spend(level, "search", 2 * sum(count_rows(batch) for batch in fresh) * run.maps.flops[level])
    cost = run.ledger.total_flops() - run.account.begun
    if not correction.length:
        _record_failure(run, level)
    elif judged and not run.account.settle(gain, cost, run.planned_flops):
        run.backoffs[level].refuse(run.options.gate_of(level).patience)
    else:
        run.backoffs[level].succeed()
    coarse.reset()
    if level == run.top:
        fall = correction.before - correction.after if correction.length else 0.0
        run.steering.end_visit(fall, run.read_clock())
    earnings = {"earned": gain, "cost": cost, "owed": run.account.owed} if judged else {}
    run.emit_event("up", level, **vars(correction), **earnings)


def _apply_coarse_correction(run: CoarseStepRun, level: int) -> CorrectionResult:
    """Take over the coarser level's correction and moments, or neither of them."""
    fine, coarse, coarse_problem = run.grids[level], run.grids[level + 1], run.coarse_problems.pop(level)
    gate, carries_moments = run.options.gate_of(level), run.options.smoothing_of(level).moments
    lengths = gate.search if coarse.common else ()
    # In an additive cycle this level was smoothed meanwhile: x is no longer the one that tau saw, and its moments stand.
    additive = run.visits[run.at - 1].level == level
    stayed = not additive and not math.isnan(coarse_problem.tau)
    if gate.blend:
        correction = blend(run.maps, level, fine, coarse, gate.blend)
    else:
        correction = apply_correction(
            run.maps, level, fine, coarse, run.problem.value, lengths, coarse_problem, stayed=stayed
        )
    n_measured = correction.tried + (correction.tried > 0 and not stayed)
    rows = sum(count_rows(batch) for batch in coarse.common)
    run.ledger.spend(level, "search", n_measured * rows * run.maps.flops[level])
    if correction.length:
        fine.smoother.forget_last_step()
    if correction.length and carries_moments and not additive:
        correct_moments(run.maps, level, fine.smoother, coarse.smoother)
    coarse.smoother.optimizer.state.clear()  # the next step down brings others
    return correction


def _record_failure(run: CoarseStepRun, level: int) -> None:
    """Record that a coarse step was refused or its correction rejected."""
    run.backoffs[level].refuse(run.options.gate_of(level).patience)
    if level == run.top:
        run.account.charge(run.ledger.total_flops() - run.account.begun)


def read_figures(coarse_problem: CoarseProblem) -> dict[str, float]:
    """Return the figures of a coarse problem that a record holds."""
    names = ("fine", "coarse", "gap", "tau", "restricted", "gradient")
    return {name: getattr(coarse_problem, name) for name in names}
