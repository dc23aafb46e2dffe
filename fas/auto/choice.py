"""The choice of directions, levels and shares for a budget of time.

Probes take a tenth of the budget. In a first round, a third of that, every candidate has the same time. The best two and plain
training go on to a second round, the best with two shares of the cost. The lead of a candidate over plain training is

    g(t) = (loss of plain(t) - loss of the candidate(t)) / |loss of plain(t)|

Leads shrink with time, because plain training catches up. Between the two rounds g is taken for a power of t, which gives the lead
at the end of the budget. A candidate whose lead there is less than `MARGIN` is not worth its risk, and training is plain.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.errors import NetgraphError
from netgraph.fas.auto.candidates import FINEST, Candidate, build_candidates, share_cost
from netgraph.fas.auto.probe import Probe, Settings, measure_steps, run_probe, take_judged_batches
from netgraph.fas.options.all_options import Options
from netgraph.fas.solver.problem import Objective, count_batches
from netgraph.fas.solver.solver import FAS
from netgraph.optim.optimizers import MakeOptimizer

BUILDING = 0.05  # share of the budget for building hierarchies
PROBING = 0.1  # share of the budget for building, timing and probes together
FEWEST = 8  # steps of a level in a probe
MARGIN = 0.01  # lead at the end of the budget from which a candidate is taken
Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrainingChoice:
    """What was chosen, and why.

    Parameters
    ----------
    hierarchy : Hierarchy
        Levels with their first weights.
    solver : FAS
        Solver with the steps that fit into what is left of the budget.
    directions : str
        What the levels make smaller. Empty for plain training.
    steps : tuple of int
        Steps of each level, finest first.
    seconds : float
        Budget.
    spent : float
        Seconds that the choice took.
    rounds : list of list of Probe
        The probes of each round.
    left_out : list of str
        Directions that were no candidates, with the reason.
    reason : str
        Why this candidate was chosen.
    """

    hierarchy: Hierarchy
    solver: FAS
    directions: str
    steps: tuple[int, ...]
    seconds: float
    spent: float
    rounds: list[list[Probe]]
    left_out: list[str]
    reason: str

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each probe, as data for JSON."""
        return [
            {
                "round": i, "candidate": probe.candidate.name, "steps": list(probe.steps), "seconds": probe.seconds,
                "loss": probe.loss,
            }
            for i, probes in enumerate(self.rounds, start=1)
            for probe in probes
        ]  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{'round':>5}  {'seconds':>7}  {'loss':>10}  candidate (steps, finest first)"]
        lines += [
            f"{r['round']:>5}  {r['seconds']:>7.1f}  {r['loss']:>10.4g}  {r['candidate']} ({', '.join(map(str, r['steps']))})"
            for r in self.rows()
        ]
        lines += [f"no candidate: {text}" for text in self.left_out]
        return "\n".join([*lines, self.reason])


