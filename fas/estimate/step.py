"""Steps of a run whose gradient is estimated from several levels.

Every ``estimate.every`` steps the covariances of the levels' gradients are measured on fresh samples, and the plan with the least
variance for the cost of a plain step is chosen. The step that follows takes its samples in two halves, which show the variance of the
estimate itself: the mean of two independent estimates a and b has the variance E |a - b|^2 / 4.

The samples that choose the plan take no part in an estimate. Its expectation is therefore the gradient, whatever was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from netgraph.fas.estimate.gradient import add_to_gradients, evaluate_terms, inject_levels, measure_covariances
from netgraph.fas.estimate.plan import SamplePlan, choose_plan, count_evaluations
from netgraph.fas.estimate.report import VarianceReport, make_report
from netgraph.fas.estimate.samples import Remainder, take_samples
from netgraph.fas.ledger import STEP, Ledger
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import Smoother, Value, read_gradients
from netgraph.fas.levels.vectors import norm, subtract_vectors
from netgraph.fas.options.all_options import Options

PLAIN = "minibatch"  # the kind of a plain gradient


class HasValue(Protocol):
    """A problem, as far as an estimate knows it."""

    def value(self, model: Any, batch: Any) -> Any:
        """Return f of a level on one minibatch."""


@dataclass
class EstimateState:
    """What the estimate of one level keeps between steps.

    Attributes
    ----------
    levels, sizes, coefficients : list
        The plan (`netgraph.fas.estimate.plan.SamplePlan`).
    age : int
        Steps since variances were measured. -1 before the first.
    report : VarianceReport, optional
        That of a plan whose first step is under way. Between two steps there is none.
    """

    levels: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    coefficients: list[float] = field(default_factory=list)
    age: int = -1
    report: VarianceReport | None = None

    def get_plan(self, kind: str) -> SamplePlan:
        """Return the plan."""
        return SamplePlan(kind, tuple(self.levels), tuple(self.sizes), tuple(self.coefficients))


class Stream(Protocol):
    """Minibatches without end, of which the next one can be seen before it is taken."""

    def __iter__(self) -> Iterator[Any]:
        """Return the stream."""

    def __next__(self) -> Any:
        """Take the next minibatch."""

    def peek(self) -> Any:
        """Return the next minibatch without taking it."""


class EstimateRun(Protocol):
    """The members of `netgraph.fas.solver.run.Run` that an estimate uses."""

    maps: Maps
    options: Options
    grids: list[Grid]
    ledger: Ledger
    estimates: dict[int, EstimateState]
    remainder: Remainder

    @property
    def problem(self) -> HasValue:
        """The function to minimise."""

    @property
    def stream(self) -> Stream:
        """The minibatches, without end."""

    def move_to_level(self, batch: Any, grid: Grid) -> Any:
        """Return a minibatch on the device of a level."""

    def emit_event(self, event: str, level: int, **figures: Any) -> None:
        """Write a record."""


def is_estimated(run: EstimateRun, level: int) -> bool:
    """Return True if the next gradient of a level comes from several levels.

    A coarse level of a cycle takes the minibatches on which tau was formed, one by one, and has plain gradients.
    """
    wanted = run.options.estimate_of(level).kind != PLAIN
    return wanted and level + 1 < len(run.grids) and not run.grids[level].common


def prepare_estimate(run: EstimateRun, level: int) -> None:
    """Measure variances and choose the plan, if that is due. A level without a coarser one says so once."""
    kind = run.options.estimate_of(level).kind
    if kind != PLAIN and level + 1 == len(run.grids) and level not in run.estimates:
        report = VarianceReport(level, PLAIN, why="There is no coarser level.")
        run.estimates[level] = EstimateState(age=0, report=report)
    if not is_estimated(run, level):
        return
    state = run.estimates.setdefault(level, EstimateState())
    if 0 <= state.age < run.options.estimate_of(level).every:
        return
    pool = take_pool(run, level, run.options.estimate_of(level).pilot)
    with run.ledger.clock(level, "variance"):
        state.report = _choose_plan(run, level, state, pool)
    state.age = 0


def _choose_plan(run: EstimateRun, level: int, state: EstimateState, pool: list[Any]) -> VarianceReport:
    """Give the state of a level the best plan by the covariances of some samples."""
    options, last = run.options.estimate_of(level), len(run.grids) - 1
    inject_levels(run.maps, run.grids, level, last)
    covariances = measure_covariances(run.maps, run.grids, level, run.problem.value, pool, options.pilot)
    costs = [STEP * run.maps.flops[i] for i in range(level, last + 1)]
    for i, cost in enumerate(costs, start=level):
        run.ledger.spend(i, "variance", options.pilot * cost)
    samples = options.cost * run.remainder.largest * run.options.smoothing_of(level).accumulate
    choice = choose_plan(options.kind, covariances, costs, samples * costs[0], level=level)
    plan = choice.plan
    state.levels, state.sizes, state.coefficients = list(plan.levels), list(plan.sizes), list(plan.coefficients)
    return make_report(level, options.kind, choice, covariances, samples)


def take_pool(run: EstimateRun, level: int, n: int) -> list[Any]:
    """Take samples from the stream, to the device of a level."""
    with run.ledger.clock(level, "load"):
        return [run.move_to_level(batch, run.grids[level]) for batch in take_samples(run.stream, run.remainder, n)]


def load_estimate(run: EstimateRun, level: int) -> list[Any]:
    """Return the samples of the next step."""
    plan = run.estimates[level].get_plan(run.options.estimate_of(level).kind)
    return take_pool(run, level, plan.n_samples)


def write_estimate(run: EstimateRun, level: int, pool: list[Any]) -> tuple[float, dict[int, int]]:
    """Write an estimate to ``.grad`` of a level, and return that of the loss, and by level the samples that were evaluated."""
    state = run.estimates[level]
    plan = state.get_plan(run.options.estimate_of(level).kind)
    inject_levels(run.maps, run.grids, level, plan.levels[-1])
    state.age += 1
    if state.report is not None and min(plan.sizes) > 1:
        loss, variance = measure_estimate(run.maps, run.grids, level, run.problem.value, pool, plan)
        state.report = replace(state.report, measured=variance)
    else:
        loss = evaluate_terms(run.maps, run.grids, level, run.problem.value, pool, plan.list_terms())
    return loss, count_evaluations(plan.list_terms())


def measure_estimate(
    maps: Maps, grids: Sequence[Grid], level: int, value: Value, pool: list[Any], plan: SamplePlan
) -> tuple[float, float]:
    """Write an estimate from two halves of its samples to ``.grad``, and return that of the loss, and the variance of the estimate."""
    smoother, (lower, upper) = grids[level].smoother, plan.halve()
    loss = evaluate_terms(maps, grids, level, value, pool, lower.list_terms())
    half = read_gradients(smoother)
    smoother.optimizer.zero_grad()  # sets .grad to None, which leaves the tensors to the half
    loss += evaluate_terms(maps, grids, level, value, pool, upper.list_terms(), lower.n_samples)
    variance = norm(subtract_vectors(half, read_gradients(smoother))) ** 2 / 4
    add_to_gradients(half, smoother.named)
    halve_gradients(smoother)
    return loss / 2, variance


def halve_gradients(smoother: Smoother) -> None:
    """Divide the gradients in ``.grad`` by two."""
    for gradient in read_gradients(smoother).values():
        gradient.mul_(0.5)


def report_estimate(run: EstimateRun, level: int) -> None:
    """Write the record of a plan after its first step."""
    state = run.estimates.get(level)
    if state is not None and state.report is not None:
        report, state.report = state.report, None
        figures: Mapping[str, Any] = {
            k: v for k, v in asdict(report).items() if k != "level" and v not in (None, "", ())
        }
        run.emit_event("estimate", level, **{k: list(v) if isinstance(v, tuple) else v for k, v in figures.items()})


def bound_measurements(level: int, steps: int, flops: Sequence[float], options: Options) -> float:
    """Return an upper bound of the operations that measuring variances takes during some steps of a level."""
    estimate = options.estimate_of(level)
    if estimate.kind == PLAIN or level + 1 == len(flops):
        return 0.0
    return (math.ceil(steps / estimate.every) + 1) * estimate.pilot * STEP * sum(flops[level:])
