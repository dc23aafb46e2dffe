"""FAS as a multigrid method: against dense matrices, and on the Bratu problem."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from bratu import Bratu, Energy, Squares, interpolation, manufactured
from quadratics import Lines, dense_two_level
from torch import nn

from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Split, Tau
from netgraph.fas.solver.solver import FAS

OPEN = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"), search=())


def solver(cycle, cycles, *, lr=0.2, pre=2, post=2, coarse=40, gate=OPEN, tau="common"):
    options = Options(Smoothing(pre, post, coarse), Tau(tau, 1), gate, Split("none"))
    return FAS(cycle, torch.optim.SGD, lr, cycles=cycles, schedule="constant", options=options)


@pytest.mark.parametrize("tau", ["common", "several", "whole"])
@pytest.mark.parametrize("seed", range(3))
def test_two_levels_on_a_quadratic_are_the_dense_iteration(seed, tau):
    random = np.random.default_rng(seed)
    M, P, f = random.normal(size=(8, 8)), random.normal(size=(8, 3)), random.normal(size=8)
    R = np.linalg.pinv(P)
    A = M @ M.T / 8 + np.eye(8)
    A_c = P.T @ A @ P + 0.3 * np.eye(3)  # not Galerkin: tau has something to correct
    lr = 0.5 / max(np.linalg.norm(A, 2), np.linalg.norm(A_c, 2))
    wanted = dense_two_level(A, f, A_c, P, R, lr, pre=1, post=2, coarse=5, cycles=4)[0]
    maps = Lines(*map(torch.from_numpy, (A, f, A_c, P, R)))
    solver("v", 4, lr=lr, pre=1, post=2, coarse=5, tau=tau).solve(maps, Energy())
    np.testing.assert_allclose(maps.models[0].x.detach().numpy(), wanted, atol=1e-10, rtol=0)


def test_a_cycle_at_the_minimiser_moves_nothing():
    random = np.random.default_rng(0)
    M, P, f = random.normal(size=(8, 8)), random.normal(size=(8, 3)), random.normal(size=8)
    A = M @ M.T / 8 + np.eye(8)
    maps = Lines(*map(torch.from_numpy, (A, f, P.T @ A @ P + np.eye(3), P, np.linalg.pinv(P))))
    minimiser = torch.from_numpy(np.linalg.solve(A, f))
    with torch.no_grad():
        maps.models[0].x.copy_(minimiser)
    solver("v", 3, lr=0.05).solve(maps, Energy())
    torch.testing.assert_close(maps.models[0].x.detach(), minimiser, atol=1e-12, rtol=0)


@torch.no_grad()
def energy(maps):
    return float(maps.models[0]())


def residual(model):
    (gradient,) = torch.autograd.grad(model(), [model.u])
    return float(gradient.norm())


@pytest.mark.parametrize(
    ("cycle", "sizes"),
    [("v", [15, 7, 3]), ("v", [31, 15, 7, 3]), ("v", [63, 31, 15, 7, 3]), ("w", [15, 7, 3]), ("f", [15, 7, 3])],
)
def test_a_cycle_on_the_bratu_problem_contracts_whatever_the_grid(cycle, sizes):
    maps = Squares(sizes, rate=2.0)
    residuals = []
    for _ in range(7):
        solver(cycle, 1).solve(maps, Energy())
        residuals.append(residual(maps.models[0]))
    rates = [b / a for a, b in pairwise(residuals)]
    assert max(rates[2:]) < 0.35, rates


def test_without_coarse_levels_the_bratu_problem_converges_slowly():
    maps = Squares([31], rate=2.0)
    before = residual(maps.models[0])
    for _ in range(8):
        solver("v", 1, coarse=4).solve(maps, Energy())
    assert residual(maps.models[0]) > 0.2 * before


def test_full_multigrid_reaches_truncation_error_in_one_pass():
    rate, sizes = 2.0, [63, 31, 15, 7, 3]
    maps = Squares(sizes, rate, [manufactured(n, rate)[1] for n in sizes])
    solver("full", 1).solve(maps, Energy())
    exact = manufactured(63, rate)[0]
    error = float((maps.models[0].u.detach() - exact).abs().max())
    discrete = Squares(sizes, rate, [manufactured(n, rate)[1] for n in sizes])
    solver("v", 20).solve(discrete, Energy())
    truncation = float((discrete.models[0].u.detach() - exact).abs().max())
    assert error < 1.5 * truncation, (error, truncation)


def test_the_additive_cycle_converges_with_a_line_search():
    maps = Squares([15, 7, 3], rate=2.0)
    gate = Gate(float("inf"), float("inf"), 0.0, search=(1.0, 0.5, 0.25))
    before = energy(maps)
    solution = solver("additive", 12, gate=gate).solve(maps, Energy())
    lengths = [r["length"] for r in solution.events("up") if r["level"] == 0]
    assert max(lengths) > 0
    reference = Squares([15, 7, 3], rate=2.0)
    solver("v", 12).solve(reference, Energy())
    lowest = energy(reference)
    assert energy(maps) - lowest < 1e-3 * (before - lowest)


def test_the_gradient_of_the_energy_is_the_five_point_equation():
    model = Bratu(5, 2.0)
    with torch.no_grad():
        model.u.copy_(torch.rand(5, 5, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(model(), [model.u])
    u = nn.functional.pad(model.u.detach(), (1, 1, 1, 1))
    h2 = 1 / 36
    wanted = 4 * u[1:-1, 1:-1] - u[:-2, 1:-1] - u[2:, 1:-1] - u[1:-1, :-2] - u[1:-1, 2:]
    torch.testing.assert_close(gradient, wanted - h2 * 2.0 * u[1:-1, 1:-1].exp())


def test_injection_undoes_interpolation():
    maps = Squares([7, 3], rate=1.0)
    y = {"u": torch.rand(3, 3, dtype=torch.float64)}
    torch.testing.assert_close(maps.inject(0, maps.prolong(0, y))["u"], y["u"])
    assert interpolation(7).sum(1).tolist() == [0.5, 1, 1, 1, 1, 1, 0.5]
