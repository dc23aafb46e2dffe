"""Multigrid in your own training loop: an optimizer around yours that takes a coarse step now and then.

The fine steps are those of your optimizer. After every ``every`` of them, the wrapper goes down with tau on the last few
minibatches, smooths the coarse levels, and comes up with a line search. This is the code of the solver
(`netgraph.fas.solver.run`) without fine smoothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.environment.processes import check_single_process
from netgraph.errors import NetgraphError
from netgraph.fas.estimate.step import PLAIN
from netgraph.fas.integrations.coarse_start import BorrowedSmoother, CoarseStart
from netgraph.fas.ledger import STEP, Ledger
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import HierarchyMaps, Maps, live_state
from netgraph.fas.levels.smoother import StepResult
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing
from netgraph.fas.saved_state import reading_state
from netgraph.fas.solver.adaptive import Backoff, CostAccount
from netgraph.fas.solver.cycles import build_cycle
from netgraph.fas.solver.problem import count_rows
from netgraph.fas.solver.run import REFUSED, Run, explain_refused_step
from netgraph.optim.optimizers import MakeOptimizer

Closure = Callable[..., Tensor]
Minibatch = tuple[tuple[Any, ...], Closure]
logger = logging.getLogger("netgraph.fas")


class Multigrid(Optimizer):
    """Take coarse steps between the steps of another optimizer.

    It has the groups and the state of the other optimizer, so torch's schedulers work on it.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Optimizer of the finest network's parameters. Every level follows its current settings.
    hierarchy : Hierarchy or Maps
        Levels of the network, or levels of your own. With one level, only ``optimizer`` works.
    every : int, default 50
        Fine steps from one coarse step to the next. 0 disables coarse steps.
    begin : sequence of int, default ()
        Steps on level 1, level 2, and so on, before the finest level is trained (nested iteration).
    cycle : str, default "v"
        ``v``, ``w``, ``f`` or ``additive``.
    options : Options, optional
        Options of the solver.
    make : callable ``(groups, lr=...) -> Optimizer``, optional
        Builds the optimizers of coarse levels. By default the class of ``optimizer``.
    seed : int, default 7619
        Seed of the noise that makes copies of a unit differ.

    Attributes
    ----------
    history : list of dict
        One record for each event of a coarse step, as in `netgraph.fas.Solution`.
    ledger : Ledger
        Cost of the coarse steps. FLOPs count rows only if minibatches are passed to `step` as arguments.

    Raises
    ------
    NetgraphError
        The optimizer has parameters of another network, or an option has no meaning here.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import Multigrid
    >>> from netgraph.models import Loader, load_dataset, mlp
    >>> _ = torch.manual_seed(0)
    >>> data, model = load_dataset("digits").flat(), mlp((64, 32, 10))
    >>> hierarchy = ng.build_hierarchy(model, data.train.inputs[:2], n_levels=2)
    >>> optimizer = Multigrid(torch.optim.Adam(model.parameters(), lr=0.01), hierarchy, every=10)
    >>> def loss(model, inputs, targets):
    ...     return torch.nn.functional.cross_entropy(model(inputs), targets)
    >>> losses = [float(optimizer.step(loss, *batch)) for batch in Loader(data, 64)]
    >>> losses[-1] < losses[0]
    True
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
        check_single_process("Multigrid")
        self.options = options or Options()
        _check_options(self.options, every, cycle)
        maps: Maps = HierarchyMaps(hierarchy) if isinstance(hierarchy, Hierarchy) else hierarchy
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer, self.every, self.fine_steps, self.refused = optimizer, every, 0, 0
        self.warned = False  # of a refused step
        self.start = CoarseStart(maps, optimizer, begin, self.options, seed)
        # one more than tau uses: a coarse step is judged by the loss on a minibatch that it did not work on
        self._recent: deque[Minibatch] = deque(maxlen=self.options.tau_of(0).batches + 1)
        self._run = _CoarseRun.of(maps, optimizer, self.start.names, self._recent, cycle, self.options, make, seed)
        self._mirror_optimizer()

    @property
    def model(self) -> nn.Module:
        """Network of the current level: the finest, or a coarse one while training begins."""
        return self.start.model

    @property
    def history(self) -> list[dict[str, Any]]:
        """Records of the events of coarse steps."""
        return self._run.history

    @property
    def ledger(self) -> Ledger:
        """Cost of the coarse steps."""
        return self._run.ledger

    def step(self, closure: Closure | None = None, *batch: Any) -> Tensor:  # type: ignore[override]
        """Take a step of the optimizer, then a coarse step if one is due.

        Parameters
        ----------
        closure : callable ``(model, *batch) -> scalar Tensor``
            Loss of the network of any level. `step` computes the gradient itself.
        *batch
            Arguments of the closure after the model. Coarse steps pass them again. Without them, the closure is copied
            together with the current values of the names that it reads.

        Returns
        -------
        Tensor
            Loss before the step, detached.

        Raises
        ------
        NetgraphError
            There is no closure, or too many losses in a row are not finite.
        """
        if closure is None:
            raise NetgraphError(
                "step() needs the loss as a function of the network. Give def closure(model): return loss(model(inputs), targets)."
            )
        if not callable(closure):
            raise NetgraphError(
                f"the closure is of type {type(closure).__name__}. Give a function closure(model, *batch) as the first argument."
            )
        model = self.start.model
        model.train(self.start.maps.models[0].training)
        smoother = self.start.smoother
        result = smoother.step(_call_closure, [(batch, closure)], {})
        self._count_refused(result.taken, result.loss)
        if not self.start.level:
            self._recent.append((batch, closure if batch else freeze_closure(closure)))
            self._run.count(result, count_rows(self._recent[-1]))
            self.fine_steps += 1
            if self._is_coarse_step_due():
                self._run.take_coarse_step()
        elif self.start.advance():
            self._mirror_optimizer()
        return torch.tensor(result.loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients. `step` does so itself.

        Parameters
        ----------
        set_to_none : bool, default True
            Set gradients to None instead of zero.
        """
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and, under the key ``multigrid``, the position between coarse steps."""
        rests = {level: (rest.refusals, rest.left) for level, rest in self._run.backoffs.items()}
        position = {"fine_steps": self.fine_steps, "rests": rests, "start": self.start.state_dict()}
        position |= {"account": {**vars(self._run.account)}, "whole": self._run.planned_flops}
        return {**self.optimizer.state_dict(), "multigrid": position}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`, of this wrapper or of the bare optimizer.

        The last minibatches are not part of it. The first coarse step waits until there are enough again.

        Parameters
        ----------
        state_dict : mapping
            A state from `state_dict`.
        """
        state = state_dict.get(
            "multigrid", {"fine_steps": 0, "rests": {}, "start": {"level": 0, "left": 0, "weights": {}}}
        )
        with reading_state("this optimizer"):
            self.start.load_state_dict(state["start"])
            self.optimizer.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
            self.fine_steps = state["fine_steps"]
            self._run.backoffs = {int(level): Backoff(*rest) for level, rest in state["rests"].items()}
            self._run.account, self._run.planned_flops = (
                CostAccount(**state.get("account", {})),
                state.get("whole", 0.0),
            )
        self._recent.clear()
        self._mirror_optimizer()

    def _mirror_optimizer(self) -> None:
        """Take over the current groups and state of the optimizer, for schedulers that read them here."""
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def _count_refused(self, taken: bool, loss: float) -> None:
        """Count refused steps in a row, and raise an error after too many."""
        self.refused = 0 if taken else self.refused + 1
        if not taken and not self.warned:
            self.warned = True
            logger.warning(explain_refused_step(self._run.grids[0].model, self.fine_steps, loss))
        if self.refused >= REFUSED:
            raise NetgraphError(
                f"{self.refused} steps in a row had a loss or gradient that is not finite (loss {loss}), and none was "
                "taken. Start again with a smaller lr."
            )

    def _is_coarse_step_due(self) -> bool:
        """Return True after every ``every`` fine steps, if there are enough minibatches and a coarse level."""
        ready = len(self._recent) >= self.options.tau_of(0).batches and len(self._run.grids) > 1
        return ready and self.every > 0 and self.fine_steps % self.every == 0


class _CoarseRun(Run):
    """The coarse part of a cycle, repeated, on minibatches of the outer training loop."""

    @classmethod
    def of(
        cls, maps: Maps, optimizer: Optimizer, names: list[list[str]], recent: deque[Minibatch], cycle: str,
        options: Options, make: MakeOptimizer | None, seed: int,
    ) -> _CoarseRun:  # fmt: skip
        """Return a run whose finest smoother is the optimizer. Coarse smoothers follow its settings."""

        def build_grid(maps: Maps, level: int) -> Grid:
            model, smoothing = maps.models[level], options.smoothing_of(level)
            smoother = (
                _FollowingSmoother(model, optimizer, names, smoothing, make)
                if level
                else BorrowedSmoother(model, optimizer, names, smoothing)
            )
            return Grid(model, smoother, live_state(model, list(live_state(maps.models[0]))))

        grids = [build_grid(maps, level) for level in range(len(maps.models))]
        visits = [
            v for v in build_cycle(cycle, 0, len(grids) - 1, options.smoothing_of) if v.kind != "smooth" or v.level
        ]
        run = cls(
            maps,
            _ClosureObjective(recent),  # type: ignore[arg-type]
            options,
            grids,
            build_grid,
            visits,
            [_ConstantSchedule()],  # type: ignore[list-item]
            _RecentBatches(recent),  # type: ignore[arg-type]
            seed=seed,
        )
        run.planned_flops = 0.0  # no planned length: grows with each step of the outer loop
        return run

    def count(self, result: StepResult, rows: int) -> None:
        """Record a step of the outer loop. Coarse steps are compared with the progress of these steps."""
        cost = STEP * rows * self.maps.flops[0] * result.evaluations
        self.planned_flops += cost
        if result.taken:
            self.account.step(result.loss, cost)

    def take_coarse_step(self) -> None:
        """Take one coarse step."""
        for grid in self.grids[1:]:
            grid.model.train(self.grids[0].model.training)
        self.at, self.instead, self.done = 0, None, 0
        while self.at < len(self.visits) and not self.reason:
            self._do_visit(self.instead or self.visits[self.at])

    def smooth_instead(self, why: str, figures: Mapping[str, float]) -> None:
        """Skip a refused coarse step of the finest level, because the outer loop continues smoothing anyway."""
        super().smooth_instead(why, figures)
        if self.visits[self.at].level == 0:
            self.instead, self.at = None, self.find_step_end(self.at) - 1

    def move_to_level(self, batch: Any, grid: Grid) -> Any:
        """Return the batch as it is. The outer loop has already moved it to its device."""
        return batch


class _FollowingSmoother(BorrowedSmoother):
    """A coarse level's smoother that follows the current settings of the finest level's optimizer."""

    def __init__(
        self,
        model: nn.Module,
        source: Optimizer,
        names: list[list[str]],
        smoothing: Smoothing,
        make: MakeOptimizer | None,
    ) -> None:
        parameters = dict(model.named_parameters())
        self.source = source
        settings = [_group_settings(group) for group in self.source.param_groups]
        groups = [
            {**values, "params": [parameters[n] for n in names[i] if n in parameters]}
            for i, values in enumerate(settings)
        ]
        build: MakeOptimizer = make or type(self.source)
        try:
            optimizer = build(groups, lr=groups[0]["lr"])
        except TypeError as error:
            raise NetgraphError(
                f"a {type(self.source).__name__} cannot be built for a coarse level ({error}). Pass make=, a function of "
                "(groups, lr=...) that returns one."
            ) from error
        super().__init__(model, optimizer, names, smoothing)

    def follow(self, group: Mapping[str, Any], warm: float = 1.0) -> None:
        """Copy the current settings of the finest level's groups."""
        for coarse, fine in zip(self.optimizer.param_groups, self.source.param_groups, strict=True):
            coarse.update(_group_settings(fine))


class _ConstantSchedule:
    """A schedule that leaves the learning rate to the outer loop."""

    group: Mapping[str, Any] = {}
    steps = 0  # the length of the outer loop is unknown

    def tick(self, n: int = 1) -> None:
        """Do nothing, because the outer loop steps the schedule."""


class _ClosureObjective:
    """An objective with minibatches that carry their own loss."""

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
        """Return the oldest minibatch. The coarse step does not work on it."""
        return self.batches[0]


def _call_closure(model: nn.Module, batch: Minibatch) -> Tensor:
    """Return the loss of a network on a minibatch."""
    arguments, closure = batch
    return closure(model, *arguments)


def _group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group that apply to every level."""
    return {key: value for key, value in group.items() if key not in ("params", "initial_lr", "param_names")}


def freeze_closure(closure: Closure) -> Closure:
    """Return a copy of a closure with the current values of its names. A loop may rebind the names later."""
    if not isinstance(closure, FunctionType):
        return closure
    cells = tuple(CellType(cell.cell_contents) for cell in closure.__closure__ or ())
    copy = FunctionType(closure.__code__, dict(closure.__globals__), closure.__name__, closure.__defaults__, cells)
    copy.__kwdefaults__ = closure.__kwdefaults__
    return copy


def _check_options(options: Options, every: int, cycle: str) -> None:
    """Reject options that have no meaning inside another training loop."""
    if every < 0:
        raise NetgraphError(f"every is {every}. Give the number of fine steps between two coarse steps, or 0 for none.")
    if cycle not in ("v", "w", "f", "additive"):
        raise NetgraphError(f"a coarse step cannot be a cycle {cycle!r}. Choose one of v, w, f, additive.")
    if "whole" in (options.tau.kind, *(options.tau_of(level).kind for level in options.levels)):
        raise NetgraphError(
            "tau.kind 'whole' needs all data, and only the last minibatches are known here. Choose common or several."
        )
    if options.adapt.rematch or options.adapt.steer:
        raise NetgraphError(
            "only the solver FAS can rematch levels or steer the length of visits. Leave adapt at its defaults."
        )
    estimates = (options.estimate, *(options.estimate_of(level) for level in options.levels))
    if any(estimate.kind != PLAIN for estimate in estimates):
        raise NetgraphError(
            "only the solver FAS estimates gradients from several levels, and here they are those of your loop. Leave estimate.kind at "
            "minibatch, or call estimate_gradient in your loop."
        )
    rates = [level for level, settings in options.levels.items() if "lr" in settings]
    if rates:
        raise NetgraphError(
            f"level {rates[0]} has its own lr, and here every level has that of your optimizer. Leave this option out."
        )
    smoothings = (options.smoothing, *(options.smoothing_of(level) for level in options.levels))
    if options.split.rewarm or any(s.accumulate != 1 or s.ema is not None or s.mup or s.rewarm for s in smoothings):
        raise NetgraphError("accumulate, ema, mup and rewarm belong to your loop here. Leave them at their defaults.")
