"""The gradient of several levels: its expectation, its variance, its samples, its costs, and what it refuses.

Judges are finite differences, gradients of single samples by autograd, covariances by numpy, and a search of all sizes on a grid.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fasnets import batches, hierarchy_of, network, state
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas import Estimate, Options, Problem, Smoothing, Tau, estimate_gradient
from netgraph.fas.checkpoint.checkpoint import Checkpoints, resume
from netgraph.fas.estimate.gradient import evaluate_terms, inject_levels, measure_covariances
from netgraph.fas.estimate.plan import SamplePlan, allocate_samples, choose_plan, count_evaluations, find_moments
from netgraph.fas.estimate.samples import Remainder, cut_pool, take_samples
from netgraph.fas.estimate.step import bound_measurements, measure_estimate
from netgraph.fas.ledger import STEP
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.levels.smoother import read_gradients
from netgraph.fas.levels.vectors import assign
from netgraph.fas.options.groups import Gate
from netgraph.fas.solver.solver import FAS

KINDS = ("multilevel", "multifidelity")
COVARIANCES = [[4.0, 3.4, 2.5], [3.4, 4.0, 2.8], [2.5, 2.8, 3.6]]
COSTS = [16.0, 4.0, 1.0]


def images(n_batches=4, rows=16, seed=0):
    random = torch.Generator().manual_seed(seed)
    clean = [torch.rand(rows, 2, 8, 8, generator=random) for _ in range(n_batches)]
    return [(x + 0.1 * torch.randn(x.shape, generator=random), x) for x in clean]


def in_space(n_levels=3):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2, 3, padding=1))
    return ng.build_hierarchy(model, torch.rand(2, 2, 8, 8), n_levels=n_levels, directions="space")


def in_channels(n_levels=3):
    return hierarchy_of(network(), n_levels)


def in_depth():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, x):
            return x + self.outer(torch.tanh(self.inner(x)))

    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 6), *(Block() for _ in range(4)), nn.Linear(6, 3))
    return ng.build_hierarchy(model, torch.randn(2, 6), n_levels=2, directions="depth")


CASES = {
    "channels": (in_channels, lambda: Problem(batches(4), cross_entropy)),
    "space": (in_space, lambda: Problem(images(), mse_loss, restrict={"inputs": "average", "targets": "average"})),
    "depth": (in_depth, lambda: Problem(batches(4), cross_entropy)),
}


def begun(case, kind="multilevel", **estimate):
    """A run whose levels are in double precision, and its data as one minibatch."""
    make, problem_of = CASES[case]
    hierarchy = make()
    for level in hierarchy.levels:
        level.model.double()
    problem = problem_of()
    problem.batches = [tuple(t.double() if t.is_floating_point() else t for t in batch) for batch in problem.batches]
    run = FAS("v", torch.optim.SGD, 0.1, cycles=1, options=Options(estimate=Estimate(kind, **estimate))).begin(
        hierarchy, problem
    )
    return run, tuple(torch.cat(parts) for parts in zip(*problem.batches, strict=True))


def plain_gradient(run, data):
    """The fine gradient of the mean over some samples, by autograd."""
    model = run.grids[0].model
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(run.problem.value(model, data), list(named.values()))
    return torch.cat([g.flatten() for g in gradients])


def flat(vector, run):
    return torch.cat([vector[name].flatten() for name in run.grids[0].smoother.named])


def estimated(run, pool, plan):
    inject_levels(run.maps, run.grids, 0, plan.levels[-1])
    evaluate_terms(run.maps, run.grids, 0, run.problem.value, pool, plan.list_terms())
    gradient = flat(read_gradients(run.grids[0].smoother), run).clone()
    run.grids[0].smoother.optimizer.zero_grad()
    return gradient


# The map that carries a coarse gradient up


@pytest.mark.parametrize("case", CASES)
def test_the_carried_gradient_is_that_of_the_coarse_loss_as_a_function_of_the_fine_weights(case):
    """d/dt f_c(inject(x + t d)) by central differences, for some directions."""
    run, data = begun(case)
    maps, fine, coarse = run.maps, run.grids[0], run.grids[1]
    inject_levels(maps, run.grids, 0, 1)
    run.problem.value(coarse.model, data).backward()
    carried = maps.distribute(0, read_gradients(coarse.smoother))
    random = torch.Generator().manual_seed(3)
    for _ in range(4):
        d = {name: torch.randn(p.shape, generator=random, dtype=p.dtype) for name, p in fine.smoother.named.items()}

        def value(t, d=d):
            moved = {name: x.detach() + t * d[name] if name in d else x for name, x in fine.x.items()}
            assign(coarse.x, maps.inject(0, moved))
            with torch.no_grad():
                return float(run.problem.value(coarse.model, data))

        slope = (value(1e-5) - value(-1e-5)) / 2e-5
        assert slope == pytest.approx(float(sum((carried[name] * d[name]).sum() for name in d)), rel=1e-6, abs=1e-9)


# Expectation


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_with_all_data_in_every_term_the_estimate_is_the_fine_gradient(case, kind):
    run, data = begun(case)
    n, levels = len(data[0]), tuple(range(len(run.grids)))
    plan = SamplePlan(
        kind,
        levels,
        (n,) * len(levels),
        (1.0, *(0.7 for _ in levels[1:])) if kind == KINDS[1] else (1.0,) * len(levels),
    )
    estimate = estimated(run, [data] * len(levels), plan)
    torch.testing.assert_close(estimate, plain_gradient(run, data), rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for grid in run.grids for p in grid.model.parameters())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_many_estimates_is_the_fine_gradient_and_their_variance_the_predicted_one(case, kind):
    run, data = begun(case)
    n, draws, n_levels = len(data[0]), 300, len(run.grids)
    inject_levels(run.maps, run.grids, 0, n_levels - 1)
    covariances = measure_covariances(run.maps, run.grids, 0, run.problem.value, [data], n)
    covariances = [[c * (n - 1) / n for c in row] for row in covariances]  # of drawing from these n with replacement
    chain = tuple(range(n_levels))
    moments = find_moments("multilevel", covariances, COSTS, chain)
    sizes = (2, 3, 7)[:n_levels]
    coefficients = (1.0,) * n_levels
    if kind == "multifidelity":
        coefficients = (1.0, *(covariances[0][j] / covariances[j][j] for j in chain[1:]))
        shares = [covariances[0][j] ** 2 / covariances[j][j] / covariances[0][0] for j in chain] + [0.0]
        variances = [covariances[0][0] * (shares[j] - shares[j + 1]) for j in chain]
    else:
        variances = moments.variances
    plan = SamplePlan(kind, chain, sizes, coefficients)
    random = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(draws):
        rows = torch.randint(n, (plan.n_samples,), generator=random)
        estimates.append(estimated(run, [tuple(t[rows] for t in data)], plan))
    estimates = torch.stack(estimates)
    predicted = sum(v / size for v, size in zip(variances, sizes, strict=True))
    variance = float(estimates.var(0).sum())
    assert variance == pytest.approx(predicted, rel=0.2)
    error = float((estimates.mean(0) - plain_gradient(run, data)).square().sum())
    assert predicted / draws / 8 < error < 4 * predicted / draws  # its expectation is predicted / draws
    scores = (estimates.mean(0) - plain_gradient(run, data)) / (estimates.std(0) / math.sqrt(draws) + 1e-15)
    assert float(scores.abs().max()) < 5


def test_covariances_are_those_of_the_gradients_of_single_samples():
    run, data = begun("space")
    n = 12
    inject_levels(run.maps, run.grids, 0, 2)
    covariances = measure_covariances(run.maps, run.grids, 0, run.problem.value, [data], n)
    rows = []
    for grid in run.grids:  # levels of a resolution have the same parameters
        parameters = list(grid.model.parameters())
        samples = [tuple(t[i : i + 1] for t in data) for i in range(n)]
        gradients = [torch.autograd.grad(run.problem.value(grid.model, sample), parameters) for sample in samples]
        rows.append(np.stack([np.concatenate([g.numpy().ravel() for g in each]) for each in gradients]))
    for i, j in itertools.product(range(3), range(3)):
        size = rows[i].shape[1]
        both = np.cov(rows[i].T, rows[j].T)
        assert covariances[i][j] == pytest.approx(np.trace(both[:size, size:]), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_of_the_samples_give_the_estimate_and_its_variance(kind):
    run, data = begun("space")
    plan = SamplePlan(kind, (0, 1, 2), (3, 6, 14), (1.0, 1.0, 1.0) if kind == "multilevel" else (1.0, 0.9, 0.8))
    lower, upper = plan.halve()
    random = torch.Generator().manual_seed(5)
    variances, estimates = [], []
    for _ in range(200):
        rows = torch.randint(len(data[0]), (plan.n_samples,), generator=random)
        pool = [tuple(t[rows] for t in data)]
        inject_levels(run.maps, run.grids, 0, 2)
        variances.append(measure_estimate(run.maps, run.grids, 0, run.problem.value, pool, plan)[1])
        estimates.append(flat(read_gradients(run.grids[0].smoother), run).clone())
        run.grids[0].smoother.optimizer.zero_grad()
    pools = cut_pool(pool, 0, lower.n_samples), cut_pool(pool, lower.n_samples, plan.n_samples)
    by_hand = sum(estimated(run, part, half) for part, half in zip(pools, (lower, upper), strict=True)) / 2
    torch.testing.assert_close(estimates[-1], by_hand, rtol=1e-10, atol=1e-12)
    assert np.mean(variances) == pytest.approx(float(torch.stack(estimates).var(0).sum()), rel=0.25)


# Numbers of samples


@pytest.mark.parametrize("budget", [100.0, 333.0, 1024.0])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_within_a_hundredth_of_the_best_on_the_whole_grid(kind, budget):
    moments = find_moments(kind, COVARIANCES, COSTS, (0, 1, 2))
    sizes = allocate_samples(moments.variances, moments.costs, budget)
    assert sum(n * c for n, c in zip(sizes, moments.costs, strict=True)) <= budget

    def variance(sizes):
        return sum(v / n for v, n in zip(moments.variances, sizes, strict=True))

    best = math.inf
    a, b, c = moments.costs
    for first in range(2, int(budget / a) + 1):
        for second in range(2, int((budget - a * first) / b) + 1):
            third = int((budget - a * first - b * second) / c)
            if third >= 2:
                best = min(best, variance((first, second, third)))
    assert variance(sizes) <= 1.01 * best


def test_sizes_follow_the_root_of_variance_over_cost():
    variances, costs = [1.0, 4.0, 9.0], [100.0, 25.0, 1.0]
    sizes = np.array(allocate_samples(variances, costs, 1e7))
    wanted = np.sqrt(np.array(variances) / costs)
    np.testing.assert_allclose(sizes / sizes[0], wanted / wanted[0], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_levels_are_the_best_of_all_and_no_plan_is_worse_than_plain(kind):
    random = np.random.default_rng(0)
    kept = set()
    for _ in range(60):
        factor = random.normal(size=(3, 8))
        factor[1:] += random.uniform(0, 4) * factor[0]
        covariances = (factor @ factor.T).tolist()
        choice = choose_plan(kind, covariances, COSTS, 512.0)
        assert choice.predicted <= covariances[0][0] / 32 * (1 + 1e-12)
        cost = sum(n * COSTS[level] for level, n in count_evaluations(choice.plan.list_terms()).items())
        assert cost <= 512 * (1 + 1e-12)
        kept.add(choice.plan.levels)
    assert len(kept) >= 3
    assert (0,) in kept


def test_variances_that_are_not_finite_leave_a_plain_gradient():
    choice = choose_plan("multilevel", [[math.nan, 1.0], [1.0, 1.0]], [4.0, 1.0], 64.0, level=2)
    assert (choice.plan.levels, choice.plan.sizes) == ((2,), (16,))


def test_samples_are_taken_in_order_and_once_from_minibatches_of_any_length():
    data = [
        (torch.arange(start, stop)[:, None], {"y": torch.arange(start, stop)})
        for start, stop in ((0, 5), (5, 6), (6, 13))
    ]
    stream, remainder, seen = itertools.cycle(data), Remainder(), []
    for n in (3, 4, 1, 9, 9):
        pool = take_samples(stream, remainder, n)
        assert len(pool) == 1
        assert len(pool[0][0]) == n
        assert torch.equal(pool[0][0][:, 0], pool[0][1]["y"])
        seen += pool[0][1]["y"].tolist()
    assert seen == [*range(13), *range(13)]
    assert remainder.largest == 7
    assert not remainder.batches


def test_minibatches_that_do_not_fit_together_stay_apart():
    texts = [torch.zeros(4, 5), torch.ones(4, 7)]
    pool = take_samples(iter(texts), Remainder(), 6)
    assert [tuple(part.shape) for part in pool] == [(4, 5), (2, 7)]
    assert [len(part) for part in cut_pool(pool, 3, 5)] == [1, 1]


# Runs


def solved(case="space", kind="multilevel", cycle="kaskade", callbacks=(), every=50, **more):
    make, problem_of = CASES[case]
    hierarchy = make()
    share = {"share": (1.0,) + (0.0,) * (len(hierarchy.levels) - 1)} if cycle == "kaskade" else {}
    options = Options(Smoothing(2, 2, 2), estimate=Estimate(kind, every=5, pilot=4), **more.pop("groups", {}))
    solver = FAS(cycle, torch.optim.Adam, 1e-2, options=options, **{"epochs": 3, **share, **more})
    return hierarchy, solver.solve(hierarchy, problem_of(), callbacks=callbacks, every=every)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reports_its_plans_and_counts_all_of_their_costs(kind):
    hierarchy, solution = solved(kind=kind)
    reports = solution.list_estimates()
    assert len(reports) == 3  # 12 steps, measured every 5
    assert all(report.measured is not None and report.plain > 0 for report in reports)
    for report in reports:
        assert report.plain == pytest.approx(report.spreads[0] / 16)
        assert report.correlations[0] == pytest.approx(1)
        assert max(map(abs, report.correlations)) <= 1 + 1e-9
    flops = HierarchyMaps(hierarchy).flops
    rows = {(row["level"], row["kind"]): row["flops"] for row in solution.ledger.rows()}
    spent = dict.fromkeys(range(3), 0)
    for report, steps in zip(reports, (5, 5, 2), strict=True):
        plan = SamplePlan(report.kind, report.levels, report.sizes, report.coefficients)
        for level, n in count_evaluations(plan.list_terms()).items():
            spent[level] += steps * n
        cost = sum(STEP * flops[level] * n for level, n in count_evaluations(plan.list_terms()).items())
        assert 0.8 * 16 * STEP * flops[0] < cost <= 16 * STEP * flops[0]
    for level, n in spent.items():
        assert rows.get((level, "smooth"), 0) == pytest.approx(STEP * flops[level] * n)
        assert solution.ledger.samples.get(level, 0) == n
        checked = 5 * 8 * flops[level]  # five forward passes of eight samples
        assert rows[level, "variance"] == pytest.approx(3 * 4 * STEP * flops[level] + checked)
    assert 3 * 4 * STEP * sum(flops) <= bound_measurements(
        0, 12, flops, Options(estimate=Estimate(kind, every=5, pilot=4))
    )
    assert "gradient of level 0 from" in str(solution)


@pytest.mark.parametrize("cost", [0.25, 0.6])
def test_a_cheaper_estimate_costs_that_share_of_a_plain_step(cost):
    hierarchy = in_space()
    options = Options(estimate=Estimate("multilevel", cost=cost, pilot=8))
    solver = FAS("kaskade", torch.optim.Adam, 1e-2, epochs=1, share=(1, 0, 0), options=options)
    run = solver.begin(hierarchy, CASES["space"][1]())
    solver.finish(run)
    spent = sum(row["flops"] for row in run.ledger.rows() if row["kind"] == "smooth")
    plain = 4 * 16 * STEP * run.maps.flops[0]
    assert 0.6 * cost * plain < spent <= cost * plain
    assert run.planned_flops == pytest.approx(cost * plain + bound_measurements(0, 4, run.maps.flops, options))


@pytest.mark.parametrize("levels", [1, 3])
def test_a_level_without_a_coarser_one_is_trained_plainly_bit_for_bit_and_says_so(levels):
    ended = {}
    for kind in ("minibatch", *KINDS):
        hierarchy = ng.Hierarchy(in_channels().levels[:levels])
        share = (0,) * (levels - 1) + (1,)
        solver = FAS("kaskade", torch.optim.Adam, 1e-2, epochs=2, share=share, options=Options(estimate=Estimate(kind)))
        solution = solver.solve(hierarchy, Problem(batches(), cross_entropy))
        ended[kind] = state(hierarchy.levels[-1].model)
        assert ("There is no coarser level" in str(solution)) == (kind != "minibatch")
    assert all(torch.equal(ended["minibatch"][name], ended[kind][name]) for kind in KINDS for name in ended[kind])


def test_with_no_better_plan_than_plain_every_step_is_that_of_its_minibatch():
    """A coarse level that is another network: the estimate is the mean gradient of as many fresh samples as a minibatch has."""
    hierarchy = in_channels(2)

    class Other(HierarchyMaps):
        def inject(self, level, state):
            random = torch.Generator().manual_seed(int(1e4 * float(next(iter(state.values())).abs().sum())))
            return {name: torch.randn(x.shape, generator=random) for name, x in super().inject(level, state).items()}

    solver = FAS(
        "kaskade",
        torch.optim.SGD,
        0.1,
        epochs=1,
        share=(1, 0),
        schedule="constant",
        options=Options(estimate=Estimate("multilevel", pilot=16)),
    )
    solution = solver.solve(Other(hierarchy), Problem(batches(), cross_entropy))
    (report,) = solution.list_estimates()
    assert (report.levels, report.sizes, report.gain) == ((0,), (16,), 1.0)
    data, model = batches(), network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pool = [tuple(torch.cat(parts) for parts in zip(*data, data[0], strict=True))]  # the pilot took the first minibatch
    for i in range(12):
        ((x, y),) = cut_pool(pool, 16 * (i + 1), 16 * (i + 2))
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, x in state(model).items():
        torch.testing.assert_close(state(hierarchy.levels[0].model)[name], x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_training_by_estimates_lowers_the_loss_as_plain_training_does(kind):
    falls = {}
    for each in ("minibatch", kind):
        _, solution = solved(kind=each, epochs=20, every=1)
        losses = [record["loss"] for record in solution.events("smooth")]
        falls[each] = np.mean(losses[:8]) - np.mean(losses[-8:])
    assert falls[kind] > 0.7 * falls["minibatch"] > 0


@pytest.mark.parametrize(("cycle", "case"), [("kaskade", "space"), ("v", "channels"), ("full", "space")])
def test_a_resumed_run_ends_with_the_same_bits(cycle, case, tmp_path):
    def begin(callbacks=()):
        make, problem_of = CASES[case]
        groups = {"gate": Gate.open(), "tau": Tau(batches=2)} if cycle != "kaskade" else {}
        options = Options(Smoothing(2, 2, 2), estimate=Estimate("multilevel", every=5, pilot=5), **groups)
        share = {"share": (0.5, 0.5, 0.0)} if cycle == "kaskade" else {}
        solver = FAS(cycle, torch.optim.Adam, 1e-2, epochs=4, options=options, **share)
        return solver, solver.begin(make(), problem_of(), callbacks=callbacks, every=1)

    def stop(run, record):
        if record["event"] == "smooth" and run.steps == 11:
            run.stop("enough")

    solver, whole = begin()
    solver.finish(whole)
    solver, first = begin([stop, Checkpoints(tmp_path)])
    solver.finish(first)
    solver, second = begin()
    assert resume(second, tmp_path)
    assert second.steps == 11
    assert second.estimates
    solver.finish(second)
    for a, b in zip(whole.grids, second.grids, strict=True):
        assert all(torch.equal(a.x[name], b.x[name]) for name in a.x)
    records = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in run.history if r["event"] == "estimate"]
        for run in (whole, second)
    ]
    assert records[0] == records[1]
    assert records[0]
    assert [{**row, "seconds": 0} for row in whole.ledger.rows() if row["flops"]] == [
        {**row, "seconds": 0} for row in second.ledger.rows() if row["flops"]
    ]


def test_a_v_cycle_smooths_by_estimates_on_the_finest_level_and_plainly_where_tau_was_formed():
    _, solution = solved("channels", cycle="v", epochs=6, groups={"gate": Gate.open(), "tau": Tau(batches=2)})
    assert solution.events("up")
    assert {record["level"] for record in solution.events("estimate") if record["kind"] != "minibatch"} == {0}


def test_the_coarsest_levels_without_a_share_do_not_start_the_finer_ones():
    hierarchy = in_channels()
    run = FAS("kaskade", epochs=1, share=(0.5, 0.5, 0.0)).begin(hierarchy, Problem(batches(), cross_entropy))
    assert [(visit.kind, visit.level) for visit in run.visits] == [
        ("smooth", 1), ("end", 1), ("start", 0), ("smooth", 0), ("end", 0),
    ]  # fmt: skip


# The function alone


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_alone_leaves_networks_modes_gradients_and_random_numbers_as_they_were(kind):
    hierarchy, problem = in_space(), CASES["space"][1]()
    model = hierarchy.levels[0].model.eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = [state(level.model) for level in hierarchy.levels]
    random = torch.get_rng_state()
    estimate = estimate_gradient(hierarchy, problem, options=Estimate(kind, pilot=16))
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[2].weight.grad is None
    for level, old in zip(hierarchy.levels, before, strict=True):
        assert all(torch.equal(old[name], x) for name, x in state(level.model).items())
    assert str(estimate).startswith("loss ")
    assert estimate.gradient.keys() == dict(model.named_parameters()).keys()
    again = estimate_gradient(hierarchy, problem, options=Estimate(kind, pilot=16))
    assert all(torch.equal(estimate.gradient[name], g) for name, g in again.gradient.items())


def test_one_level_alone_has_the_gradient_of_its_first_minibatch():
    model, data = network(), batches(2)
    estimate = estimate_gradient(ng.Hierarchy([hierarchy_of(model, 2).levels[0]]), Problem(data, cross_entropy))
    loss = cross_entropy(model(data[0][0]), data[0][1])
    for name, gradient in zip(
        dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        assert torch.equal(estimate.gradient[name], gradient)
    assert "no coarser level" in str(estimate)


# Refusals


def with_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return ng.build_hierarchy(model, torch.randn(2, 6), n_levels=2)


def test_batch_norms_sums_and_single_samples_are_refused_by_name():
    def begin(hierarchy, problem, cycle="v", **options):
        options = Options(estimate=Estimate("multilevel"), **options)
        return FAS(cycle, torch.optim.SGD, 0.1, cycles=1, options=options).begin(hierarchy, problem)

    data = batches(4)
    with pytest.raises(NetgraphError, match=r"statistics of minibatches|mean over its halves"):
        begin(with_norm(), Problem(data, cross_entropy))
    with pytest.raises(NetgraphError, match="mean over its halves"):
        begin(in_channels(), Problem(data, lambda o, t: cross_entropy(o, t, reduction="sum")))
    with pytest.raises(NetgraphError, match="has 1 sample"):
        begin(in_channels(), Problem([(x[:1], y[:1]) for x, y in data], cross_entropy))
    with pytest.raises(NetgraphError, match="tensors of 4 and 16 rows"):
        begin(in_channels(), Problem([(x, y[:4]) for x, y in data], lambda o, t: o.square().mean()))
    with pytest.raises(NetgraphError, match="additive cycle"):
        begin(in_channels(), Problem(data, cross_entropy), cycle="additive")


def test_a_norm_whose_loss_does_not_show_its_statistics_is_refused_by_its_buffers():
    """The last layer is zero, so the loss of halves is that of the whole."""
    hierarchy = with_norm()
    for level in hierarchy.levels:
        nn.init.zeros_(dict(level.model.named_parameters())["3.weight"])
    options = Options(estimate=Estimate("multilevel"))
    with pytest.raises(NetgraphError, match="running_mean of level 0 holds statistics"):
        FAS("v", torch.optim.SGD, 0.1, cycles=1, options=options).begin(hierarchy, Problem(batches(4), cross_entropy))


def test_dropout_is_no_reason_to_refuse():
    hierarchy = hierarchy_of(network(dropout=True), 2)
    options = Options(estimate=Estimate("multilevel", pilot=4))
    solution = FAS("kaskade", torch.optim.SGD, 0.1, epochs=1, share=(1, 0), options=options).solve(
        hierarchy, Problem(batches(4), cross_entropy)
    )
    assert solution.events("estimate")


def test_levels_without_distribute_or_costs_are_refused():
    class Bare:
        def __init__(self, maps, flops):
            self.models, self.flops = maps.models, flops
            self.inject, self.prolong, self.restrict, self.family = (
                maps.inject,
                maps.prolong,
                maps.restrict,
                maps.family,
            )

    maps = HierarchyMaps(in_channels(2))
    solver = FAS("v", torch.optim.SGD, 0.1, cycles=1, options=Options(estimate=Estimate("multilevel")))
    with pytest.raises(NetgraphError, match="Bare without distribute"):
        solver.begin(Bare(maps, maps.flops), Problem(batches(4), cross_entropy))
    maps.flops = [0.0, 0.0]
    with pytest.raises(NetgraphError, match="above 0"):
        solver.begin(maps, Problem(batches(4), cross_entropy))


def test_a_loop_of_ones_own_has_no_estimated_steps():
    hierarchy = in_channels(2)
    optimizer = torch.optim.SGD(hierarchy.levels[0].model.parameters(), 0.1)
    for options in (Options(estimate=Estimate("multilevel")), Options(levels={1: {"estimate.kind": "multilevel"}})):
        with pytest.raises(NetgraphError, match=r"estimate\.kind"):
            ng.fas.Multigrid(optimizer, hierarchy, options=options)
    with pytest.raises(NetgraphError, match="plain gradient"):
        estimate_gradient(hierarchy, Problem(batches(4), cross_entropy), options=replace(Estimate()))
