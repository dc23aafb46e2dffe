"""Passage: a run goes down a level and comes up again, if at all.

Down only where the level does not rest, the step can be afforded (`netgraph.fas.solver.adaptive`), and the gate is open, asked in
this order, because the first two cost nothing and the third begins with two forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netgraph.errors import NetgraphError
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.correction import CorrectionResult, apply_correction, blend
from netgraph.fas.levels.moments import carry_moments_down, correct_moments, set_moments
from netgraph.fas.levels.tau import CoarseProblem, form_coarse_problem, mean_value, measure_gap, refusal_reason
from netgraph.fas.levels.vectors import assign, copy_vector
from netgraph.fas.solver.adaptive import Backoff, bound_flops_per_row
from netgraph.fas.solver.cycles import Visit
from netgraph.fas.solver.problem import count_batches, count_rows

if TYPE_CHECKING:
    from netgraph.fas.solver.run import Run


def begin_coarse_step(run: Run, level: int) -> None:
    """Leave a level for the coarser one, or smooth it instead."""
    why = skip_reason(run, level)
    if why is not None:
        run.smooth_instead(why, {})
        return
    if level == run.top:
        run.account.begun = run.ledger.total_flops()
    found = _form_tau(run, level)
    why = refusal_reason(found, run.options.gate_of(level))
    if why is not None:
        run.grids[level + 1].settle()
        _record_failure(run, level)
        run.smooth_instead(why, read_figures(found))
        return
    _start_coarse_level(run, level, found)
    if level == run.top:
        run.steering.begin_visit(run.ledger.total_seconds())
    run.emit_event("down", level, **read_figures(found))


def skip_reason(run: Run, level: int) -> str | None:
    """Return in words why no coarse step is tried; None where one is."""
    rest = run.rests.setdefault(level, Backoff())
    if rest.left > 0:
        rest.left -= 1
        return "the level rests after refusals"
    if level != run.top or not must_earn_cost(run):
        return None
    cost, owed, share = (
        bound_flops(run, _find_coarse_visits(run)),
        run.account.owed,
        run.options.gate_of(run.top).share,
    )
    if owed + cost <= share * run.whole:
        return None
    lost = f", and {owed / run.whole:.1%} is lost already" if owed else ""
    return f"a coarse step could cost {cost / max(run.whole, 1e-300):.1%} of the run{lost}; gate.share is {share:.1%}"


def _find_coarse_visits(run: Run) -> list[Visit]:
    """Return the visits of the coarse step of the cycle that the run is in."""
    cycle = run.visits[run.at : run.find_step_end(run.at)]
    return [visit for visit in cycle if visit.kind != "smooth" or visit.level != run.top]


def must_earn_cost(run: Run) -> bool:
    """Return whether coarse steps have to earn what they cost; where f is one minibatch, the line search knows all."""
    return math.isfinite(run.options.gate_of(run.top).share) and count_batches(run.problem.batches) != 1


def bound_flops(run: Run, visits: Sequence[Visit]) -> float:
    """Return the most operations that visits can cost."""
    whole = count_batches(run.problem.batches)
    if whole is None and any(run.options.tau_of(v.level).kind == "whole" for v in visits if v.kind == "down"):
        raise NetgraphError(
            "a tau of the whole set goes through all minibatches, and these have no length, so that its cost is not known; give "
            "a loader with len(), another tau, or gate.share = inf"
        )
    return bound_flops_per_row(visits, run.maps.flops, run.options, whole or 0) * count_rows(run.stream.peek())


def _form_tau(run: Run, level: int) -> CoarseProblem:
    """Form tau on a set of minibatches, of which coarse smoothing then goes through the same.

    Two forward passes on one minibatch tell most closed gates, and leave it in the stream.
    """
    fine, coarse, tau, value = run.grids[level], run.grids[level + 1], run.options.tau_of(level), run.problem.value
    flops = run.maps.flops[level] + run.maps.flops[level + 1]
    with run.ledger.clock(level, "transfer"):
        assign(coarse.x, run.maps.inject(level, fine.x))
    with run.ledger.clock(level, "tau"):
        first = fine.common[:1] or [run.placed(run.stream.peek(), fine)]
        found = measure_gap(fine, coarse, value, first)
        run.ledger.spend(level, "tau", count_rows(first[0]) * flops)
        if refusal_reason(found, run.options.gate_of(level)) is not None:
            return found
        batches = _draw_batches(run, level)
        coarse.common = [] if tau.kind == "whole" else batches
        if tau.kind != "none":
            found = form_coarse_problem(run.maps, level, fine, coarse, value, batches, each=tau.kind == "several")
            run.ledger.spend(level, "tau", STEP * sum(count_rows(batch) for batch in batches) * flops)
    return found


def _draw_batches(run: Run, level: int) -> list[Any]:
    fine, tau = run.grids[level], run.options.tau_of(level)
    if tau.kind != "whole" and fine.common:
        return fine.common[: tau.batches]
    return [run.placed(b, fine) for b in (run.problem.batches if tau.kind == "whole" else run.stream.take(tau.batches))]


def _start_coarse_level(run: Run, level: int, found: CoarseProblem) -> None:
    fine, coarse = run.grids[level], run.grids[level + 1]
    coarse.rhs, coarse.turns, run.descents[level] = found.rhs, 0, found
    coarse.injected = copy_vector({n: t for n, t in coarse.x.items() if t.is_floating_point()})
    with run.ledger.clock(level, "transfer"):
        carried = run.options.smoothing_of(level).moments
        set_moments(coarse.smoother, carry_moments_down(run.maps, level, fine.smoother) if carried else {})


def finish_coarse_step(run: Run, level: int) -> None:
    """Correct a level with what the coarser one found, where that lowers f, and note what it earned."""
    fine, coarse = run.grids[level], run.grids[level + 1]
    judged = level == run.top and must_earn_cost(run)
    fresh = [run.placed(run.stream.peek(), fine)] if judged else []  # which the coarse level has not seen
    with run.ledger.clock(level, "search"):
        before = mean_value(fine, run.problem.value, fresh)
        taken = _apply_coarse_correction(run, level)
        gain = before - mean_value(fine, run.problem.value, fresh) if taken.length else 0.0
        run.ledger.spend(level, "search", 2 * sum(count_rows(batch) for batch in fresh) * run.maps.flops[level])
    cost = run.ledger.total_flops() - run.account.begun
    if not taken.length:
        _record_failure(run, level)
    elif judged and not run.account.settle(gain, cost, run.whole):
        run.rests[level].refuse(run.options.gate_of(level).patience)
    else:
        run.rests[level].succeed()
    coarse.settle()
    if level == run.top:
        run.steering.end_visit(taken.before - taken.after if taken.length else 0.0, run.ledger.total_seconds())
    run.emit_event(
        "up", level, **vars(taken), **({"earned": gain, "cost": cost, "owed": run.account.owed} if judged else {})
    )


def _apply_coarse_correction(run: Run, level: int) -> CorrectionResult:
    """Take the coarser level's correction and moments, or leave both."""
    fine, coarse, found = run.grids[level], run.grids[level + 1], run.descents.pop(level)
    gate, moments = run.options.gate_of(level), run.options.smoothing_of(level).moments
    lengths = gate.search if coarse.common else ()
    additive = run.visits[run.at - 1].level == level  # this level was smoothed meanwhile, and its own moments stand
    stayed = not additive and not math.isnan(found.tau)
    if gate.blend:
        taken = blend(run.maps, level, fine, coarse, gate.blend)
    else:
        taken = apply_correction(run.maps, level, fine, coarse, run.problem.value, lengths, found, stayed=stayed)
    measured = taken.tried + (taken.tried > 0 and not stayed)
    run.ledger.spend(
        level, "search", measured * sum(count_rows(batch) for batch in coarse.common) * run.maps.flops[level]
    )
    if taken.length and moments and not additive:
        correct_moments(run.maps, level, fine.smoother, coarse.smoother)
    coarse.smoother.optimizer.state.clear()  # the next step down brings others
    return taken


def _record_failure(run: Run, level: int) -> None:
    """Note that a coarse step came to nothing."""
    run.rests[level].refuse(run.options.gate_of(level).patience)
    if level == run.top:
        run.account.charge(run.ledger.total_flops() - run.account.begun)


def read_figures(found: CoarseProblem) -> dict[str, float]:
    """Return what a record tells of a descent."""
    return {name: getattr(found, name) for name in ("fine", "coarse", "gap", "tau", "restricted", "gradient")}
