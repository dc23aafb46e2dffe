"""The end of a run in PETSc's words, and the steps that it refused."""

import logging

import pytest
import torch

import netgraph as ng
from netgraph.fas import Checkpoints, Options, Outcome, Tolerance, resume
from netgraph.models import mlp


def begin(loss=None, *, callbacks=(), **options):
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    hierarchy = ng.build_hierarchy(mlp((6, 8, 3)), x[:2], n_levels=2)
    problem = ng.Problem(list(zip(x.split(16), y.split(16), strict=True)), loss or torch.nn.functional.cross_entropy)
    solver = ng.FAS("v", torch.optim.SGD, 0.05, **{"cycles": 3, **options})
    return solver, solver.begin(hierarchy, problem, callbacks=callbacks)


def finish(*args, **kwargs):
    solver, run = begin(*args, **kwargs)
    return solver.finish(run)


def spoil(when, *, gradient=False):
    """Return a loss that is not finite, or whose gradient is not, in some of its calls."""
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        value = torch.nn.functional.cross_entropy(outputs, targets)
        if not when(len(calls)):
            return value
        return value + (outputs.sum() * 0).sqrt() if gradient else value * float("nan")

    return loss


@pytest.mark.parametrize("gradient", [False, True])
def test_refused_steps_are_counted_by_their_reason_and_told(gradient, caplog):
    with caplog.at_level(logging.WARNING, "netgraph"):
        solution = finish(spoil(lambda n: n % 3 == 0, gradient=gradient))
    n = len(solution.events("refused"))
    assert n > 2
    word, key = ("gradient", Outcome.DIVERGED_FNORM_NAN) if gradient else ("loss", Outcome.DIVERGED_FUNCTION_NAN)
    assert solution.refused == {key: n}
    assert solution.reason.endswith(f"{n} of 48 steps were refused, because their {word} was not finite")
    assert sum("steps were refused" in record.message for record in caplog.records) == 1
    assert solution.outcome is Outcome.CONVERGED_ITS


def test_a_run_without_refused_steps_says_nothing_of_them(caplog):
    solution = finish()
    assert (solution.reason, solution.refused, caplog.records) == ("the 3 cycles are spent", {}, [])


def stop(run, record):
    if record["event"] == "cycle":
        run.stop("enough", converged=True)


@pytest.mark.parametrize(
    ("outcome", "options"),
    [
        (Outcome.CONVERGED_ITS, {}),
        (Outcome.CONVERGED_FNORM_ABS, {"options": Options(tolerance=Tolerance(atol=1e9))}),
        (Outcome.CONVERGED_FNORM_RELATIVE, {"options": Options(tolerance=Tolerance(rtol=0.9999)), "cycles": 30}),
        (Outcome.CONVERGED_SNORM_RELATIVE, {"options": Options(tolerance=Tolerance(stol=1e9))}),
        (Outcome.DIVERGED_MAX_IT, {"options": Options(tolerance=Tolerance(rtol=1e-12, max_it=2))}),
        (Outcome.CONVERGED_USER, {"callbacks": [stop]}),
        (Outcome.DIVERGED_USER, {"callbacks": [lambda run, record: run.stop("no")]}),
        (Outcome.DIVERGED_FUNCTION_NAN, {"loss": spoil(lambda n: True), "cycles": 20}),
    ],
)
def test_every_end_has_its_word(outcome, options):
    solution = finish(**options)
    assert solution.outcome is outcome
    assert solution.converged == (outcome.is_converged and outcome is not Outcome.CONVERGED_ITS)


def test_a_resumed_run_keeps_count(tmp_path):
    def cut(run, record):
        if record["event"] == "cycle" and run.cycles == 2:
            run.stop("as SIGTERM does")

    solver, run = begin(spoil(lambda n: n in (3, 4)), callbacks=[cut, Checkpoints(tmp_path)])
    assert sum(solver.finish(run).refused.values()) == 2
    solver, run = begin(callbacks=[Checkpoints(tmp_path)])
    resume(run, tmp_path)
    assert sum(solver.finish(run).refused.values()) == 2
