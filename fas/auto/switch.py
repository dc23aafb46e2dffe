"""The switch from a coarse level to the next finer one by rule: when the finer one would earn more for its cost.

Shares of the steps are then upper bounds. Several times on each coarse level two rates are compared, both of the validation loss of
the level itself and for the same cost::

    earned by the level         (loss at the last check - loss now) / operations since then
    earned by the finer level   (loss after half of a probe - loss at its end) / operations of that half

A probe starts the finer level, takes some steps and forgets them. Its first half is not counted, because a level that begins gains
at once what it would gain at any later time. If the finer level earns more at two checks in a row, the level is left, and its
operations go to the finer one.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from netgraph.errors import NetgraphError
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.grid import without_side_effects
from netgraph.fas.levels.growth import Growth
from netgraph.fas.levels.moments import set_moments
from netgraph.fas.levels.nested_iteration import start_level
from netgraph.fas.levels.vectors import assign, copy_vector
from netgraph.fas.solver.problem import count_rows
from netgraph.fas.solver.run import Run

PROBE = 0.25  # operations of a probe, as a share of those between two checks
FEWEST = 4  # steps of half a probe. A level whose steps cost less than a probe of them keeps its share
PATIENCE = 2  # checks in a row at which the finer level must earn more
NOTE = "switch on plateau"  # key of the rule's state in the notes of a run


class SwitchOnPlateau:
    """A callback that leaves a coarse level when the next finer one would earn more for its cost (nested iteration).

    Parameters
    ----------
    checks : int, default 10
        Checks on each level in its planned steps.

    Raises
    ------
    NetgraphError
        There are no checks, or when the run begins: it is no nested iteration, the problem measures no validation loss, or the
        schedule has no stable phase.

    Notes
    -----
    Probes and validation are counted in the ledger. The operations of probes are subtracted from those of the finer level. Checks
    come with records of smoothing, so that ``every`` of the solver must be at most a tenth of a level's steps, or less for more
    checks. Put the rule before `netgraph.fas.Checkpoints`, which then hold its decisions.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import SwitchOnPlateau
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> inputs = torch.randn(256, 4)
    >>> batches = list(zip(inputs.split(16), inputs[:, :2].abs().split(16)))
    >>> def validate(network):
    ...     with torch.no_grad():
    ...         return {"loss": float((network(inputs) - inputs[:, :2].abs()).square().mean())}
    >>> problem = ng.Problem(batches, torch.nn.functional.mse_loss, valid=validate)
    >>> hierarchy = ng.build_hierarchy(model, inputs[:2], n_levels=2)
    >>> ng.init_coarse_weights(hierarchy)
    >>> solution = ng.FAS("kaskade", epochs=90, lr=0.01).solve(hierarchy, problem, callbacks=[SwitchOnPlateau()])
    >>> {row["kind"] for row in solution.ledger.rows()} >= {"smooth", "probe"}
    True
    """

    on_every_rank = True  # of several processes, which leave a level together

    def __init__(self, checks: int = 10) -> None:
        if checks < 1:
            raise NetgraphError(f"checks is {checks}. Give 1 or more.")
        self.checks = checks

    def __call__(self, run: Run, record: dict[str, Any]) -> None:
        """Compare the level with the next finer one where a check is due. The solver calls this with each of its events."""
        if record["event"] == "begin":
            _check_run(run)
        elif record["event"] == "smooth" and run.top > 0 and run.instead is None:
            self._check_level(run)

    def _check_level(self, run: Run) -> None:
        """Compare the rates if enough steps were taken, and leave the level after a few checks in a row that say so."""
        level, planned = run.top, run.visits[run.at].steps
        state = run.notes.get(NOTE, {})
        if state.get("at") != run.at:
            run.notes[NOTE] = {
                "at": run.at,
                "done": run.done,
                "loss": _measure_loss(run, level),
                "behind": 0,
                "spent": 0.0,
            }
            return
        steps = run.done - state["done"]
        cost, fine_cost = (run.step_costs[i] for i in (level, level - 1))
        half = int(PROBE * steps * cost / fine_cost / 2)
        if steps * self.checks < planned or run.done >= planned or half < FEWEST:
            return
        loss, cost = _measure_loss(run, level), steps * cost
        finer, spent = _probe_finer_level(run, level, half)
        own = (state["loss"] - loss) / cost
        behind = state["behind"] + 1 if finer > own else 0
        state |= {"done": run.done, "loss": loss, "behind": behind, "spent": state["spent"] + spent}
        if behind >= PATIENCE:
            run.emit_event("switch", level, earned=own, finer=finer, steps=run.done)
            run.leave_level(state["spent"])


def _check_run(run: Run) -> None:
    """Refuse a run in which no level starts another, no loss is measured, or the rate never stays."""
    if not any(visit.kind == "start" for visit in run.plan) or any(visit.kind == "down" for visit in run.plan):
        raise NetgraphError(
            "a switch by rule needs levels that start one after another. Take the cycle kaskade and two levels or more."
        )
    if getattr(run.problem, "valid", None) is None:
        raise NetgraphError(
            "a switch by rule compares validation losses, and the problem measures none. Give Problem(valid=...), a function of the "
            "network that returns {'loss': ...}."
        )
    if len(run.schedules) > 1 or not run.schedules[0].is_stable:
        raise NetgraphError(
            "a switch by rule needs a rate that stays on all coarse levels. Take the schedule wsd or constant."
        )


def _measure_loss(run: Run, level: int) -> float:
    """Return the validation loss of a level, without a record."""
    with without_side_effects([run.grids[level].model]):
        figures = run.measure_figures(level)
    if "loss" not in figures:
        raise NetgraphError(
            f"a switch by rule compares validation losses, and the problem's figures are {', '.join(figures) or 'none'}. Give one "
            "called loss."
        )
    return float(figures["loss"])


def _probe_finer_level(run: Run, level: int, half: int) -> tuple[float, float]:
    """Return what the next finer level earns per operation in the second half of a probe, and the operations of the probe."""
    fine, cost = run.grids[level - 1], run.step_costs[level - 1]
    kept = copy_vector(fine.x)
    with run.ledger.clock(level - 1, "probe"):
        _begin_finer_level(run, level)
        _take_steps(run, level - 1, half)
    middle = _measure_loss(run, level - 1)
    with run.ledger.clock(level - 1, "probe"):
        _take_steps(run, level - 1, half)
    end = _measure_loss(run, level - 1)
    assign(fine.x, kept)
    fine.smoother.optimizer.state.clear()
    fine.reset()
    earned = (middle - end) / (half * cost)
    return earned if math.isfinite(earned) else -math.inf, 2 * half * cost


def _begin_finer_level(run: Run, level: int) -> None:
    """Start the next finer level with copies of the moments, because optimizers change them in place."""
    fine, coarse = run.grids[level - 1], run.grids[level]
    start_level(run.maps, level - 1, fine, coarse, run.options.split, run.seed)
    if run.options.smoothing_of(level - 1).moments:
        moments = Growth(run.maps, level - 1, run.options.split).carry_moments(coarse.smoother)
        copies = {
            key: {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vector.items()}
            for key, vector in moments.items()
        }
        set_moments(fine.smoother, copies)


def _take_steps(run: Run, level: int, n: int) -> None:
    """Take some steps of a probe, at the rate of the schedule."""
    grid = run.grids[level]
    for _ in range(n):
        batches = [run.move_to_level(batch, grid) for batch in run.stream.take(grid.smoother.options.accumulate)]
        grid.smoother.follow(run.schedules[0].group)
        grid.smoother.step(run.problem.value, batches, {})
        run.ledger.spend(level, "probe", STEP * sum(map(count_rows, batches)) * run.maps.flops[level])
