"""FAS: train a fine network by cycling over its coarse networks::

    fine      grad f(x) = b
    coarse    grad f_c(y) = b_c,   b_c = grad f_c(inject x) + restrict(b - grad f(x))
    then      x <- x + s prolong(y - inject x)

The full approximation scheme is a nonlinear multigrid method (Brandt, Math. Comp. 31, 1977). For minimisation it is the
multigrid optimization of Nash (Optim. Methods Softw. 14, 2000) and Gratton, Sartenaer, Toint (SIAM J. Optim. 19, 2008).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.estimate.checks import check_estimate
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.growth import check_growth
from netgraph.fas.levels.maps import HierarchyMaps, Maps, check_level, find_matrices, live_state
from netgraph.fas.levels.rematch import check_rematch
from netgraph.fas.levels.rewarm import check_rewarm
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.width_scaling import compute_rate_factors
from netgraph.fas.options.all_options import Options
from netgraph.fas.parallel.checks import check_no_estimates, check_same_levels, check_same_run, check_split
from netgraph.fas.parallel.ranks import Ranks, check_parallel, join_ranks
from netgraph.fas.parallel.split_problem import SplitProblem
from netgraph.fas.solver.batch_norm import check_norms
from netgraph.fas.solver.convergence import check_convergence, check_tolerance
from netgraph.fas.solver.cycles import Visit, count_steps_on_finest, plan_cycles, plan_steps
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import Objective, check_resolutions, count_batches, move_to_device
from netgraph.fas.solver.random_state import set_random_state
from netgraph.fas.solver.run import Callback, Run, make_running_mean, set_training
from netgraph.fas.solver.schedule import MakeScheduler, Schedule
from netgraph.fas.solver.solution import Solution
from netgraph.optim.optimizers import LARGEST_RATE, MakeOptimizer, takes_matrices
from netgraph.utils.choices import NESTED
from netgraph.utils.seeds import check_torch_seed

logger = logging.getLogger("netgraph.fas")
MOST_STEPS = 2**53  # which a float counts one by one


class FAS:
    """A multigrid solver for networks: the full approximation scheme.

    Parameters
    ----------
    cycle : str, default "kaskade"
        ``v``, ``w``, ``f``, ``full``, ``kaskade`` or ``additive`` (`netgraph.fas.solver.cycles`).
    optimizer : callable, default torch.optim.AdamW
        A class of ``torch.optim`` or a partial of one. It smooths every level.
    lr : float, default 1e-3
        Largest learning rate.
    epochs : float, optional
        Length of the run in passes over the data, on all levels together. Give this or ``cycles``.
    cycles : int, optional
        Length of the run in cycles of ``v``, ``w``, ``f`` or ``additive``. For ``full``, V-cycles on each level.
    schedule : str or callable, optional
        Schedule of the rate over all levels together: ``one-cycle``, ``wsd``, ``cosine``, ``constant``, or a function ``(optimizer) ->
        LRScheduler``. By default ``wsd`` (warm-up, stable, decay) for ``full`` and ``kaskade``, and ``one-cycle`` for the others.
        The rate of ``wsd`` falls on the finest level alone. One cycle falls while coarse levels are trained, and the finest begins
        with a rate at which it cannot move (docs/tried.md).
    share : tuple of float, optional
        For ``full`` and ``kaskade`` the share of the steps that each level's turn has, finest first. By default the coarsest
        level has twice as many steps as each of the others: 1/3, 2/3 of two levels and 1/4, 1/4, 1/2 of three (docs/tried.md).
        Coarsest levels with a share of 0 are left out.
    weight_decay : float, optional
        Decay of parameters with two dimensions or more. None leaves decay to the optimizer (0.01 of all parameters in AdamW).
    options : Options, optional
        All other options.
    schedule_per_level : bool, default False
        True: one schedule for each level in place of one over all levels.
    seed : int, default 7619
        Seed of minibatch order, dropout and the noise that makes copies differ.
    parallel : str, optional
        ``ddp``: the processes of ``torch.distributed`` train one network, each on its rows of every minibatch (docs/distributed.md).
        None: one process trains, and several are refused.

    Raises
    ------
    NetgraphError
        Both or none of ``epochs`` and ``cycles`` are given, ``lr`` is not above 0, or ``parallel`` has no such name.

    References
    ----------
    Brandt, "Multi-level adaptive solutions to boundary-value problems", Math. Comp. 31, 1977.
    Nash, "A multigrid approach to discretized optimization problems", Optim. Methods Softw. 14, 2000.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> inputs = torch.randn(64, 4)
    >>> batches = list(zip(inputs.split(16), inputs[:, :2].abs().split(16)))
    >>> hierarchy = ng.build_hierarchy(model, inputs[:2], n_levels=2)
    >>> ng.init_coarse_weights(hierarchy)
    >>> solver = ng.FAS("kaskade", torch.optim.Adam, 0.02, epochs=30)
    >>> solution = solver.solve(hierarchy, ng.Problem(batches, torch.nn.functional.mse_loss))
    >>> first, *_, last = [record["loss"] for record in solution.events("smooth")]
    >>> last < first / 5
    True
    """

    def __init__(
        self,
        cycle: str = "kaskade",
        optimizer: MakeOptimizer = torch.optim.AdamW,
        lr: float = 1e-3,
        *,
        epochs: float | None = None,
        cycles: int | None = None,
        schedule: str | MakeScheduler | None = None,
        share: tuple[float, ...] | None = None,
        weight_decay: float | None = None,
        options: Options | None = None,
        schedule_per_level: bool = False,
        seed: int = 7619,
        parallel: str | None = None,
    ) -> None:
        if (epochs is None) == (cycles is None):
            raise NetgraphError(
                "the length of the run is missing or given twice. Give either epochs=10 (passes over the data) or cycles=20."
            )
        if not 0 < lr <= LARGEST_RATE:
            raise NetgraphError(f"lr is {lr}. Give a rate above 0, and at most {LARGEST_RATE:g}.")
        self.cycle, self.make_optimizer, self.lr = cycle, optimizer, lr
        self.epochs, self.cycles, self.schedule = epochs, cycles, schedule
        self.share, self.weight_decay, self.seed = share, weight_decay, check_torch_seed(seed)
        self.options = options or Options()
        self.schedule_per_level, self.parallel = schedule_per_level, check_parallel(parallel)

    def solve(
        self,
        hierarchy: Hierarchy | Maps,
        problem: Objective,
        *,
        callbacks: Sequence[Callback] = (),
        every: int = 50,
        evaluations: int = 0,
    ) -> Solution:
        """Train the finest network of a hierarchy in place.

        Parameters
        ----------
        hierarchy : Hierarchy or Maps
            A hierarchy of networks, or levels of your own (`netgraph.fas.Maps`).
        problem : Problem or Objective
        callbacks : sequence of callable ``(run, record)``, default empty
            Called with every event. They may call ``run.stop(reason)``.
        every : int, default 50
            Largest number of steps between two records of smoothing.
        evaluations : int, default 0
            Steps between two measurements of the problem's figures. With 0 they are measured at the end alone.

        Returns
        -------
        Solution

        Raises
        ------
        NetgraphError
            The cycle has no such name, or an option does not fit the levels or the problem.
        """
        run = self.begin(hierarchy, problem, callbacks=callbacks, every=every, evaluations=evaluations)
        return self.finish(run)

    def begin(
        self,
        hierarchy: Hierarchy | Maps,
        problem: Objective,
        *,
        callbacks: Sequence[Callback] = (),
        every: int = 50,
        evaluations: int = 0,
    ) -> Run:
        """Return a run that has not taken a step, for `netgraph.fas.resume` and `finish`.

        Parameters
        ----------
        hierarchy : Hierarchy or Maps
            A hierarchy of networks, or levels of your own (`netgraph.fas.Maps`).
        problem : Problem or Objective
        callbacks : sequence of callable ``(run, record)``, default empty
        every : int, default 50
            Largest number of steps between two records of smoothing.
        evaluations : int, default 0
            Steps between two measurements of the problem's figures.

        Returns
        -------
        Run

        Raises
        ------
        NetgraphError
            The cycle has no such name, or an option does not fit the levels or the problem.
        """
        ranks = join_ranks(self.parallel, "FAS")
        maps: Maps = HierarchyMaps(hierarchy) if isinstance(hierarchy, Hierarchy) else hierarchy
        visits = self._plan_visits(len(maps.models), problem)
        grids = [self.make_grid(maps, level) for level in range(len(maps.models))]
        if takes_matrices(self.make_optimizer) and not find_matrices(maps):
            logger.warning(
                "no matrix lies between two hidden layers of this network, so muon is AdamW of all parameters"
            )
        ema = self.options.smoothing_of(0).ema
        check_tolerance(self.options.tolerance, problem)
        if self.options.adapt.rematch:
            check_rematch(maps)
        if self.options.split.norms:
            check_norms(maps)
        if any(visit.kind == "start" for visit in visits):
            check_growth(maps, self.options.split)
        if self.cycle not in NESTED:
            check_rewarm(self.options, self.cycle, len(maps.models))
        stream = MinibatchStream(problem.batches, self.seed)
        check_resolutions(maps, problem, stream.peek)
        if ranks.are_several:
            problem = self._split_problem(ranks, maps, problem, visits, stream)
        run = Run(
            maps, problem, self.options, grids, self.make_grid, visits,
            self._make_schedules(visits, len(grids)),
            stream, (check_convergence, *callbacks), self.seed, every, evaluations,
            None if ema is None else make_running_mean(maps.models[0], ema),
            ranks,
        )  # fmt: skip
        run.join_levels()
        check_estimate(run, self.cycle)
        return run

    def finish(self, run: Run) -> Solution:
        """Take a run to its end.

        Parameters
        ----------
        run : Run
            From `begin`, perhaps resumed.

        Returns
        -------
        Solution
        """
        passes = f"{self.epochs:g} epochs" if self.epochs is not None else f"{self.cycles} cycles"
        modes = set_training(run.maps.models)
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(run.seed + run.ranks.rank)  # each rank drops units of its own
                if run.rng is not None:
                    set_random_state(run.rng)
                run.execute(f"the {passes} are spent")
        finally:
            for model, mode in zip(run.maps.models, modes, strict=True):
                model.train(mode)
        mean = None if run.mean is None else run.mean.module
        return Solution(run.grids[0].model, run.converged, run.reason, run.history, run.ledger, mean, run.outcome)

    def _split_problem(
        self, ranks: Ranks, maps: Maps, problem: Objective, visits: Sequence[Visit], stream: MinibatchStream
    ) -> Objective:
        """Return the problem of one of several processes, after checks that they solve the same one."""
        check_no_estimates(self.options, len(maps.models))
        check_same_levels(ranks, maps)
        facts = {"the visits": visits, "the options": self.options, "the learning rate": self.lr, "the seed": self.seed}
        device = next((p.device for p in maps.models[0].parameters()), torch.device("cpu"))
        first, n_batches = move_to_device(stream.peek(), device), count_batches(problem.batches)
        check_split(ranks, problem.batches, n_batches, first, maps.models[0], problem.value)
        check_same_run(ranks, facts)
        return SplitProblem(problem, ranks)

    def make_grid(self, maps: Maps, level: int) -> Grid:
        """Return one level with its optimizer.

        Parameters
        ----------
        maps : Maps
        level : int

        Returns
        -------
        Grid
        """
        smoothing, model = self.options.smoothing_of(level), maps.models[check_level(maps, level)]
        smoother = Smoother(
            model,
            self.make_optimizer,
            self.options.lr_of(level, self.lr),
            weight_decay=self.weight_decay,
            options=smoothing,
            scales=compute_rate_factors(maps, level, self.make_optimizer) if smoothing.mup else None,
            matrices=find_matrices(maps) if takes_matrices(self.make_optimizer) else (),
        )
        return Grid(model, smoother, live_state(model, list(live_state(maps.models[0]))))

    def _make_schedules(self, visits: Sequence[Visit], n_levels: int) -> list[Schedule]:
        """Return the schedule of all levels together, or one for each level."""
        is_nested = self.cycle in NESTED
        kind = self.schedule or ("wsd" if is_nested else "one-cycle")
        if self.schedule_per_level:
            steps = [sum(visit.steps for visit in visits if visit.level == level) for level in range(n_levels)]
            return [Schedule(kind, self.make_optimizer, n) for n in steps]
        total = sum(visit.steps for visit in visits)
        return [Schedule(kind, self.make_optimizer, total, count_steps_on_finest(visits) if is_nested else None)]

    def _plan_visits(self, n_levels: int, problem: Objective) -> list[Visit]:
        """Return all visits of a run."""
        if self.cycles is not None:
            return plan_cycles(self.cycle, n_levels, self.cycles, self.options.smoothing_of)
        assert self.epochs is not None
        asked = self.epochs * _count_pass_batches(problem) / self.options.smoothing.accumulate
        if not asked < MOST_STEPS:
            raise NetgraphError(f"epochs is {self.epochs:g}, which makes {asked:g} steps. Give fewer.")
        steps = max(round(asked), 1)
        share = self.share or (1.0,) * (n_levels - 1) + (2.0,)
        return plan_steps(self.cycle, n_levels, steps, self.options.smoothing_of, share)


def _count_pass_batches(problem: Objective) -> int:
    """Return the number of minibatches in one pass."""
    n = count_batches(problem.batches)
    if n is None:
        raise NetgraphError(
            "epochs cannot be counted, because the minibatches have no length. Give a loader with len(), or cycles."
        )
    return n


def make_plain_solver(**options: Any) -> FAS:
    """Return a solver for a hierarchy of one level: ordinary training with the same optimizer, schedule and records."""
    return FAS("kaskade", share=(1.0,), **options)
