"""Laws of FAS on networks, some of which hold bit for bit."""

import copy

import numpy as np
import pytest
import torch
from fasnets import OPEN, OPTIMIZERS, assert_same_bits, batches, hierarchy_of, mean_loss, network, state, unmerged
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.fas.levels.correction import apply_correction
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.levels.moments import read_moments
from netgraph.fas.levels.tau import form_coarse_problem
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Split, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.run import REFUSED
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.utils.choices import NESTED


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cycle", ["kaskade", "v"])
def test_a_hierarchy_in_which_nothing_merges_is_plain_training_bit_for_bit(cycle, name):
    optimizer, lr = OPTIMIZERS[name]
    alone, many = network(), network()
    options = Options(Smoothing(pre=2, post=1, coarse=3), Tau(batches=3), OPEN)
    problem = Problem(batches(), cross_entropy)
    schedule = (
        None if cycle in NESTED else "one-cycle"
    )  # nested iteration has another default, and so has plain training
    make_plain_solver(optimizer=optimizer, lr=lr, epochs=3, schedule=schedule).solve(
        ng.Hierarchy([ng.Level(alone, ng.trace(alone, torch.randn(2, 6)))]), problem
    )
    FAS(cycle, optimizer, lr, epochs=3, options=options).solve(unmerged(many), problem)
    assert_same_bits(state(alone), state(many))