def choose_training(
    network: nn.Module,
    example: Any,
    problem: Objective,
    *,
    seconds: float,
    optimizer: MakeOptimizer = torch.optim.AdamW,
    lr: float = 1e-3,
    weight_decay: float | None = None,
    options: Options | None = None,
    coarsening: CoarsenOptions | None = None,
    seed: int = 7619,
    tell: Tell | None = None,
) -> TrainingChoice:
    """Choose directions, levels and shares of the cost by short probes, for a budget of time.

    Parameters
    ----------
    network : torch.nn.Module
        A network that has not been trained. Probes train it, and it gets its first weights back.
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    problem : Objective
        Its minibatches have a length.
    seconds : float
        Budget of the choice and of the training that follows, as wall-clock time.
    optimizer : callable, default torch.optim.AdamW
        A class of ``torch.optim`` or a partial of one.
    lr : float, default 1e-3
        Largest learning rate of all candidates.
    weight_decay : float, optional
        Decay of parameters with two dimensions or more, as `netgraph.FAS` takes it.
    options : Options, optional
        Options of the solver.
    coarsening : CoarsenOptions, optional
        How levels are made. Directions and the number of levels are chosen.
    seed : int, default 7619
        Seed of all runs, and of the minibatches on which probes are compared.
    tell : callable ``(text) -> None``, optional
        Called with a line for each probe.

    Returns
    -------
    TrainingChoice

    Raises
    ------
    NetgraphError
        The budget is too small for probes, or the minibatches have no length.

    Examples
    --------
    This network has no hidden units, so there is nothing to try.

    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import choose_training
    >>> network, inputs = torch.nn.Linear(8, 2), torch.randn(512, 8)
    >>> batches = list(zip(inputs.split(32), inputs[:, :2].abs().split(32)))
    >>> problem = ng.Problem(batches, torch.nn.functional.mse_loss)
    >>> choice = choose_training(network, inputs[:2], problem, seconds=2)
    >>> print(choice.reason)
    chosen: plain training, because no levels can be trained.
    >>> solution = choice.solver.solve(choice.hierarchy, problem)
    """
    begun = time.perf_counter()
    if not 0 < seconds < math.inf:
        raise NetgraphError(f"the budget is {seconds:g} s. Give the seconds that training may take.")
    if not count_batches(problem.batches):
        raise NetgraphError(
            "probes cannot be planned, because the minibatches have no length. Give a loader with len()."
        )
    settings = Settings(optimizer, lr, weight_decay, options or Options(), seed)
    candidates, left_out = build_candidates(network, example, coarsening or CoarsenOptions(), BUILDING * seconds)
    candidates = _time_steps(candidates, problem, settings, left_out)
    left = PROBING * seconds - (time.perf_counter() - begun)
    rounds: list[list[Probe]] = []
    if len(candidates) == 1:
        best, reason = candidates[0], "chosen: plain training, because no levels can be trained."
    else:
        judged, tell = take_judged_batches(problem, seed), tell or (lambda text: None)
        candidates = _fit_round(candidates, left / 3, seconds, left_out)
        rounds.append(_hold_round(candidates, left / 3, problem, settings, judged, tell))
        rounds.append(_hold_round(_list_finalists(rounds[0]), left * 2 / 3, problem, settings, judged, tell))
        best, reason = choose_by_lead(rounds[0], rounds[1], seconds)
    best.reset()
    spent = time.perf_counter() - begun
    steps = best.count_steps(seconds - spent)
    solver = settings.make_solver(steps, problem)
    return TrainingChoice(best.hierarchy, solver, best.directions, steps, seconds, spent, rounds, left_out, reason)


def _time_steps(
    candidates: Sequence[Candidate], problem: Objective, settings: Settings, left_out: list[str]
) -> list[Candidate]:
    """Measure the seconds of a step on each level, and return the candidates whose levels the problem can be trained on."""
    plain, *others = candidates
    measure_steps(plain, problem, settings)  # what it refuses is the user's to mend
    fitting = [plain]
    for candidate in others:
        try:
            measure_steps(candidate, problem, settings)
        except NetgraphError as error:  # such as targets without a way to the resolution of the level
            left_out.append(f"{candidate.name}: {error}")
        else:
            fitting.append(candidate)
    return fitting


def _fit_round(candidates: Sequence[Candidate], left: float, budget: float, left_out: list[str]) -> list[Candidate]:
    """Return the candidates whose probes have enough steps. The last ones make room for the others.

    Raises
    ------
    NetgraphError
        There is no time for plain training and one candidate.
    """
    fitting = list(candidates)
    needed = [max(FEWEST * s / share for s, share in zip(c.step_seconds, c.share, strict=True)) for c in fitting]
    while len(fitting) > 2 and max(needed[: len(fitting)]) * len(fitting) > left:
        left_out.append(f"{fitting.pop().name}: its probe would have too few steps")
    least = max(needed[: len(fitting)]) * len(fitting)
    if least > left:
        wanted = math.ceil(budget + 3 * (least - left) / PROBING)
        raise NetgraphError(
            f"a budget of {budget:g} s is too small: probes may take {PROBING:.0%} of it, and {FEWEST} steps of each level take "
            f"longer. Give {wanted} s or more, or choose --coarsen and --levels yourself."
        )
    return fitting


