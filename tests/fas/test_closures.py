"""Optimizers that evaluate the loss themselves, as LBFGS does, as smoothers: against torch's own loop, dense algebra and counts."""

import math

import numpy as np
import pytest
import torch
from bratu import Squares, manufactured
from fasnets import batches, hierarchy_of, network, state
from quadratics import Quadratic
from torch.nn.functional import cross_entropy

from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.errors import NetgraphError
from netgraph.fas import FAS, Estimate, Gate, Multigrid, Options, Problem, Smoothing, Tau, Tolerance
from netgraph.fas.checkpoint.run_state import capture_state
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.smoother import Smoother
from netgraph.optim.optimizers import needs_closure


def make_lbfgs(groups, lr):
    """LBFGS without the absolute tolerances of torch, below which it takes no step."""
    return torch.optim.LBFGS(
        groups, lr=lr, max_iter=4, history_size=5, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )


def single(model):
    return build_single_level(model, torch.randn(2, 6))


class Energy:
    """A problem without data: the energy that a level returns."""

    batches = (None,)

    def value(self, model, batch):
        return model()


def test_only_optimizers_that_evaluate_the_loss_themselves_need_a_closure():
    weights = [torch.zeros(2, requires_grad=True)]
    for kind in (torch.optim.Adam, torch.optim.SGD, torch.optim.Rprop):
        assert not needs_closure(kind(weights))
    assert needs_closure(make_lbfgs(weights, 1.0))


def test_one_level_is_the_loop_of_torch_bit_for_bit():
    model, by_hand = network(), network()
    problem = Problem(batches(1), cross_entropy)
    FAS("kaskade", make_lbfgs, 0.5, epochs=6, schedule="constant").solve(single(model), problem)
    optimizer = make_lbfgs(by_hand.parameters(), 0.5)
    inputs, targets = problem.batches[0]

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(by_hand(inputs), targets)
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
    for name, tensor in state(by_hand).items():
        assert torch.equal(state(model)[name], tensor)


def test_a_right_hand_side_moves_the_minimum_as_dense_algebra_says():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 6))
    A, f, b = (
        torch.as_tensor(A @ A.T + np.eye(6)),
        torch.as_tensor(rng.standard_normal(6)),
        torch.as_tensor(rng.standard_normal(6)),
    )
    model = Quadratic(A, f)
    smoother = Smoother(model, make_lbfgs, 1.0)
    for _ in range(10):
        result = smoother.step(Energy().value, [None], {"x": b})
    assert result.taken
    np.testing.assert_allclose(model.x.detach(), np.linalg.solve(A, f + b), atol=1e-8)


def test_every_evaluation_is_counted():
    seen = []

    class Counted(Problem):
        def value(self, model, batch):
            loss = super().value(model, batch)
            seen.append(loss.requires_grad)
            return loss

    hierarchy = single(network())
    problem = Counted(batches(1), cross_entropy)
    solution = FAS("kaskade", make_lbfgs, 0.5, epochs=5, schedule="constant").solve(hierarchy, problem)
    rows = len(problem.batches[0][0]) / 2  # the levels count the two rows of the example
    assert sum(seen) > 5
    assert solution.flops == pytest.approx(STEP * rows * hierarchy.levels[0].flops * sum(seen))


def test_a_step_to_numbers_that_are_not_finite_is_undone():
    model = network()
    smoother, before = Smoother(model, torch.optim.LBFGS, 1.0), state(model)

    def value(model, batch):
        return sum((p**2).sum() for p in model.parameters()) * math.nan

    result = smoother.step(value, [None], {})
    assert not result.taken
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())

    def steep(model, batch):
        return sum((p * 1e38).sum() for p in model.parameters())

    smoother = Smoother(model, torch.optim.LBFGS, 1e30)
    assert not smoother.step(steep, [None], {}).taken
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())
    assert not smoother.optimizer.state


