"""Run: one solve under way, visit after visit; all that changes is here, and can be written down between two steps.

It is between two steps wherever it stops, and while callbacks are told ``begin``, ``smooth``, ``cycle`` and ``finish``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.fas.ledger import STEP, Ledger
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.fas.levels.moments import carry_moments_up, read_moments, set_moments
from netgraph.fas.levels.nested_iteration import start_level
from netgraph.fas.levels.rematch import compute_signatures, rebuild_levels
from netgraph.fas.levels.tau import CoarseProblem
from netgraph.fas.levels.vectors import Vector
from netgraph.fas.options import Options
from netgraph.fas.solver.adaptive import Backoff, CostAccount, VisitLength
from netgraph.fas.solver.batch_norm import estimate_norms
from netgraph.fas.solver.coarse_step import begin_coarse_step, bound_flops, finish_coarse_step, skip_reason
from netgraph.fas.solver.cycles import Visit
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import Objective, count_rows, move_to_device
from netgraph.fas.solver.schedule import Schedule

Callback = Callable[["Run", dict[str, Any]], None]
REFUSED = 25  # refused steps in a row after which a run gives up


@dataclass
class Run:
    """One solve under way.

    Parameters
    ----------
    maps : Maps
    problem : Objective
    options : Options
    grids : list of Grid
        Finest first.
    make_grid : callable ``(maps, level) -> Grid``
    visits : list of Visit
    schedules : list of Schedule
        One for all levels, or one for each.
    stream : Stream
    callbacks : sequence of callable ``(run, record)``
    seed : int
    every : int
        Most steps between two records of smoothing; one comes where a level is left, too, and before an evaluation.
    evaluations : int
        Steps between two evaluations; 0: at the end alone.
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
    ledger: Ledger = field(default_factory=Ledger)
    history: list[dict[str, Any]] = field(default_factory=list)
    top: int = field(init=False)  # the finest level that training has reached
    begun_on: list[str] = field(init=False)  # the coarse levels of the beginning, whatever is matched again later
    at: int = 0
    instead: Visit | None = None
    done: int = 0
    steps: int = 0
    cycles: int = 0
    refused: int = 0
    reason: str = ""
    converged: bool = False
    losses: list[float] = field(default_factory=list)
    rests: dict[int, Backoff] = field(default_factory=dict)
    descents: dict[int, CoarseProblem] = field(default_factory=dict)
    steering: VisitLength = field(default_factory=VisitLength)
    account: CostAccount = field(default_factory=CostAccount)
    before: Vector = field(default_factory=dict)  # x a cycle ago, where a tolerance asks for it
    notes: dict[str, Any] = field(default_factory=dict)  # what callbacks want to find again when the run is resumed
    rng: Mapping[str, Tensor] | None = None  # where random numbers go on

    def __post_init__(self) -> None:
        self.top = self.visits[0].level if self.visits else 0
        self.begun_on = compute_signatures(self.maps)

    def execute(self, ending: str = "all visits are done") -> None:
        """Visit after visit to the end, which ``ending`` is the reason for, or until somebody stops the run."""
        self.emit_event("begin", self.top, steps=self.total_steps)
        try:
            if self.steps and self.evaluations and self.steps % self.evaluations == 0 and not self._is_evaluated:
                self.evaluate()  # a checkpoint was written between the record of smoothing and this
            while self.at < len(self.visits) and not self.reason:
                self._skip_coarse_step()
                self._visit(self.instead or self._stretch_visit(self.visits[self.at]))
            if not self.reason:
                if not self._is_evaluated:
                    self.evaluate()
                self.reason = ending
        except BaseException as error:
            self.emit_event("failed", self.top, error=f"{type(error).__name__}: {error}")
            raise
        self.emit_event("finish", self.top, reason=self.reason)

    def _visit(self, visit: Visit) -> None:
        """Do a visit and go on to the next; one that was stopped between two steps of smoothing is not over."""
        getattr(self, f"_{visit.kind}")(visit)
        if self.done < visit.steps:
            return
        self.done = 0
        self.at, self.instead = self._next_position(visit)
        if visit.kind == "end":
            self.cycles += 1
            self.emit_event("cycle", visit.level, cycle=self.cycles)

    def stop(self, reason: str, *, converged: bool = False) -> None:
        """End the run after the current step; it can be saved and resumed."""
        self.reason, self.converged = reason, converged

    @property
    def model(self) -> nn.Module:
        """The network of the finest level that training has reached."""
        return self.grids[self.top].model

    @property
    def trained_model(self) -> nn.Module:
        """What is handed back and kept: the running mean where there is one, else the finest network."""
        return self.grids[0].model if self.mean is None else self.mean.module

    @property
    def total_steps(self) -> int:
        """Steps of the whole run as planned."""
        return sum(visit.steps for visit in self.visits)

    def _next_position(self, visit: Visit) -> tuple[int, Visit | None]:
        """Return where to go on: smoothing in the place of other visits ends where those would have ended."""
        if self.instead is None:
            return self.at + 1, None
        return (self.at, self.instead) if visit.kind == "down" else (self.find_step_end(self.at), None)

    def find_step_end(self, at: int) -> int:
        """Return where a coarse step that is not taken ends: with its cycle, and on coarse levels where it comes up."""
        level = self.visits[at].level
        kind, after = ("end", 0) if level == self.top else ("up", 1)
        return after + next(i for i in range(at, len(self.visits)) if self.visits[i][:2] == (kind, level))

    def _skip_coarse_step(self) -> None:
        """Smooth for a whole cycle, its schedule spread evenly, where it is known as it begins that nobody goes down."""
        now, then = self.visits[self.at], self.visits[min(self.at + 1, len(self.visits) - 1)]
        if self.instead is None and not self.done and now.kind == "smooth" and then == ("down", self.top, 0):
            why = skip_reason(self, self.top)
            if why is not None:
                self.smooth_instead(why, {})

    # smoothing

    def _stretch_visit(self, visit: Visit) -> Visit:
        """Return a visit with as many steps as its level earns; the schedule goes on as planned."""
        if not self.options.adapt.steer or visit.kind != "smooth" or visit.level == self.top:
            return visit
        return visit._replace(steps=max(round(visit.steps * self.steering.factor), 1))

    def _smooth(self, visit: Visit) -> None:
        grid = self.grids[visit.level]
        ticks = self._count_ticks(visit)
        while self.done < visit.steps and not self.reason:
            batches = self._load_batches(grid, visit.level)
            with self.ledger.clock(visit.level, "smooth"):
                schedule = self.schedules[visit.level % len(self.schedules)]
                grid.smoother.follow(schedule.group)
                self._step(grid, visit.level, batches)
                due = ticks * (self.done + 1) // visit.steps - ticks * self.done // visit.steps
                schedule.tick(due)
            self.done += 1
            self._report_smoothing(visit.level, last=self.done == visit.steps)

    def _count_ticks(self, visit: Visit) -> int:
        """Return how far the schedule goes: as far as the steps that were planned here."""
        if self.instead is None:
            return self.visits[self.at].steps
        return sum(v.steps for v in self.visits[self.at : self.find_step_end(self.at)])

    def _load_batches(self, grid: Grid, level: int) -> list[Any]:
        """Return the minibatches of the next step: read, augmented and on the level's device."""
        with self.ledger.clock(level, "load"):
            return [self._next_batch(grid, grid.turns + i) for i in range(grid.smoother.options.accumulate)]

    def _step(self, grid: Grid, level: int, batches: list[Any]) -> None:
        first = grid.turns
        grid.turns += len(batches)
        result = grid.smoother.step(self.problem.value, batches, grid.b(first))
        rows = sum(count_rows(batch) for batch in batches)
        cost = STEP * rows * self.maps.flops[level]
        self.ledger.samples[level] += rows
        self.ledger.spend(level, "smooth", cost)
        self.steps += 1
        if result.taken:
            self.refused = 0
            self.losses.append(result.loss)
            if level == self.top:
                self.steering.step(result.loss)
                self.account.step(result.loss, cost)
            if self.mean is not None and level == 0:
                self.mean.update_parameters(grid.model)
        else:
            self._count_refused_step(level, result.loss, result.norm)

    def _next_batch(self, grid: Grid, turn: int) -> Any:
        batch = grid.common[turn % len(grid.common)] if grid.common else next(self.stream)
        return self.placed(batch, grid)

    def placed(self, batch: Any, grid: Grid) -> Any:
        parameter = next(grid.model.parameters(), None)
        return batch if parameter is None else move_to_device(batch, parameter.device)

    def _count_refused_step(self, level: int, loss: float, norm: float) -> None:
        """A step with a loss or gradient that is no number was not taken; many in a row end the run."""
        self.refused += 1
        self.emit_event("refused", level, loss=loss, norm=norm)
        if self.refused >= REFUSED:
            self.stop(
                f"{self.refused} steps in a row had a loss or gradient that is not finite (loss {loss}); start again with "
                "a smaller lr, or clip"
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

    def _down(self, visit: Visit) -> None:
        begin_coarse_step(self, visit.level)

    def _up(self, visit: Visit) -> None:
        finish_coarse_step(self, visit.level)

    @cached_property
    def whole(self) -> float:
        """What smoothing as planned costs in all, in operations."""
        return bound_flops(self, [visit for visit in self.visits if visit.kind == "smooth"])

    def smooth_instead(self, why: str, figures: Mapping[str, float]) -> None:
        """Spend what the coarse step would have cost on this level."""
        level, flops = self.visits[self.at].level, self.maps.flops
        planned = self.visits[self.at : self.find_step_end(self.at)]
        cost = sum(v.steps * flops[v.level] for v in planned) / max(flops[level], 1e-300)
        self.instead = Visit("smooth", level, max(round(cost), 1))
        self.emit_event("skip", level, why=why, **figures)

    def _start(self, visit: Visit) -> None:
        self.top = level = visit.level
        fine, coarse = self.grids[level], self.grids[level + 1]
        with self.ledger.clock(level, "transfer"):
            start_level(self.maps, level, fine, coarse, self.options.split, self.seed)
            if self.options.smoothing_of(level).moments:
                set_moments(fine.smoother, carry_moments_up(self.maps, level, read_moments(coarse.smoother)))
            coarse.smoother.optimizer.state.clear()  # its memory is the finer level's now
        if self.options.split.norms:
            estimate_norms(self, level)
        self.account = CostAccount(self.account.owed)
        self.emit_event("start", level)

    def _end(self, visit: Visit) -> None:
        """A cycle is over, which is told when the run has gone on from here."""
        self.steering.end_cycle(self.ledger.total_seconds())
        every = self.options.adapt.rematch
        if every and (self.cycles + 1) % every == 0 and self.top == 0:
            self._rematch()

    def _rematch(self) -> None:
        """Make the coarse levels again from the finest network as it is now."""
        assert isinstance(self.maps, HierarchyMaps)
        with self.ledger.clock(0, "match"):
            found = rebuild_levels(self.maps)
        if isinstance(found, HierarchyMaps):
            self.replace_maps(found)
        units = [level.n_units for level in self.maps.hierarchy.levels]
        self.emit_event("rematch", 0, units=units, why=found if isinstance(found, str) else "")

    def replace_maps(self, maps: HierarchyMaps) -> None:
        """Go on with other coarse levels; the finest is the same network."""
        self.maps = maps
        self.grids[1:] = [self.make_grid(maps, level) for level in range(1, len(self.grids))]
        set_training(maps.models[1:])
        self.rests.clear()

    # telling

    def evaluate(self) -> dict[str, float]:
        """Measure the problem's figures on the finest network that training has reached."""
        valid = getattr(self.problem, "valid", None)
        if valid is None:
            return {}
        with self.ledger.clock(self.top, "evaluate"):
            modes = [(module, module.training) for module in self.model.modules()]
            figures: dict[str, float] = valid(self.model)
            for module, mode in modes:
                module.training = mode
        self.emit_event("evaluate", self.top, figures=figures)
        return figures

    @property
    def _is_evaluated(self) -> bool:
        """Whether the network was evaluated as it is now."""
        last = next((record for record in reversed(self.history) if record["event"] == "evaluate"), None)
        return last is not None and (last["step"], last["level"]) == (self.steps, self.top)

    def emit_event(self, event: str, level: int, **what: Any) -> None:
        """Write a record, and show it to every callback."""
        record = {"event": event, "level": level, "step": self.steps, "cycle": self.cycles}
        record |= {"seconds": self.ledger.total_seconds(), "flops": self.ledger.total_flops(), **what}
        self.history.append(record)
        with self.ledger.clock(level, "callbacks"):
            for callback in self.callbacks:
                callback(self, record)


def set_training(models: Sequence[nn.Module]) -> list[bool]:
    """Put all levels in training mode, and return the modes they were in."""
    modes = [model.training for model in models]
    for model in models:
        model.train()
    return modes


def make_running_mean(model: nn.Module, decay: float) -> Any:
    """Return a running mean of a network's parameters and buffers."""
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
