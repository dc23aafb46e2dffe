"""Run: one solve under way, visit after visit.

All that changes during a run is in this class, and `netgraph.fas.checkpoint` writes it down between two optimizer steps. A run
is between two steps when it has stopped, and while callbacks see ``begin``, ``smooth``, ``cycle`` and ``finish``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.finite_values import list_nonfinite
from netgraph.errors import NetgraphError
from netgraph.fas.estimate.samples import Remainder
from netgraph.fas.estimate.step import (
    EstimateState,
    is_estimated,
    load_estimate,
    prepare_estimate,
    report_estimate,
    write_estimate,
)
from netgraph.fas.ledger import STEP, Ledger
from netgraph.fas.levels.grid import Grid, keep_modes
from netgraph.fas.levels.growth import Growth
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.levels.moments import set_moments
from netgraph.fas.levels.nested_iteration import start_level
from netgraph.fas.levels.rematch import compute_signatures, rebuild_levels
from netgraph.fas.levels.rewarm import scale_new_updates
from netgraph.fas.levels.tau import CoarseProblem
from netgraph.fas.levels.vectors import Vector
from netgraph.fas.options.all_options import Options
from netgraph.fas.outcome import Outcome, describe_refused_steps, judge_refused_step
from netgraph.fas.parallel.checks import check_same_levels, check_same_weights
from netgraph.fas.parallel.ranks import Ranks, describe_lost_rank
from netgraph.fas.parallel.split_problem import SplitValue
from netgraph.fas.solver.adaptive import Backoff, CostAccount, VisitLength
from netgraph.fas.solver.batch_norm import estimate_norms
from netgraph.fas.solver.coarse_step import begin_coarse_step, bound_flops, finish_coarse_step, skip_reason
from netgraph.fas.solver.cycles import Visit, count_steps_on_finest, leave_visit
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import Objective, count_rows, move_to_device
from netgraph.fas.solver.schedule import Schedule

Callback = Callable[["Run", dict[str, Any]], None]
logger = logging.getLogger("netgraph.fas")
REFUSED = 25  # refused steps in a row after which a run gives up


@dataclass
class Run:
    """One solve under way.

    `netgraph.fas.FAS.begin` makes it. Callbacks are called with it and may read its state, stop it with `stop`, and keep
    notes in ``notes``.

    Parameters
    ----------
    maps : Maps
        Maps between the levels.
    problem : Objective
        The function to minimise.
    options : Options
        Options of the solver.
    grids : list of Grid
        Levels, finest first.
    make_grid : callable ``(maps, level) -> Grid``
        Called for the coarse levels when units have been matched again.
    visits : list of Visit
        All visits of the run in order (`netgraph.fas.solver.cycles`).
    schedules : list of Schedule
        One for all levels together, or one for each level.
    stream : MinibatchStream
        The minibatches that all levels share.
    callbacks : sequence of callable ``(run, record)``, default empty
        Called with every event.
    seed : int, default 7619
        Seed of dropout and of the noise that makes copies differ.
    every : int, default 50
        Largest number of steps between two records of smoothing. There is also one when a level is left and before an
        evaluation.
    evaluations : int, default 0
        Steps between two evaluations. With 0 the network is evaluated at the end alone.
    mean : torch.optim.swa_utils.AveragedModel, optional
        Running mean of the finest network.
    ranks : Ranks, optional
        The processes that train the network, by default this one alone.

    Attributes
    ----------
    ledger : Ledger
        Costs so far.
    history : list of dict
        One record for each event.
    top : int
        Finest level that training has reached.
    begun_on : list of str
        Signatures of the first coarse levels, which a resumed run must share even after units were matched again.
    plan, lengths : list of Visit, list of int
        Visits and steps of the schedules as planned, which a resumed run must share even after a level was left early.
    at, done : int
        Position in ``visits``, and steps taken of that visit.
    instead : Visit, optional
        Smoothing that takes the place of the visits from ``at`` on.
    steps, cycles, refused : int
        Steps taken, cycles done, and refused steps in a row.
    reason : str
        Why the run ended. Empty while it goes on.
    converged : bool
        True if a tolerance was met.
    losses : list of float
        Losses since the last record of smoothing.
    backoffs, coarse_problems : dict
        By level the rest after refusals, and the problem of the coarse step under way.
    steering : VisitLength
    account : CostAccount
    estimates : dict of int to EstimateState
        By level the plan of the gradient's estimate.
    remainder : Remainder
        What an estimate has left of a minibatch.
    before : dict of str to Tensor
        x of the finest level one cycle ago, if ``tolerance.stol`` asks for it.
    notes : dict
        Values for JSON that callbacks keep in checkpoints.
    switches : list of (int, int, float)
        Positions that were left early, steps taken there, and operations spent on that decision.
    rng : dict of str to Tensor, optional
        Random state to go on from, in a resumed run.
    """

    maps: Maps
    problem: Objective
    options: Options
    grids: list[Grid]
    make_grid: Callable[[Maps, int], Grid]
    visits: list[Visit]
    schedules: list[Schedule]
    stream: MinibatchStream
    callbacks: Sequence[Callback] = ()
    seed: int = 7619
    every: int = 50
    evaluations: int = 0
    mean: Any = None
    ranks: Ranks = field(default_factory=Ranks)
    ledger: Ledger = field(init=False, default_factory=Ledger)
    history: list[dict[str, Any]] = field(init=False, default_factory=list)
    top: int = field(init=False)
    begun_on: list[str] = field(init=False)
    plan: list[Visit] = field(init=False)
    lengths: list[int] = field(init=False)
    at: int = field(init=False, default=0)
    instead: Visit | None = field(init=False, default=None)
    done: int = field(init=False, default=0)
    steps: int = field(init=False, default=0)
    cycles: int = field(init=False, default=0)
    refused: int = field(init=False, default=0)
    reason: str = field(init=False, default="")
    outcome: Outcome | None = field(init=False, default=None)
    converged: bool = field(init=False, default=False)
    losses: list[float] = field(init=False, default_factory=list)
    backoffs: dict[int, Backoff] = field(init=False, default_factory=dict)
    coarse_problems: dict[int, CoarseProblem] = field(init=False, default_factory=dict)
    steering: VisitLength = field(init=False, default_factory=VisitLength)
    account: CostAccount = field(init=False, default_factory=CostAccount)
    estimates: dict[int, EstimateState] = field(init=False, default_factory=dict)
    remainder: Remainder = field(init=False, default_factory=Remainder)
    before: Vector = field(init=False, default_factory=dict)
    notes: dict[str, Any] = field(init=False, default_factory=dict)
    switches: list[tuple[int, int, float]] = field(init=False, default_factory=list)
    rng: Mapping[str, Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.top = self.visits[0].level if self.visits else 0
        self.begun_on = compute_signatures(self.maps)
        self.plan, self.lengths = list(self.visits), [schedule.steps for schedule in self.schedules]

    def execute(self, ending: str = "all visits are done") -> None:
        """Do all remaining visits, or stop early.

        Parameters
        ----------
        ending : str
            Reason that the run gives if it comes to its end.
        """
        position = {"the step to go on from": self.steps, "the visit to go on from": self.at}
        self.ranks.check_equal(position, "Resume all of them from one folder, on a disk that they share.")
        self.emit_event("begin", self.top, steps=self.total_steps)
        try:
            if self.steps and self.evaluations and self.steps % self.evaluations == 0 and not self._is_evaluated:
                self.evaluate()  # a checkpoint was written between the record of smoothing and this
            while self.at < len(self.visits) and not self.reason:
                self._skip_coarse_step()
                self._do_visit(self.instead or self._stretch_visit(self.visits[self.at]))
            if not self.reason:
                if not self._is_evaluated:
                    self.evaluate()
                self.reason, self.outcome = ending, Outcome.CONVERGED_ITS
            self._tell_refused_steps()
            check_same_weights(self.ranks, self.model, self.top)
        except BaseException as error:
            self.emit_event("failed", self.top, error=f"{type(error).__name__}: {error}")
            if (lost := describe_lost_rank(error)) is not None:
                raise NetgraphError(lost) from error
            raise
        self.emit_event("finish", self.top, reason=self.reason)

    def _tell_refused_steps(self) -> None:
        """Add the number of refused steps to the reason, and log a warning. A run may end as planned in spite of them."""
        sentence = describe_refused_steps(self.history, self.steps)
        if sentence:
            self.reason = f"{self.reason.rstrip('.')}. {sentence}"
            logger.warning("%s. Take a smaller lr, or set smoothing.clip", sentence)

    def _do_visit(self, visit: Visit) -> None:
        """Do a visit and go on to the next one. A visit that was stopped between two steps of smoothing is not over."""
        match visit.kind:
            case "smooth":
                self._smooth(visit)
            case "down":
                begin_coarse_step(self, visit.level)
            case "up":
                finish_coarse_step(self, visit.level)
            case "start":
                self._start(visit.level)
            case "end":
                self._end()
        if self.done < visit.steps and not self._is_left():
            return
        self.done = 0
        self.at, self.instead = self._next_position(visit)
        if visit.kind == "end":
            self.cycles += 1
            check_same_weights(self.ranks, self.model, self.top)
            self.emit_event("cycle", visit.level, cycle=self.cycles)

    def stop(self, reason: str, *, converged: bool = False, outcome: Outcome | None = None) -> None:
        """End the run after the current step. It can be saved and resumed.

        Several processes agree first: at the end of the event whose callback asks, or after the step in which a signal arrives.
        """
        wish = reason, converged, outcome or (Outcome.CONVERGED_USER if converged else Outcome.DIVERGED_USER)
        if self.ranks.are_several:
            self.ranks.asked = wish
        else:
            self._end_with(*wish)

    def _end_with(self, reason: str, converged: bool, outcome: Outcome) -> None:
        """End the run after the current step, which all ranks know."""
        self.reason, self.converged, self.outcome = reason, converged, outcome

    def _agree_to_stop(self) -> None:
        """Stop if one of several ranks asks for it."""
        if self.ranks.are_several and not self.ranks.alone:
            wish = self.ranks.agree()
            if wish is not None:
                self._end_with(*wish)

    @property
    def model(self) -> nn.Module:
        """The network of the finest level that training has reached."""
        return self.grids[self.top].model

    @property
    def trained_model(self) -> nn.Module:
        """The result of the run: the running mean if there is one, otherwise the finest network."""
        return self.grids[0].model if self.mean is None else self.mean.module

    @property
    def step_costs(self) -> list[float]:
        """Operations of a step by level, for minibatches of one sample."""
        return [STEP * n * self.options.smoothing_of(i).accumulate for i, n in enumerate(self.maps.flops)]

    @property
    def total_steps(self) -> int:
        """Planned steps of the whole run."""
        return sum(visit.steps for visit in self.visits)

    def _next_position(self, visit: Visit) -> tuple[int, Visit | None]:
        """Return the next position. Smoothing in place of other visits ends at the position where those would have ended."""
        if self.instead is None:
            return self.at + 1, None
        return (self.at, self.instead) if visit.kind == "down" else (self.find_step_end(self.at), None)

    def find_step_end(self, at: int) -> int:
        """Return the position at which a coarse step that is not taken ends.

        On the top level that is the end of the cycle, and on a coarse level the position after it comes up.
        """
        if not 0 <= at < len(self.visits):
            raise NetgraphError(f"there is no visit {at}. The visits of this run are 0 to {len(self.visits) - 1}.")
        level = self.visits[at].level
        kind, after = ("end", 0) if level == self.top else ("up", 1)
        end = next((i for i in range(at, len(self.visits)) if self.visits[i][:2] == (kind, level)), None)
        if end is None:
            raise NetgraphError(
                f"no coarse step of level {level} ends after visit {at}. Give the visit at which one begins."
            )
        return after + end

    def _skip_coarse_step(self) -> None:
        """Replace a whole cycle by smoothing if its coarse step is certain to be skipped.

        The schedule is then spread evenly over the cycle, as in plain training.
        """
        visit, following = self.visits[self.at], self.visits[min(self.at + 1, len(self.visits) - 1)]
        if self.instead is None and not self.done and visit.kind == "smooth" and following == ("down", self.top, 0):
            why = skip_reason(self, self.top)
            if why is not None:
                self.smooth_instead(why, {})

    # smoothing

    def _stretch_visit(self, visit: Visit) -> Visit:
        """Return a coarse visit with the length that `VisitLength` gives it. The schedule goes on as planned."""
        if not self.options.adapt.steer or visit.kind != "smooth" or visit.level == self.top:
            return visit
        return visit._replace(steps=max(round(visit.steps * self.steering.factor), 1))

    def _smooth(self, visit: Visit) -> None:
        grid = self.grids[visit.level]
        ticks = self._count_ticks()
        while self.done < visit.steps and not self.reason and not self._is_left():
            prepare_estimate(self, visit.level)
            batches = self._load_batches(grid, visit.level)
            with self.ledger.clock(visit.level, "smooth"):
                schedule = self.schedules[visit.level % len(self.schedules)]
                warm = self._warm_up(visit.level, self.options.smoothing_of(visit.level).rewarm)
                grid.smoother.follow(schedule.group, warm)
                self._take_step(grid, visit.level, batches)
                due = ticks * (self.done + 1) // visit.steps - ticks * self.done // visit.steps
                schedule.tick(due)
            self.done += 1
            report_estimate(self, visit.level)
            if self.ranks.anyone_asked:
                self._agree_to_stop()
            self._report_smoothing(visit.level, last=self.done == visit.steps)

    def leave_level(self, spent: float = 0.0) -> None:
        """End the smoothing under way, and give the operations that are left to the next finer level (nested iteration).

        Callbacks may call it after a record of smoothing.

        Parameters
        ----------
        spent : float, default 0
            Operations that the decision took, in the unit of `step_costs`. They are subtracted.

        Raises
        ------
        NetgraphError
            No finer level follows, or the schedule is none whose length may change.
        """
        self.apply_switch(self.at, self.done, spent)

    def apply_switch(self, at: int, done: int, spent: float) -> None:
        """Leave a level at a position, as `leave_level` does. A resumed run gets its switches again."""
        if len(self.schedules) > 1 or not self.schedules[0].is_stable:
            raise NetgraphError(
                "a level can be left early only under one schedule with a stable phase. Take wsd or constant, over all levels together."
            )
        self.visits = leave_visit(self.visits, at, done, self.step_costs, spent)
        self.schedules[0] = self.schedules[0].with_length(self.total_steps, count_steps_on_finest(self.visits))
        self.switches.append((at, done, spent))

    def _is_left(self) -> bool:
        """True if the smoothing under way was left early."""
        return bool(self.switches) and self.switches[-1][:2] == (self.at, self.done)

    def _warm_up(self, level: int, steps: int) -> float:
        """Return the factor of the next step on a level that a coarser one has started, 1 after some steps of warm-up."""
        if not steps or level != self.top or level == len(self.grids) - 1:
            return 1.0
        taken = self.grids[level].position // self.options.smoothing_of(level).accumulate
        return min((taken + 1) / steps, 1.0)

    def _count_ticks(self) -> int:
        """Return the planned steps from here on, by which the schedule advances during a visit of any length."""
        if self.instead is None:
            return self.visits[self.at].steps
        return sum(v.steps for v in self.visits[self.at : self.find_step_end(self.at)])

    def _load_batches(self, grid: Grid, level: int) -> list[Any]:
        """Return the minibatches of the next step, augmented and on the device of the level."""
        if is_estimated(self, level):
            return load_estimate(self, level)
        with self.ledger.clock(level, "load"):
            return [self._next_batch(grid, grid.position + i) for i in range(grid.smoother.options.accumulate)]

    def _take_step(self, grid: Grid, level: int, batches: list[Any]) -> None:
        with scale_new_updates(grid, self._warm_up(level, self.options.split.rewarm)):
            if is_estimated(self, level):
                loss, rows_of = write_estimate(self, level, batches)
                result = grid.smoother.apply_gradient(loss, grid.b(0))
            else:
                result = grid.smoother.step(self.problem.value, batches, grid.b(grid.position))
                rows_of = {level: sum(count_rows(batch) for batch in batches)}
        if isinstance(self.problem.value, SplitValue):
            self.problem.value.share_buffers(grid.model)
        grid.position += grid.smoother.options.accumulate
        costs = {i: STEP * rows * self.maps.flops[i] * result.evaluations for i, rows in rows_of.items()}
        for i, rows in rows_of.items():
            self.ledger.samples[i] += rows
            self.ledger.spend(i, "smooth", costs[i])
        self.steps += 1
        if result.taken:
            self.refused = 0
            self.losses.append(result.loss)
            if level == self.top:
                self.steering.step(result.loss)
                self.account.step(result.loss, sum(costs.values()))
            if self.mean is not None and level == 0:
                self.mean.update_parameters(grid.model)
        else:
            self._count_refused_step(level, result.loss, result.norm)

    def _next_batch(self, grid: Grid, position: int) -> Any:
        batch = grid.common[position % len(grid.common)] if grid.common else next(self.stream)
        return self.move_to_level(batch, grid)

    def move_to_level(self, batch: Any, grid: Grid) -> Any:
        """Return a minibatch on the device of a level."""
        parameter = next(grid.model.parameters(), None)
        return batch if parameter is None else move_to_device(batch, parameter.device)

    def _count_refused_step(self, level: int, loss: float, norm: float) -> None:
        """Count a step that was not taken because its loss or gradient is not finite. Many in a row end the run."""
        if not any(record["event"] == "refused" for record in self.history):
            logger.warning(explain_refused_step(self.grids[level].model, self.steps, loss))
        self.refused += 1
        self.emit_event("refused", level, loss=loss, norm=norm)
        if self.refused >= REFUSED:
            self._end_with(
                f"{self.refused} steps in a row had a loss or gradient that is not finite (loss {loss}). Start again with "
                "a smaller lr, or set smoothing.clip.",
                False,
                judge_refused_step(loss, norm),
            )

    def _report_smoothing(self, level: int, *, last: bool) -> None:
        due = bool(self.evaluations) and self.steps % self.evaluations == 0
        if self.losses and (last or due or len(self.losses) >= self.every):
            mean = sum(self.losses) / len(self.losses)
            lr = self.grids[level].smoother.optimizer.param_groups[0]["lr"]
            self.losses.clear()
            self.emit_event("smooth", level, loss=mean, lr=lr)
        if due:
            self.evaluate()

    # between levels

    @cached_property
    def planned_flops(self) -> float:
        """Operations of all planned smoothing."""
        return bound_flops(self, [visit for visit in self.visits if visit.kind == "smooth"], planned=True)

    def smooth_instead(self, why: str, figures: Mapping[str, float]) -> None:
        """Take all steps of the coarse step on this level, and record the reason. A run of n epochs then has the steps of n epochs."""
        level = self.visits[self.at].level
        planned = self.visits[self.at : self.find_step_end(self.at)]
        self.instead = Visit("smooth", level, max(sum(visit.steps for visit in planned), 1))
        self.emit_event("skip", level, why=why, **figures)

    def _start(self, level: int) -> None:
        """Begin a level with the prolonged solution and moments of the coarser one."""
        self.top = level
        fine, coarse = self.grids[level], self.grids[level + 1]
        with self.ledger.clock(level, "transfer"):
            start_level(self.maps, level, fine, coarse, self.options.split, self.seed)
            growth = Growth(self.maps, level, self.options.split)
            if self.options.smoothing_of(level).moments:
                set_moments(fine.smoother, growth.carry_moments(coarse.smoother))
            coarse.smoother.optimizer.state.clear()  # its tensors may be the finer level's now
            coarse.new = {}
            if self.options.split.rewarm:
                fine.new = growth.mask_new_entries(coarse.x, fine.smoother.named)
        if self.options.split.rewarm and not fine.new:
            logger.warning("level %d has no new units or blocks. split.rewarm changes nothing there", level)
        if self.options.split.norms:
            estimate_norms(self, level)
        self.account = CostAccount(self.account.owed)
        self.emit_event("start", level)

    def _end(self) -> None:
        """Finish a cycle. Its record follows when the run has gone on to the next position."""
        self.steering.end_cycle(self.read_clock())
        every = self.options.adapt.rematch
        if every and (self.cycles + 1) % every == 0 and self.top == 0:
            self._rematch()

    def _rematch(self) -> None:
        """Match units again: rebuild the coarse levels from the finest network as it is now."""
        assert isinstance(self.maps, HierarchyMaps)
        with self.ledger.clock(0, "match"):
            rebuilt = rebuild_levels(self.maps)
        if isinstance(rebuilt, HierarchyMaps):
            self.replace_maps(rebuilt)
        units = [level.n_units for level in self.maps.hierarchy.levels]
        self.emit_event("rematch", 0, units=units, why=rebuilt if isinstance(rebuilt, str) else "")

    def replace_maps(self, maps: HierarchyMaps) -> None:
        """Go on with other coarse levels below the same finest network."""
        self.maps = maps
        self.grids[1:] = [self.make_grid(maps, level) for level in range(1, len(self.grids))]
        set_training(maps.models[1:])
        self.backoffs.clear()
        self.estimates.clear()
        check_same_levels(self.ranks, maps)
        self.join_levels()

    # processes

    def join_levels(self) -> None:
        """Let several processes average the gradients of their levels. One process does nothing."""
        if isinstance(self.problem.value, SplitValue):
            batch = self.stream.peek()
            self.problem.value.wrap(self.maps.models, lambda level: self.move_to_level(batch, self.grids[level]))

    def read_clock(self) -> float:
        """Return the seconds of the run on the first rank, from which all ranks make the same decision."""
        return self.ranks.share(self.ledger.total_seconds())

    def list_data(self) -> Iterable[Any]:
        """Return the minibatches of a pass beside the stream, in one order on all ranks.

        Loaders may shuffle by the random numbers of PyTorch, which differ between ranks.
        """
        if not self.ranks.are_several:
            return self.problem.batches
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self.steps)
            return list(self.problem.batches)

    # records

    def evaluate(self) -> dict[str, float]:
        """Measure the problem's figures on the finest network that training has reached.

        Returns
        -------
        figures : dict of str to float
            Empty if the problem has no ``valid``.
        """
        if getattr(self.problem, "valid", None) is None:
            return {}
        figures = self.measure_figures(self.top)
        self.emit_event("evaluate", self.top, figures=figures)
        return figures

    def measure_figures(self, level: int) -> dict[str, float]:
        """Return the problem's figures of one level, without a record. They are empty if the problem has no ``valid``."""
        model, valid = self.grids[level].model, getattr(self.problem, "valid", None)
        if valid is None:
            return {}
        with self.ledger.clock(level, "evaluate"), keep_modes([model]):
            figures: dict[str, float] = self.ranks.run_on_all(lambda: valid(model))
        return figures

    @property
    def _is_evaluated(self) -> bool:
        """True if the network was evaluated after its last step."""
        last = next((record for record in reversed(self.history) if record["event"] == "evaluate"), None)
        return last is not None and (last["step"], last["level"]) == (self.steps, self.top)

    def emit_event(self, event: str, level: int, **figures: Any) -> None:
        """Append a record to the history, and call every callback with it."""
        record = {"event": event, "level": level, "step": self.steps, "cycle": self.cycles}
        record |= {"seconds": self.ledger.total_seconds(), "flops": self.ledger.total_flops(), **figures}
        self.history.append(record)
        with self.ledger.clock(level, "callbacks"):
            for callback in self.callbacks:
                self.ranks.call(callback, self, record)
            if event != "failed":  # a rank that fails is alone
                self._agree_to_stop()


def set_training(models: Sequence[nn.Module]) -> list[bool]:
    """Put all levels in training mode, and return their modes before."""
    modes = [model.training for model in models]
    for model in models:
        model.train()
    return modes


def make_running_mean(model: nn.Module, decay: float) -> Any:
    """Return a running mean of a network's parameters and buffers."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def explain_refused_step(model: nn.Module, step: int, loss: float) -> str:
    """Return the sentences for the first refused step of a run, with what made its number, as far as the weights tell.

    Parameters
    ----------
    model : torch.nn.Module
        The network of the level, after the step was refused.
    step : int
    loss : float
        Where it is finite, its gradient is not.
    """
    what = "gradient" if math.isfinite(loss) else f"loss ({loss})"
    names = list_nonfinite({**dict(model.named_parameters()), **dict(model.named_buffers())})
    cause = (
        f"{names[0]} is not finite"
        if names
        else "All weights are finite, so it comes from the batch, the loss, or the network in training mode"
    )
    return f"step {step} was refused, because its {what} is not finite. {cause}."
