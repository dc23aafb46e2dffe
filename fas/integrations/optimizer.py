"""Multigrid in a training loop of your own: an optimizer around yours, which takes a coarse step now and then.

Its fine steps are your optimizer's. Every so many of them it goes down with tau on the last few minibatches, smooths the
coarse levels, and comes up with a line search: the solver's own code (`netgraph.fas.solver.run`) without fine smoothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.coarse_start import BorrowedSmoother, CoarseStart
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import HierarchyMaps, Maps, live_state
from netgraph.fas.levels.smoother import StepResult
from netgraph.fas.options import Options, Smoothing
from netgraph.fas.solver.adaptive import Backoff, CostAccount
from netgraph.fas.solver.cycles import build_cycle
from netgraph.fas.solver.problem import count_rows
from netgraph.fas.solver.run import REFUSED, Run
from netgraph.optim.optimizers import MakeOptimizer

Closure = Callable[..., Tensor]
Minibatch = tuple[tuple[Any, ...], Closure]


class Multigrid(Optimizer):
    """An optimizer that takes coarse steps between the steps of another; it serves torch's schedulers as that one does.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Of the finest network's parameters. Its settings, as they are at a step, are those of every level.
    hierarchy : Hierarchy, or levels of your own (`netgraph.fas.levels.maps.Maps`)
        One level: nothing but ``optimizer``.
    every : int
        Fine steps from one coarse step to the next; 0: none.
    begin : sequence of int
        Steps on level 1, level 2, and so on, before the finest level is trained (nested iteration).
    cycle : str
        ``v``, ``w``, ``f`` or ``additive``.
    options : Options, optional
        As the solver's.
    make : callable, optional
        ``(groups, lr=...) -> Optimizer`` for coarse levels, by default the class of ``optimizer``.
    seed : int

    Attributes
    ----------
    history : list of dict
        One record for each event of a coarse step, as in `netgraph.fas.solver.solution.Solution`.
    ledger : Ledger
        What coarse steps cost. FLOPs count rows where minibatches are given to `step` as arguments.

    Raises
    ------
    NetgraphError
        The optimizer is not that of the finest network, or an option has no meaning here.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        hierarchy: Hierarchy | Maps,
        *,
        every: int = 50,
        begin: Sequence[int] = (),
        cycle: str = "v",
        options: Options | None = None,
        make: MakeOptimizer | None = None,
        seed: int = 7619,
    ) -> None:
        self.options = options or Options()
        _check_options(self.options, every, cycle)
        maps: Maps = HierarchyMaps(hierarchy) if isinstance(hierarchy, Hierarchy) else hierarchy
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer, self.every, self.fine_steps, self.refused = optimizer, every, 0, 0
        self.start = CoarseStart(maps, optimizer, begin, self.options, seed)
        self._recent: deque[Minibatch] = deque(
            maxlen=self.options.tau_of(0).batches + 1
        )  # the first judges what is earned
        self._run = _CoarseRun.of(maps, optimizer, self.start.names, self._recent, cycle, self.options, make, seed)
        self._follow()

    @property
    def model(self) -> nn.Module:
        """The network that the last steps were taken on: the finest, or a coarse one while training begins."""
        return self.start.model

    @property
    def history(self) -> list[dict[str, Any]]:
        return self._run.history

    @property
    def ledger(self) -> Any:
        return self._run.ledger

    def step(self, closure: Closure | None = None, *batch: Any) -> Tensor:  # type: ignore[override]
        """Take a step, and a coarse one where it is due.

        Parameters
        ----------
        closure : callable ``(model, *batch) -> scalar``
            The loss of any level's network. Not its gradient: that is taken here.
        *batch
            What the closure is given after the model, and again in coarse steps. Without, the values that it reads are
            noted as they are now.

        Returns
        -------
        Tensor
            The loss before the step, detached.

        Raises
        ------
        NetgraphError
            There is no closure, or many losses in a row are not finite.
        """
        if closure is None:
            raise NetgraphError(
                "step() needs the loss of any level: def closure(model): return loss(model(inputs), targets)"
            )
        model = self.start.model
        model.train(self.start.maps.models[0].training)
        smoother = self.start.smoother
        result = smoother.step(_call_closure, [(batch, closure)], {})
        self._count(result.taken, result.loss)
        if not self.start.level:
            self._recent.append((batch, closure if batch else freeze_closure(closure)))
            self._run.count(result, count_rows(self._recent[-1]))
            self.fine_steps += 1
            if self._due():
                self._run.take_coarse_step()
        elif self.start.advance():
            self._follow()
        return torch.tensor(result.loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients; `step` does so itself."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and, under ``multigrid``, the place between coarse steps."""
        rests = {level: (rest.refusals, rest.left) for level, rest in self._run.rests.items()}
        own = {"fine_steps": self.fine_steps, "rests": rests, "start": self.start.state_dict()}
        own |= {"account": {**vars(self._run.account)}, "whole": self._run.whole}
        return {**self.optimizer.state_dict(), "multigrid": own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or of the optimizer alone.

        The last minibatches are not part of it: the first coarse step waits until there are enough again.
        """
        own = state_dict.get(
            "multigrid", {"fine_steps": 0, "rests": {}, "start": {"level": 0, "left": 0, "weights": {}}}
        )
        self.start.load_state_dict(own["start"])
        self.optimizer.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.fine_steps = own["fine_steps"]
        self._run.rests = {int(level): Backoff(*rest) for level, rest in own["rests"].items()}
        self._run.account, self._run.whole = CostAccount(**own.get("account", {})), own.get("whole", 0.0)
        self._recent.clear()
        self._follow()

    def _follow(self) -> None:
        """Show the groups and the state that the optimizer has now."""
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def _count(self, taken: bool, loss: float) -> None:
        self.refused = 0 if taken else self.refused + 1
        if self.refused >= REFUSED:
            raise NetgraphError(
                f"{self.refused} steps in a row had a loss or gradient that is not finite (loss {loss}), and none was "
                "taken; start again with a smaller lr"
            )

    def _due(self) -> bool:
        ready = len(self._recent) >= self.options.tau_of(0).batches and len(self._run.grids) > 1
        return ready and self.every > 0 and self.fine_steps % self.every == 0


class _CoarseRun(Run):
    """The coarse part of a cycle, again and again, on minibatches that others have drawn."""

    @classmethod
    def of(
        cls, maps: Maps, optimizer: Optimizer, names: list[list[str]], recent: deque[Minibatch], cycle: str,
        options: Options, make: MakeOptimizer | None, seed: int,
    ) -> _CoarseRun:  # fmt: skip
        """Return a run whose finest smoother is the optimizer, and whose others have its settings."""

        def grid(maps: Maps, level: int) -> Grid:
            model, smoothing = maps.models[level], options.smoothing_of(level)
            own = (
                _FollowingSmoother(model, optimizer, names, smoothing, make)
                if level
                else BorrowedSmoother(model, optimizer, names, smoothing)
            )
            return Grid(model, own, live_state(model, list(live_state(maps.models[0]))))

        grids = [grid(maps, level) for level in range(len(maps.models))]
        visits = [
            v for v in build_cycle(cycle, 0, len(grids) - 1, options.smoothing_of) if v.kind != "smooth" or v.level
        ]
        run = cls(
            maps,
            _ClosureObjective(recent),  # type: ignore[arg-type]
            options,
            grids,
            grid,
            visits,
            [_ConstantSchedule()],  # type: ignore[list-item]
            _RecentBatches(recent),  # type: ignore[arg-type]
            seed=seed,
        )
        run.whole = 0.0  # the run is as long as it has been so far
        return run

    def count(self, result: StepResult, rows: int) -> None:
        """Note a step of the loop outside, which is what coarse steps are measured by."""
        cost = STEP * rows * self.maps.flops[0]
        self.whole += cost
        if result.taken:
            self.account.step(result.loss, cost)

    def take_coarse_step(self) -> None:
        """Take one coarse step."""
        for grid in self.grids[1:]:
            grid.model.train(self.grids[0].model.training)
        self.at, self.instead, self.done = 0, None, 0
        while self.at < len(self.visits) and not self.reason:
            self._visit(self.instead or self.visits[self.at])

    def smooth_instead(self, why: str, figures: Mapping[str, float]) -> None:
        """A refused coarse step of the finest level is left out: the loop outside goes on smoothing."""
        super().smooth_instead(why, figures)
        if self.visits[self.at].level == 0:
            self.instead, self.at = None, self.find_step_end(self.at) - 1

    def placed(self, batch: Any, grid: Grid) -> Any:
        return batch


class _FollowingSmoother(BorrowedSmoother):
    """A coarse level's smoother with the settings that the finest one's optimizer has at the time."""

    def __init__(
        self,
        model: nn.Module,
        source: Optimizer,
        names: list[list[str]],
        smoothing: Smoothing,
        make: MakeOptimizer | None,
    ) -> None:
        own = dict(model.named_parameters())
        self.source = source
        settings = [_group_settings(group) for group in self.source.param_groups]
        groups = [{**s, "params": [own[n] for n in names[i] if n in own]} for i, s in enumerate(settings)]
        kind: MakeOptimizer = make or type(self.source)
        try:
            made = kind(groups, lr=groups[0]["lr"])
        except TypeError as error:
            raise NetgraphError(
                f"no {type(self.source).__name__} can be made for a coarse level ({error}); give make=, which makes one "
                "of (groups, lr=...)"
            ) from error
        super().__init__(model, made, names, smoothing)

    def follow(self, group: Mapping[str, Any]) -> None:
        """Take over the settings of the finest level's groups."""
        for own, other in zip(self.optimizer.param_groups, self.source.param_groups, strict=True):
            own.update(_group_settings(other))


class _ConstantSchedule:
    """A schedule that leaves the rate to the loop outside."""

    group: Mapping[str, Any] = {}

    def tick(self, n: int = 1) -> None:
        """The loop outside has the only clock."""


class _ClosureObjective:
    """The objective of minibatches that bring their own loss."""

    def __init__(self, batches: deque[Minibatch]) -> None:
        self.batches = batches

    def value(self, model: nn.Module, batch: Minibatch) -> Tensor:
        """Return the loss of a level on a minibatch."""
        return _call_closure(model, batch)


class _RecentBatches:
    """A stream of the last minibatches."""

    def __init__(self, batches: deque[Minibatch]) -> None:
        self.batches = batches

    def take(self, n: int) -> list[Minibatch]:
        """Return the last n."""
        return list(self.batches)[-n:]

    def peek(self) -> Minibatch:
        """Return the one before these, which the coarse step does not work on."""
        return self.batches[0]


def _call_closure(model: nn.Module, batch: Minibatch) -> Tensor:
    arguments, closure = batch
    return closure(model, *arguments)


def _group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "initial_lr", "param_names")}