def _hold_round(
    candidates: Sequence[Candidate],
    seconds: float,
    problem: Objective,
    settings: Settings,
    judged: Sequence[Any],
    tell: Tell,
) -> list[Probe]:
    """Return the probes of some candidates, which share a time equally."""
    probes = []
    for candidate in candidates:
        probe = run_probe(candidate, seconds / len(candidates), problem, settings, judged)
        tell(f"{candidate.name}: loss {probe.loss:.4g} after {probe.seconds:.1f} s")
        candidate.calibrate(probe.seconds / probe.planned)  # for the next round, and for the run
        probes.append(probe)
    return probes


def _list_finalists(probes: Sequence[Probe]) -> list[Candidate]:
    """Return plain training, the best two candidates, and the best one with the larger share on the finest level."""
    plain, *others = [probe.candidate for probe in probes]
    losses = {id(probe.candidate): probe.loss if math.isfinite(probe.loss) else math.inf for probe in probes}
    best, *more = sorted(others, key=lambda candidate: losses[id(candidate)])
    return [plain, best, replace(best, share=share_cost(best.n_levels, FINEST[1])), *more[:1]]


def choose_by_lead(first: Sequence[Probe], second: Sequence[Probe], seconds: float) -> tuple[Candidate, str]:
    """Return the candidate with the largest lead at the end of the budget, and the reason in a sentence.

    Parameters
    ----------
    first, second : sequence of Probe
        Two rounds. Plain training is the first of each.
    seconds : float
        Budget.
    """
    leads = {probe: predict_lead(first, second, probe, seconds) for probe in second[1:]}
    best, (now, then) = max(leads.items(), key=lambda item: item[1][1])
    figures = f"its loss is {_compare(now)} that of plain training after {best.seconds:.1f} s"
    figures += f", and by the fall of that lead {_compare(then)} it after {seconds:.0f} s" if then < now else ""
    if then < MARGIN:
        return second[0].candidate, f"chosen: plain training. The best candidate was {best.candidate.name}: {figures}."
    return best.candidate, f"chosen: {best.candidate.name}. {figures[0].upper()}{figures[1:]}."


def _compare(lead: float) -> str:
    """Return a lead in words."""
    return f"{abs(lead):.1%} {'below' if lead > 0 else 'above'}"


# g(T) = g2 (g2 / g1)^(log(T / t2) / log(t2 / t1)),   where 0 < g2 < g1
def predict_lead(first: Sequence[Probe], second: Sequence[Probe], probe: Probe, seconds: float) -> tuple[float, float]:
    """Return the lead of a probe of the second round over plain training, and the lead expected at the end of the budget."""
    lead = _compute_lead(second[0], probe)
    before = next((p for p in first if p.candidate.hierarchy is probe.candidate.hierarchy), None)
    if before is None or lead <= 0:
        return lead, lead
    earlier, longer = _compute_lead(first[0], before), math.log(max(probe.seconds / before.seconds, 1.1))
    if earlier <= lead:
        return lead, lead
    return lead, lead * (lead / earlier) ** (math.log(max(seconds / probe.seconds, 1.0)) / longer)


def _compute_lead(plain: Probe, probe: Probe) -> float:
    """Return how far a candidate's loss is below that of plain training, as a share of it. A loss that is not finite has no lead."""
    if not math.isfinite(probe.loss):
        return -math.inf
    return (plain.loss - probe.loss) / max(abs(plain.loss), 1e-300) if math.isfinite(plain.loss) else 1.0