def test_one_level_is_the_usual_training_loop():
    solved, by_hand = network(), network()
    data = batches()
    solver = make_plain_solver(optimizer=torch.optim.AdamW, lr=1e-2, epochs=2, schedule="cosine")
    solver.solve(ng.Hierarchy([ng.Level(solved, ng.trace(solved, torch.randn(2, 6)))]), Problem(data, cross_entropy))
    weights = [p for p in by_hand.parameters() if p.ndim > 1], [p for p in by_hand.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": w} for w in weights], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
    for inputs, targets in data * 2:
        optimizer.zero_grad()
        cross_entropy(by_hand(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    for a, b in zip(solved.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cycle", ["v", "w", "f", "full", "kaskade", "additive"])
def test_every_cycle_with_every_optimizer_lowers_the_loss_and_ends_finite(cycle, name):
    optimizer, lr = OPTIMIZERS[name]
    model, data = network(), batches(4)
    before = mean_loss(model, data)
    options = Options(Smoothing(2, 2, 4), Tau(batches=2))
    solution = FAS(cycle, optimizer, lr, epochs=25, options=options).solve(
        hierarchy_of(model), Problem(data, cross_entropy)
    )
    assert mean_loss(model, data) < 0.8 * before
    assert all(p.isfinite().all() for p in model.parameters())
    assert solution.reason == "the 25 epochs are spent"
    assert not solution.converged


@pytest.mark.parametrize("kind", ["common", "several", "whole"])
def test_the_coarse_level_descends_the_restricted_fine_gradient_at_first(kind):
    model = network().double()
    maps = HierarchyMaps(hierarchy_of_double(model))
    data = [(x.double(), y) for x, y in batches(3)]
    problem = Problem(data, cross_entropy)
    run = FAS("v", torch.optim.SGD, 0.1, cycles=1, options=Options(tau=Tau(kind, 3))).begin(maps, problem)
    fine, coarse = run.grids[:2]
    for name, value in maps.inject(0, fine.x).items():
        coarse.x[name].copy_(value)
    coarse_problem = form_coarse_problem(maps, 0, fine, coarse, problem.value, data, each=kind == "several")
    for model_ in maps.models[:2]:
        model_.zero_grad()
        (sum(cross_entropy(model_(x), y) for x, y in data) / 3).backward()
    down = maps.restrict(0, {n: p.grad for n, p in maps.models[0].named_parameters()})
    mean_b = {n: sum(b[n] for b in coarse_problem.rhs) / len(coarse_problem.rhs) for n in coarse_problem.rhs[0]}
    for name, p in maps.models[1].named_parameters():
        torch.testing.assert_close(p.grad - mean_b[name], down[name], atol=1e-12, rtol=0)


def hierarchy_of_double(model):
    return ng.build_hierarchy(model, torch.randn(2, 6, dtype=torch.float64), n_levels=2)


def test_tau_is_zero_where_the_fine_network_is_a_prolonged_one():
    model = network().double()
    maps = HierarchyMaps(hierarchy_of_double(model))
    problem = Problem([(x.double(), y) for x, y in batches(2)], cross_entropy)
    run = FAS("v", torch.optim.SGD, 0.1, cycles=1).begin(maps, problem)
    fine, coarse = run.grids[:2]
    for name, value in maps.prolong(0, maps.inject(0, fine.x)).items():
        fine.x[name].copy_(value)
    for name, value in maps.inject(0, fine.x).items():
        coarse.x[name].copy_(value)
    coarse_problem = form_coarse_problem(maps, 0, fine, coarse, problem.value, list(problem.batches), each=False)
    assert coarse_problem.tau < 1e-12 * max(coarse_problem.restricted, 1)
    assert abs(coarse_problem.gap) < 1e-12


def test_a_level_begins_as_the_function_that_the_coarser_one_ended_as_and_its_copies_part():
    model = network()
    hierarchy = hierarchy_of(model, 2)
    seen = {}

    def look(run, record):
        if record["event"] == "start":
            x = torch.randn(5, 6)
            with torch.no_grad():
                seen["error"] = float((run.grids[0].model(x) - run.grids[1].model(x)).abs().max())

    problem = Problem(batches(), cross_entropy)
    FAS("kaskade", torch.optim.AdamW, 1e-2, epochs=4).solve(hierarchy, problem, callbacks=[look])
    assert seen["error"] < 1e-5
    ((axis, transfer),) = list(hierarchy.levels[1].transfers.items())[:1]
    assert axis == "0"
    pair = np.flatnonzero(transfer.aggregates == np.bincount(transfer.aggregates).argmax())
    rows = model[0].weight.detach()[pair]
    assert float((rows[0] - rows[1]).norm()) > 1e-4 * float(rows[0].norm())


def test_without_noise_copies_never_part():
    model = network()
    hierarchy = hierarchy_of(model, 2)
    FAS("kaskade", torch.optim.AdamW, 1e-2, epochs=4, options=Options(split=Split("none"))).solve(
        hierarchy, Problem(batches(), cross_entropy)
    )
    for axis, transfer in hierarchy.levels[1].transfers.items():
        weight = model.get_parameter(f"{axis}.weight").detach()
        copied = transfer.copy(transfer.average(weight, 0), 0)
        torch.testing.assert_close(weight, copied, atol=1e-6, rtol=0)


def copy_of(smoother):
    return copy.deepcopy(read_moments(smoother))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_come_down_from_where_they_went_up(name):
    optimizer, lr = OPTIMIZERS[name]
    model = network()
    maps = HierarchyMaps(hierarchy_of(model, 2))
    seen = {}

    def look(run, record):
        if record["event"] == "smooth" and record["level"] == 1:
            seen["coarse"] = copy_of(run.grids[1].smoother)
        if record["event"] == "start":
            seen["fine"] = copy_of(run.grids[0].smoother)
            assert not run.grids[1].smoother.optimizer.state

    FAS("kaskade", optimizer, lr, epochs=2).solve(maps, Problem(batches(), cross_entropy), callbacks=[look])
    assert seen["fine"].keys() == seen["coarse"].keys()
    assert seen["fine"]
    for key, vector in seen["coarse"].items():
        if key == "primal":
            again = maps.inject(0, seen["fine"][key])
        elif key == "step":
            again = seen["fine"][key]
        elif key in ("exp_avg_sq", "square_avg"):
            assert all((v >= 0).all() for v in seen["fine"][key].values())
            continue
        else:
            again = maps.restrict(0, seen["fine"][key])
        for n, value in vector.items():
            torch.testing.assert_close(again[n], value, atol=1e-6, rtol=1e-5)


def test_steps_that_are_not_finite_never_reach_the_weights_and_many_in_a_row_end_the_run():
    model = network()
    seen = []

    def loss(outputs, targets):
        seen.append(1)
        return cross_entropy(outputs, targets) * (float("nan") if len(seen) % 3 == 0 else 1.0)

    solution = FAS("kaskade", torch.optim.SGD, 0.1, epochs=3).solve(hierarchy_of(model), Problem(batches(), loss))
    assert all(p.isfinite().all() for p in model.parameters())
    assert len(solution.events("refused")) == 12
    before = state(model)
    broken = Problem(batches(), lambda o, t: cross_entropy(o, t) * float("inf"))
    solution = FAS("kaskade", torch.optim.SGD, 0.1, epochs=3, share=(1, 0, 0)).solve(hierarchy_of(model), broken)
    assert len(solution.events("refused")) == REFUSED
    assert "not finite" in solution.reason
    assert all(p.isfinite().all() for p in model.parameters())
    assert before.keys() == state(model).keys()


def test_a_correction_that_raises_the_loss_is_rejected_and_leaves_no_trace():
    model = network()
    maps = HierarchyMaps(hierarchy_of(model, 2))
    problem = Problem(batches(2), cross_entropy)
    run = FAS("v", torch.optim.SGD, 0.1, cycles=1).begin(maps, problem)
    fine, coarse = run.grids
    injected = maps.inject(0, fine.x)
    for name, value in injected.items():
        coarse.x[name].copy_(value + 100 * torch.randn_like(value))
    coarse.injected, coarse.common = injected, list(problem.batches)
    before = state(model)
    correction = apply_correction(maps, 0, fine, coarse, problem.value, (1.0, 0.5), None)
    assert correction.length == 0
    assert_same_bits(before, state(model))


def dense_twin(model, transfers, share):
    """Return (1 - s) W + s P R W P R by dense matrices. Only hidden units of `network` merge, in layers 0, 2 and 4."""
    both = {f"{axis}.out": t.P.toarray() @ t.R.toarray() for axis, t in transfers.items()}
    wanted = {}
    for i, layer in ((0, model[0]), (2, model[2]), (4, model[4])):
        out, into = (
            both.get(f"{i}.out", np.eye(layer.out_features)),
            both.get(f"{i - 2}.out", np.eye(layer.in_features)),
        )
        for name, old in (("weight", layer.weight.detach().numpy()), ("bias", layer.bias.detach().numpy())):
            merged = out @ old @ into if old.ndim == 2 else out @ old
            wanted[f"{i}.{name}"] = torch.tensor((1 - share) * old + share * merged, dtype=torch.float32)
    return wanted


def blending(share, steps, model):
    gate = Gate(float("inf"), float("inf"), 0.0, share=float("inf"), blend=share)
    hierarchy = hierarchy_of(model, 2)
    options = Options(Smoothing(0, 0, steps, moments=False), Tau("none", max(steps, 1)), gate)
    solution = FAS("v", torch.optim.AdamW, 1e-2, cycles=1, options=options).solve(
        hierarchy, Problem(batches(), cross_entropy)
    )
    return hierarchy, solution


def test_blending_mixes_the_fine_weights_with_the_prolonged_coarse_ones():
    model = network()
    wanted = dense_twin(copy.deepcopy(model), hierarchy_of(model, 2).levels[1].transfers, 0.25)
    _, solution = blending(0.25, 0, model)  # the coarse level stays what it was given
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[name], atol=1e-6, rtol=1e-5)
    assert [record["length"] for record in solution.events("up")] == [0.25]


def test_blended_by_one_the_fine_network_computes_what_the_coarse_one_does():
    model, x = network(), torch.randn(5, 6)
    before = model(x)
    hierarchy, _ = blending(1.0, 6, model)
    torch.testing.assert_close(model(x), hierarchy.levels[1].model(x))
    assert not torch.allclose(model(x), before, atol=1e-2)


def test_a_closed_gate_takes_the_steps_of_the_coarse_step_and_says_why():
    model = network()
    options = Options(Smoothing(2, 2, 8), Tau(batches=2), Gate(gap=-1.0, patience=1, share=float("inf")))
    solution = FAS("v", torch.optim.SGD, 0.1, epochs=4, options=options).solve(
        hierarchy_of(model, 2), Problem(batches(), cross_entropy)
    )
    skipped = solution.events("skip")
    assert "more than -100.0%" in skipped[0]["why"]
    assert any("rests" in r["why"] for r in skipped)
    assert not solution.events("down")
    problem = Problem(batches(), cross_entropy)
    begun = solution.events("begin")[0]["steps"]
    assert begun == 4 * len(problem.batches)
    assert solution.history[-1]["step"] == begun  # four epochs are four epochs, whatever the gate does
    assert solution.ledger.samples == {0: 16 * begun}
    plain = network()
    single = ng.Hierarchy(hierarchy_of(plain).levels[:1])
    FAS("kaskade", torch.optim.SGD, 0.1, epochs=4, schedule="one-cycle", share=(1.0,)).solve(single, problem)
    assert_same_bits(state(model), state(plain))  # and with the same schedule it is plain training
    head, *reasons = solution.describe_coarse_steps()
    assert head == f"coarse steps: 0 begun, 0 of them taken and 0 rejected by the line search, {len(skipped)} not begun"
    assert sum(int(line.split()[0]) for line in reasons) == len(skipped)


def test_dropout_and_running_means_are_the_same_run_after_run():
    results = []
    for _ in range(2):
        model = network(dropout=True)
        options = Options(Smoothing(ema=0.9), Tau("several", 2), OPEN)
        torch.manual_seed(len(results))
        solution = FAS("w", torch.optim.AdamW, 1e-2, epochs=4, options=options).solve(
            hierarchy_of(model), Problem(batches(), cross_entropy)
        )
        results.append((state(model), state(solution.mean)))
    assert_same_bits(results[0][0], results[1][0])
    assert_same_bits(results[0][1], results[1][1])
    assert any((results[0][0][n] != results[0][1][n]).any() for n in results[0][0])


def test_accumulated_minibatches_are_one_large_one():
    one, many = network(), network()
    data = batches(8)
    pairs = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(data[::2], data[1::2], strict=True)]
    options = Options(Smoothing(accumulate=2))
    FAS("kaskade", torch.optim.SGD, 0.1, epochs=2, options=options).solve(
        hierarchy_of(many), Problem(data, cross_entropy)
    )
    FAS("kaskade", torch.optim.SGD, 0.1, epochs=2).solve(hierarchy_of(one), Problem(pairs, cross_entropy))
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_widths_change_rates_as_maximal_update_says():
    model = network()
    options = Options(Smoothing(mup=True))
    run = FAS("v", torch.optim.AdamW, 1e-2, cycles=1, options=options).begin(
        hierarchy_of(model, 2), Problem(batches(), cross_entropy)
    )
    coarse = run.grids[1].smoother
    rates = {id(p): group["scale"] for group in coarse.optimizer.param_groups for p in group["params"]}
    rate_of = {name: rates[id(p)] for name, p in coarse.named.items()}
    assert rate_of["0.weight"] == 1  # its fan_in, the inputs, stays
    assert rate_of["2.weight"] == 2
    assert rate_of["4.weight"] == 2
    assert rate_of["2.bias"] == 1