def freeze_closure(closure: Closure) -> Closure:
    """Return a closure that reads what the names in it mean now, whatever a loop gives them later."""
    if not isinstance(closure, FunctionType):
        return closure
    cells = tuple(CellType(cell.cell_contents) for cell in closure.__closure__ or ())
    copy = FunctionType(closure.__code__, dict(closure.__globals__), closure.__name__, closure.__defaults__, cells)
    copy.__kwdefaults__ = closure.__kwdefaults__
    return copy


def _check_options(options: Options, every: int, cycle: str) -> None:
    if every < 0:
        raise NetgraphError(f"every is {every}; give the fine steps between two coarse ones, or 0 for none")
    if cycle not in ("v", "w", "f", "additive"):
        raise NetgraphError(f"a coarse step between others is no {cycle!r}; there are v, w, f, additive")
    if "whole" in (options.tau.kind, *(options.tau_of(level).kind for level in options.levels)):
        raise NetgraphError("tau.kind is 'whole', and only the last minibatches are known here; take common or several")
    if options.adapt.rematch or options.adapt.steer:
        raise NetgraphError(
            "levels are matched again, and time is steered, by the solver alone; leave adapt at its defaults"
        )
    rates = [level for level, own in options.levels.items() if "lr" in own]
    if rates:
        raise NetgraphError(
            f"level {rates[0]} has a rate of its own, and your optimizer's is that of every level; leave it out"
        )
    asked = (options.smoothing, *(options.smoothing_of(level) for level in options.levels))
    if any(smoothing.accumulate != 1 or smoothing.ema is not None or smoothing.mup for smoothing in asked):
        raise NetgraphError("accumulate, ema and mup belong to your loop here; leave them at their defaults")
