"""Convergence of a run, judged by dense matrices, by separately taken gradients, and by resuming."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from bratu import Energy, Squares
from quadratics import Lines, dense_two_level
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints, resume
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Split, Tau, Tolerance
from netgraph.fas.options.text import parse_options
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.perceptron import mlp

TIMES = Smoothing(2, 2, 40)
OPEN = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, search=())


def solver(cycles, tolerance, *, lr=0.2, smoothing=TIMES, cycle="v"):
    options = Options(smoothing, Tau(batches=1), OPEN, Split("none"), tolerance=tolerance)
    return FAS(cycle, torch.optim.SGD, lr, cycles=cycles, schedule="constant", options=options)


def residual(model):
    (gradient,) = torch.autograd.grad(model(), [model.u])
    return float(gradient.norm())


def quadratic(seed=0):
    random = np.random.default_rng(seed)
    M, P, f = random.normal(size=(8, 8)), np.linalg.qr(random.normal(size=(8, 3)))[0], random.normal(size=8)
    A = M @ M.T / 8 + 2 * np.eye(8)
    parts = A, f, P.T @ A @ P + 0.3 * np.eye(3), P, P.T.copy()
    lr = 0.5 / max(np.linalg.norm(A, 2), np.linalg.norm(parts[2], 2))
    return parts, lr


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("seed", range(3))
def test_a_run_ends_with_the_cycle_that_the_dense_iteration_converges_in(seed, name):
    parts, lr = quadratic(seed)
    _, norms = dense_two_level(*parts, lr, pre=1, post=2, coarse=5, cycles=60)
    bound = 1e-4
    wanted = next(i for i, n in enumerate(norms) if n < bound * (norms[0] if name == "rtol" else 1.0))
    maps = Lines(*map(torch.from_numpy, parts))
    solution = solver(60, Tolerance(**{name: bound}), lr=lr, smoothing=Smoothing(1, 2, 5)).solve(maps, Energy())
    assert solution.converged
    assert f"below {name} = 0.0001" in solution.reason
    measured = [record["norm"] for record in solution.events("norm")]
    np.testing.assert_allclose(measured, norms[: wanted + 1], rtol=1e-9)


@pytest.mark.parametrize("cycle", ["v", "full"])
def test_the_bratu_problem_is_solved_to_the_tolerance_and_no_further(cycle):
    maps = Squares([15, 7, 3], rate=2.0)
    solution = solver(40, Tolerance(rtol=1e-7), cycle=cycle).solve(maps, Energy())
    norms = [record["norm"] for record in solution.events("norm")]
    assert solution.converged
    assert "|grad f|" in solution.reason
    assert residual(maps.models[0]) == pytest.approx(norms[-1])
    assert norms[-1] < 1e-7 * norms[0] <= norms[-2]
    assert len(norms) < 25


def test_a_run_at_the_minimiser_takes_no_step():
    parts, lr = quadratic()
    maps = Lines(*map(torch.from_numpy, parts))
    with torch.no_grad():
        maps.models[0].x.copy_(torch.from_numpy(np.linalg.solve(parts[0], parts[1])))
    solution = solver(5, Tolerance(atol=1e-10), lr=lr).solve(maps, Energy())
    assert solution.converged
    assert not solution.events("smooth")


def test_a_small_step_is_told_from_a_small_gradient():
    maps = Squares([15, 7, 3], rate=2.0)
    before = []
    tolerance = Tolerance(stol=1e-3)

    def note(run, record):
        if record["event"] == "cycle":
            before.append(maps.models[0].u.detach().clone())

    solution = solver(40, tolerance).solve(maps, Energy(), callbacks=[note])
    moved = [float((b - a).norm() / b.norm()) for a, b in pairwise(before)]
    assert solution.converged
    assert "below stol" in solution.reason
    assert moved[-1] < 1e-3 <= min(moved[:-1])


def test_divergence_and_the_last_cycle_are_no_convergence():
    maps = Squares([15, 7, 3], rate=2.0)
    wild = solver(40, Tolerance(rtol=1e-7, divtol=50), lr=0.4, smoothing=Smoothing(3, 3, 3)).solve(maps, Energy())
    assert not wild.converged
    assert "diverged" in wild.reason
    assert wild.events("norm")[-1]["norm"] > 50 * wild.events("norm")[0]["norm"]
    short = solver(40, Tolerance(rtol=1e-12, max_it=3)).solve(Squares([15, 7, 3], rate=2.0), Energy())
    assert not short.converged
    assert "3 cycles were taken, max_it" in short.reason
    assert [record["cycles"] for record in short.events("norm")] == [0, 1, 2, 3]


def blobs():
    random = torch.Generator().manual_seed(3)
    targets = torch.arange(96) % 3
    inputs = torch.randn(96, 6, generator=random) + 3 * torch.randn(3, 6, generator=random)[targets]
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def network():
    torch.manual_seed(0)
    return mlp((6, 16, 8, 3))


def test_a_network_converges_by_its_loss_on_validation_data():
    model, data = network(), blobs()

    def valid(network):
        with torch.no_grad():
            return {"loss": float(cross_entropy(network(data[0][0]), data[0][1]))}

    options = Options(tolerance=parse_options({"tolerance.rtol": "0.3", "tolerance.measure": "valid"}).tolerance)
    first = valid(model)["loss"]
    solution = FAS("v", torch.optim.AdamW, 1e-2, epochs=60, options=options).solve(
        ng.build_hierarchy(model, data[0][0], n_levels=2), Problem(data, cross_entropy, valid=valid)
    )
    assert solution.converged
    assert "the loss on validation data" in solution.reason
    assert valid(model)["loss"] < 0.3 * first
    with pytest.raises(NetgraphError, match="no figures on validation data"):
        FAS("v", epochs=1, options=options).begin(
            ng.build_hierarchy(network(), data[0][0], n_levels=2), Problem(data, cross_entropy)
        )


def test_the_gradient_of_a_network_is_that_of_the_mean_over_all_minibatches():
    model, data = network(), blobs()
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    gradients = torch.autograd.grad(cross_entropy(model(inputs), targets), list(model.parameters()))
    wanted = math.hypot(*(float(g.norm()) for g in gradients))
    options = Options(tolerance=Tolerance(rtol=1e-9))
    solution = FAS("v", torch.optim.SGD, 1e-2, epochs=1, options=options).solve(
        ng.build_hierarchy(model, inputs[:2], n_levels=2), Problem(data, cross_entropy)
    )
    assert solution.events("norm")[0]["norm"] == pytest.approx(wanted, rel=1e-5)
    assert not solution.converged


def test_a_resumed_run_converges_with_the_same_cycle(tmp_path):
    def begun(callbacks=()):
        many = Squares([15, 7, 3], rate=2.0)
        solve = solver(40, Tolerance(stol=1e-3))
        return solve, solve.begin(many, Energy(), callbacks=callbacks, every=1)

    def pause(run, record):
        if record["event"] == "smooth" and run.steps == 150:
            run.stop("a pause")

    solve, run = begun()
    uninterrupted = solve.finish(run)
    solve, run = begun([pause, Checkpoints(tmp_path)])
    solve.finish(run)
    solve, run = begun([Checkpoints(tmp_path)])
    resume(run, tmp_path)
    again = solve.finish(run)
    assert again.reason == uninterrupted.reason
    assert torch.equal(again.model.u, uninterrupted.model.u)
    assert [r["norm"] for r in again.events("norm")] == [r["norm"] for r in uninterrupted.events("norm")]
    solve, run = begun()
    resume(run, tmp_path)
    assert solve.finish(run).converged  # and takes no further step
    assert run.steps == len(again.events("smooth"))


@pytest.mark.parametrize("wrong", [{"tolerance.measure": "accuracy"}, {"tolerance.tol": "1"}])
def test_mistakes_are_refused_by_name(wrong):
    with pytest.raises(NetgraphError, match="tolerance"):
        parse_options(wrong)
