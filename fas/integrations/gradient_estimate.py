"""The gradient of a network from its levels, alone: for a loop of one's own, or to see what the levels are worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import NetgraphError
from netgraph.fas.estimate.report import VarianceReport
from netgraph.fas.estimate.step import PLAIN, load_estimate, prepare_estimate, write_estimate
from netgraph.fas.levels.grid import keep_modes, without_side_effects
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import accumulate_gradient, read_gradients
from netgraph.fas.levels.vectors import Vector, assign, copy_vector
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Estimate
from netgraph.fas.solver.problem import Objective, count_rows
from netgraph.fas.solver.run import Run
from netgraph.fas.solver.solver import FAS
from netgraph.utils.seeds import check_torch_seed


@dataclass(frozen=True)
class GradientEstimate:
    """An estimate of the gradient of the finest network.

    Parameters
    ----------
    gradient : dict of str to Tensor
        By parameter name.
    loss : float
        The same estimate of the loss. The noise of its differences may take it below 0.
    report : VarianceReport
        Samples of each level, and variances.
    samples : dict of int to int
        Samples evaluated on each level.

    Examples
    --------
    >>> import torch
    >>> from netgraph.fas import GradientEstimate, VarianceReport
    >>> report = VarianceReport(0, "minibatch", why="There is no coarser level.")
    >>> print(GradientEstimate({"weight": torch.ones(2)}, 0.5, report, {0: 64}))
    loss 0.5, gradient of 2 numbers, samples on level 0: 64
    gradient of level 0: plain. There is no coarser level.
    """

    gradient: Vector
    loss: float
    report: VarianceReport
    samples: dict[int, int]

    def __str__(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.gradient.values())
        samples = ", ".join(f"on level {level}: {n}" for level, n in sorted(self.samples.items()))
        return f"loss {self.loss:.4g}, gradient of {numbers:,} numbers, samples {samples}\n{self.report}"


def estimate_gradient(
    hierarchy: Hierarchy | Maps, problem: Objective, *, options: Estimate | None = None, seed: int = 7619
) -> GradientEstimate:
    """Estimate the gradient of the finest network from all levels, for the cost of that of one minibatch.

    The coarse gradient comes from many samples, and differences of two levels from fewer. The expectation is the gradient of the finest
    network. Numbers of samples follow from variances that are measured first (Giles, Oper. Res. 56, 2008).

    Parameters
    ----------
    hierarchy : Hierarchy or Maps
        Levels, whose networks stay as they are.
    problem : Problem or Objective
        Its loss is the mean over the samples of a minibatch.
    options : Estimate, optional
        Kind, cost and samples to measure variances on. The default is ``Estimate(kind="multilevel")``.
    seed : int, default 7619
        Seed of the minibatches and of dropout.

    Returns
    -------
    GradientEstimate

    Raises
    ------
    NetgraphError
        ``options.kind`` is ``minibatch``, minibatches cannot be cut, or the loss is no mean over samples.

    References
    ----------
    Giles, "Multilevel Monte Carlo methods", Acta Numerica 24, 2015.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import estimate_gradient
    >>> _ = torch.manual_seed(0)
    >>> layers = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    >>> model = torch.nn.Sequential(*layers, torch.nn.Linear(4, 2))
    >>> images = torch.rand(64, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    >>> labels = images.mean((1, 2, 3)).gt(0.5).long()
    >>> hierarchy = ng.build_hierarchy(model, images[:2], n_levels=2, directions="space")
    >>> problem = ng.Problem(list(zip(images.split(16), labels.split(16))), torch.nn.functional.cross_entropy)
    >>> estimate = estimate_gradient(hierarchy, problem)
    >>> sorted(estimate.gradient) == sorted(dict(model.named_parameters()))
    True
    >>> estimate.report.levels, estimate.report.gain > 1.5  # few images at the fine resolution, many at half of it
    ((0, 1), True)
    """
    options = options or Estimate(kind="multilevel")
    if options.kind == PLAIN:
        raise NetgraphError("estimate.kind is minibatch, which is a plain gradient. Give multilevel or multifidelity.")
    solver = FAS("v", torch.optim.SGD, 0.1, cycles=1, options=Options(estimate=options), seed=check_torch_seed(seed))
    run = solver.begin(hierarchy, problem)
    coarse = [copy_vector(grid.x) for grid in run.grids[1:]]
    old = {name: p.grad for name, p in run.grids[0].smoother.named.items()}
    try:
        with keep_modes(run.maps.models), without_side_effects(run.maps.models):
            for model in run.maps.models:
                model.train()
            torch.manual_seed(seed)
            return _estimate(run)
    finally:
        for grid, x in zip(run.grids[1:], coarse, strict=True):
            assign(grid.x, x)
        for name, parameter in run.grids[0].smoother.named.items():
            parameter.grad = old[name]


def _estimate(run: Run) -> GradientEstimate:
    """Return the estimate of the first step of a run, without taking the step."""
    grid = run.grids[0]
    grid.smoother.optimizer.zero_grad()
    prepare_estimate(run, 0)
    if len(run.grids) > 1:
        loss, samples = write_estimate(run, 0, load_estimate(run, 0))
    else:
        batch = run.move_to_level(next(run.stream), grid)
        loss, samples = accumulate_gradient(grid.model, run.problem.value, [batch]), {0: count_rows(batch)}
    report = run.estimates[0].report
    assert report is not None
    return GradientEstimate(copy_vector(read_gradients(grid.smoother)), loss, report, samples)