def test_a_moved_x_teaches_no_curvature():
    """The pair of a step and the change of the gradient since is wrong once x was moved. The pairs before it stay."""
    model = Quadratic(torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64)), torch.ones(8, dtype=torch.float64))
    smoother = Smoother(model, make_lbfgs, 0.3)
    for _ in range(2):
        smoother.step(Energy().value, [None], {})
    saved = smoother.optimizer.state[model.x]
    pairs = [(d.clone(), s.clone()) for d, s in zip(saved["old_dirs"], saved["old_stps"], strict=True)]
    with torch.no_grad():
        model.x += 100 * torch.rand(8, dtype=torch.float64)
    smoother.forget_last_step()
    smoother.optimizer.param_groups[0]["max_iter"] = 1
    smoother.step(Energy().value, [None], {})
    after = list(zip(saved["old_dirs"], saved["old_stps"], strict=True))
    assert len(after) == len(pairs)
    assert all(
        torch.equal(a, b) for pair, old in zip(after, pairs, strict=True) for a, b in zip(pair, old, strict=True)
    )
    for y, s in after:  # of the matrix itself
        torch.testing.assert_close(y, model.A @ s)


@pytest.mark.parametrize("cycle", ["v", "full"])
def test_cycles_solve_the_bratu_problem(cycle):
    sizes = (31, 15, 7)
    solutions, sources = zip(*(manufactured(n, 1.0) for n in sizes), strict=True)
    maps = Squares(sizes, 1.0, sources)
    options = Options(
        Smoothing(pre=1, post=1, coarse=8), Tau(batches=1), Gate.open(), tolerance=Tolerance(rtol=1e-5, max_it=30)
    )
    solution = FAS(cycle, make_lbfgs, 1.0, cycles=30, schedule="constant", options=options).solve(maps, Energy())
    assert solution.converged, solution.reason
    assert float((maps.models[0].u.detach() - solutions[0]).abs().max()) < 2e-3  # the error of the grid


def test_cycles_cost_less_than_lbfgs_alone():
    """Operations until the gradient is 1e-4 of the first: four levels, and the finest one by itself."""
    costs = []
    for sizes, steps in (((63,), Smoothing(coarse=1)), ((63, 31, 15, 7), Smoothing(pre=1, post=1, coarse=8))):
        maps = Squares(sizes, 1.0, [manufactured(n, 1.0)[1] for n in sizes])
        options = Options(steps, Tau(batches=1), Gate.open(), tolerance=Tolerance(rtol=1e-4, max_it=200))
        solution = FAS("v", make_lbfgs, 1.0, cycles=200, schedule="constant", options=options).solve(maps, Energy())
        assert solution.converged, solution.reason
        costs.append(solution.flops - solution.ledger.flops[0, "norm"])
    assert costs[1] < costs[0] / 2


def test_weight_decay_that_makes_groups_is_refused():
    solver = FAS("v", torch.optim.LBFGS, 1.0, cycles=1, weight_decay=0.1)
    with pytest.raises(NetgraphError, match=r"the optimizer refuses 2 groups of parameters .*which weight_decay makes"):
        solver.begin(hierarchy_of(network()), Problem(batches(1), cross_entropy))


def test_a_loop_of_ones_own_takes_steps_of_lbfgs_but_cannot_begin_on_coarse_levels():
    model = network()
    hierarchy = hierarchy_of(model)
    optimizer = Multigrid(torch.optim.LBFGS(model.parameters(), lr=0.5), hierarchy, every=2)
    inputs, targets = batches(1)[0]

    def loss(model, inputs, targets):
        return cross_entropy(model(inputs), targets)

    losses = [float(optimizer.step(loss, inputs, targets)) for _ in range(5)]
    assert losses[-1] < losses[0]
    with pytest.raises(NetgraphError, match="LBFGS cannot begin on coarse levels"):
        Multigrid(torch.optim.LBFGS(model.parameters()), hierarchy, begin=(3,))


def test_a_checkpoint_of_lbfgs_is_refused_by_name():
    solver = FAS("v", make_lbfgs, 0.5, cycles=1, schedule="constant")
    run = solver.begin(hierarchy_of(network()), Problem(batches(1), cross_entropy))
    solver.finish(run)
    with pytest.raises(NetgraphError, match=r"the optimizer keeps a .*Take another optimizer"):
        capture_state(run)


def test_gradients_from_several_levels_are_refused():
    options = Options(estimate=Estimate("multilevel"))
    solver = FAS("kaskade", make_lbfgs, 0.5, epochs=2, schedule="constant", options=options)
    with pytest.raises(NetgraphError, match=r"LBFGS evaluates the loss itself, .*set estimate.kind to minibatch"):
        solver.begin(hierarchy_of(network()), Problem(batches(), cross_entropy))
