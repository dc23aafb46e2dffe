"""Probes: short runs of a candidate, from its first weights to the end of a schedule of their own."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netgraph.fas.auto.candidates import Candidate
from netgraph.fas.levels.grid import keep_modes, without_side_effects
from netgraph.fas.options.all_options import Options
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import Objective, count_batches, move_to_device
from netgraph.fas.solver.solution import Solution
from netgraph.fas.solver.solver import FAS
from netgraph.optim.optimizers import MakeOptimizer

TIMED = 4  # steps on each level from which the seconds of a step are measured
JUDGED = 8  # minibatches on which probes are compared
FAR = 2**20  # pass of the stream from which they come, which no run of ordinary length reaches


@dataclass(frozen=True)
class Settings:
    """What all candidates have in common.

    Parameters
    ----------
    optimizer : callable
    lr : float
    weight_decay : float or None
    options : Options
    seed : int
    """

    optimizer: MakeOptimizer
    lr: float
    weight_decay: float | None
    options: Options
    seed: int

    def make_solver(self, steps: Sequence[int], problem: Objective) -> FAS:
        """Return a solver of nested iteration with a number of steps on each level, finest first."""
        epochs = sum(steps) * self.options.smoothing.accumulate / (count_batches(problem.batches) or 1)
        return FAS(
            "kaskade", self.optimizer, self.lr, epochs=epochs, share=tuple(steps), schedule="wsd", options=self.options,
            weight_decay=self.weight_decay, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Probe:
    """One short run.

    Parameters
    ----------
    candidate : Candidate
    planned, seconds : float
        Time that the run was to take, and that it took, its comparison included.
    steps : tuple of int
        Steps of each level, finest first.
    loss : float
        Mean loss of the finest network at the end, on minibatches that all probes share.
    """

    candidate: Candidate
    planned: float
    seconds: float
    steps: tuple[int, ...]
    loss: float


def take_judged_batches(problem: Objective, seed: int) -> list[Any]:
    """Return the minibatches on which probes are compared. They come from a late pass, in another order than those of training."""
    stream = MinibatchStream(problem.batches, seed)
    stream.epoch = FAR
    return stream.take(min(count_batches(problem.batches) or JUDGED, JUDGED))


def measure_steps(candidate: Candidate, problem: Objective, settings: Settings) -> None:
    """Write the seconds of a step on each level to a candidate: the median of a few steps, loading included."""
    candidate.reset()
    solution = _run(candidate, [TIMED] * candidate.n_levels, problem, settings)
    per_step: dict[int, list[float]] = {}
    for before, after in zip(solution.history, solution.history[1:], strict=False):
        if after["event"] == "smooth" and before["event"] == "smooth":  # a first step may allocate memory
            per_step.setdefault(after["level"], []).append(after["seconds"] - before["seconds"])
    candidate.step_seconds = [statistics.median(per_step[level]) for level in range(candidate.n_levels)]


def run_probe(
    candidate: Candidate, seconds: float, problem: Objective, settings: Settings, judged: Sequence[Any]
) -> Probe:
    """Train a candidate from its first weights for some seconds, and compare."""
    begun, steps = time.perf_counter(), candidate.count_steps(seconds)
    candidate.reset()
    model = _run(candidate, steps, problem, settings).model
    loss = compute_mean_loss(model, problem, judged)
    return Probe(candidate, seconds, time.perf_counter() - begun, steps, loss)


def _run(candidate: Candidate, steps: Sequence[int], problem: Objective, settings: Settings) -> Solution:
    """Train a candidate, with a record of every step. Figures are not measured, because that may take longer than a probe."""
    without_figures: Any = copy.copy(problem)
    without_figures.valid = None
    return settings.make_solver(steps, problem).solve(candidate.hierarchy, without_figures, every=1)


@torch.no_grad()
def compute_mean_loss(model: nn.Module, problem: Objective, batches: Sequence[Any]) -> float:
    """Return the mean loss of a network in evaluation mode over some minibatches."""
    device = next(model.parameters()).device
    with keep_modes([model]), without_side_effects([model]):
        model.eval()
        losses = [float(problem.value(model, move_to_device(batch, device))) for batch in batches]
    return statistics.fmean(losses)
