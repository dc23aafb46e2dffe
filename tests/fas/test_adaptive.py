"""Coarse steps earn their cost, judged by arithmetic on the figures of the ledger and by plain training."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.optimizer import Multigrid
from netgraph.fas.ledger import Ledger
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Tau
from netgraph.fas.solver.adaptive import WINDOW, CostAccount, bound_flops_per_row
from netgraph.fas.solver.cycles import Visit, build_cycle, repeat_cycle
from netgraph.fas.solver.minibatch_stream import MinibatchStream
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.perceptron import mlp

WIDE = {"gap": float("inf"), "tau": float("inf"), "kappa": 0.0}


def blobs(n=192, size=16):
    random = torch.Generator().manual_seed(3)
    targets = torch.arange(n) % 3
    inputs = torch.randn(n, 6, generator=random) + 2 * torch.randn(3, 6, generator=random)[targets]
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def hierarchy(n_levels=3):
    torch.manual_seed(0)
    return ng.build_hierarchy(mlp((6, 32, 16, 3)), torch.randn(2, 6), n_levels=n_levels)


def alone(many):
    return replace(many, levels=many.levels[:1])


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_table_names_the_costs_that_its_total_leaves_out():
    ledger = Ledger()
    ledger.seconds.update(
        {(0, "smooth"): 2.0, (1, "match"): 0.5, (0, "evaluate"): 1.0, (0, "callbacks"): 0.25, (1, "compile"): 4.0}
    )
    assert str(ledger).endswith("total  2.50 s, 0 FLOPs; compiling, evaluation and callbacks, 5.25 s, not counted")


def test_reading_minibatches_and_stepping_on_them_are_timed_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("netgraph.fas.ledger.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def passing(seconds, value):
        now[0] += seconds
        return value

    class Slow:
        def __len__(self):
            return 12

        def __iter__(self):
            return (passing(0.25, batch) for batch in blobs())

    def loss(model, batch):
        return passing(1.0, cross_entropy(model(batch[0]), batch[1]))

    objective = SimpleNamespace(batches=Slow(), value=loss)
    fas = make_plain_solver(optimizer=torch.optim.SGD, lr=0.1, epochs=2, options=Options(Smoothing(accumulate=2)))
    solution = fas.solve(alone(hierarchy(2)), objective)
    assert solution.ledger.seconds[0, "load"] == pytest.approx(24 * 0.25)
    assert solution.ledger.seconds[0, "smooth"] == pytest.approx(24 * 1.0)
    assert solution.ledger.total_seconds() == pytest.approx(30)


def test_the_rate_is_the_slope_of_the_last_losses_for_each_operation():
    account = CostAccount()
    for i in range(3 * WINDOW):
        account.step(100 - 0.25 * i, 50.0)
    assert account.rate(1e9) == pytest.approx(0.25 / 50)
    assert account.rate(100.0) == pytest.approx(
        (100 - 0.25 * (2.5 * WINDOW - 0.5)) / 100
    )  # the mean loss for the whole run


def test_owed_operations_are_cost_less_gain_and_never_negative():
    account = CostAccount()
    for i in range(10):
        account.step(10.0 - i, 4.0)  # a quarter for each operation
    account.charge(3.0)
    assert not account.settle(1.0, 8.0, 1e9)  # worth four operations, and cost eight
    assert account.owed == pytest.approx(7.0)
    assert account.losses[-1] == 0.0  # the fall by one is not smoothing's
    assert account.settle(3.0, 8.0, 1e9)
    assert account.owed == pytest.approx(3.0)
    assert account.settle(1000.0, 8.0, 1e9)
    assert account.owed == 0.0  # and not less
    assert not account.settle(math.nan, 8.0, 1e9)
    assert account.owed == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("kind", "cycle", "level_options"),
    [
        ("common", "v", {}),
        ("several", "w", {}),
        ("none", "f", {}),
        ("common", "additive", {}),
        ("common", "v", {1: {"tau.kind": "none", "gate.search": (1.0,), "cycles": 3}}),
    ],
)
def test_a_coarse_step_costs_no_more_than_its_bound(kind, cycle, level_options):
    many = hierarchy()
    options = Options(Smoothing(2, 2, 3), Tau(kind, 2), Gate(**WIDE, share=1e9), levels=level_options)
    solution = FAS(cycle, torch.optim.SGD, 0.05, epochs=4, options=options).solve(many, Problem(blobs(), cross_entropy))
    visits = [v for v in build_cycle(cycle, 0, 2, options.smoothing_of) if v.kind != "smooth" or v.level]
    flops = [level.flops / 2 for level in many.levels]
    most = 16 * bound_flops_per_row(visits, flops, options, 2)
    costs = [record["cost"] for record in solution.events("up") if record["level"] == 0]
    assert costs
    fine = 16 * 3 * 4 * flops[0] if cycle == "additive" else 0.0  # its smoothing lies within the coarse step
    assert max(costs) <= most + fine
    assert max(costs) >= 0.5 * most


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_without_affordable_coarse_steps_is_plain_bit_for_bit(optimizer):
    many, one_level = hierarchy(), hierarchy()
    problem = Problem(blobs(), cross_entropy)
    cycled = FAS("v", optimizer, 1e-2, epochs=8, schedule="constant").solve(many, problem)
    steps = cycled.ledger.samples[0] / 16
    assert cycled.ledger.samples.keys() == {0}
    make_plain_solver(optimizer=optimizer, lr=1e-2, epochs=steps / 12, schedule="constant").solve(
        alone(one_level), problem
    )
    assert torch.equal(weights(cycled.model), weights(one_level.levels[0].model))
    assert "gate.share is 1.0%" in cycled.events("skip")[0]["why"]
    assert cycled.flops == 3 * 16 * steps * many.levels[0].flops / 2  # nothing was spent on looking


@pytest.mark.parametrize("share", [0.05, 0.15])
def test_no_more_than_its_share_is_lost_on_coarse_steps_that_earn_nothing(share):
    many = hierarchy(2)
    options = Options(Smoothing(4, 4, 2), Tau(batches=2), Gate(**WIDE, share=share, search=(1e-9,)))  # moves nothing
    solver = FAS("v", torch.optim.Adam, 1e-2, epochs=40, options=options)
    run = solver.begin(many, Problem(blobs(), cross_entropy))
    solution = solver.finish(run)
    spent = sum(row["flops"] for row in solution.ledger.rows() if row["kind"] != "smooth" or row["level"])
    assert 0 < spent <= share * run.planned_flops
    assert solution.events("up")


def test_a_schedule_is_spread_evenly_over_cycles_without_a_coarse_step():
    rates = []
    FAS("v", torch.optim.SGD, 1e-2, epochs=16, schedule="cosine").solve(
        hierarchy(),
        Problem(blobs(), cross_entropy),
        callbacks=[lambda run, record: rates.append(record["lr"]) if record["event"] == "smooth" else None],
        every=1,
    )
    n = len(rates)
    wanted = [0.5 * (1 + math.cos(math.pi * i / n)) * 1e-2 for i in range(n)]
    torch.testing.assert_close(rates, wanted, atol=2.5e-4, rtol=0)


def test_left_over_steps_are_spread_over_all_cycles_evenly():
    cycle = build_cycle("v", 0, 2, lambda level: Smoothing(2, 1, 3))
    visits = repeat_cycle(cycle, 10 * 9 + 13)
    assert sum(visit.steps for visit in visits) == 103
    first = [visit.steps for visit in visits[:: len(cycle)]]
    assert len(first) == 11
    assert set(first) <= {2, 3}
    assert repeat_cycle(cycle, 4) == [Visit("smooth", 0, 4), Visit("end", 0)]


@pytest.mark.parametrize("at", range(5))
def test_a_minibatch_that_was_looked_at_is_the_next_one_also_after_resuming(at):
    def stream():
        torch.manual_seed(0)
        data = torch.utils.data.DataLoader(list(range(8)), 2, shuffle=True, generator=torch.Generator().manual_seed(5))
        return MinibatchStream(data, 7)

    in_order = [next(whole_stream).tolist() for whole_stream in [stream()] for _ in range(9)]
    looked, again = stream(), stream()
    taken = [next(looked).tolist() for _ in range(at)]
    assert looked.peek().tolist() == looked.peek().tolist() == in_order[at]
    again.load_state_dict(looked.state_dict())
    for one_of_two in (looked, again):
        assert taken + [next(one_of_two).tolist() for _ in range(9 - at)] == in_order


def test_the_optimizer_tries_a_coarse_step_only_after_enough_fine_steps_to_lose_one():
    model_of = hierarchy(2)
    model = model_of.levels[0].model
    options = Options(Smoothing(coarse=2), Tau(batches=2), Gate(**WIDE, share=0.1))
    optimizer = Multigrid(torch.optim.SGD(model.parameters(), lr=0.05), model_of, every=10, options=options)
    for inputs, targets in blobs() * 20:
        optimizer.step(lambda m, x, t: cross_entropy(m(x), t), inputs, targets)
    tried = [r for r in optimizer.history if r["event"] == "up"]
    assert tried
    assert optimizer.history[0]["event"] == "skip"
    fine = 3 * 16 * 240 * model_of.levels[0].flops / 2
    bad = [r for r in tried if r["owed"]]
    assert all(r["owed"] <= 0.1 * fine for r in bad)
    state = optimizer.state_dict()["multigrid"]
    assert state["whole"] == pytest.approx(fine)


def test_a_problem_of_one_minibatch_is_left_to_the_line_search():
    many = hierarchy(2)
    options = Options(Smoothing(2, 2, 4), Tau(batches=1), Gate(**WIDE))
    solution = FAS("v", torch.optim.SGD, 0.05, cycles=3, options=options).solve(
        many, Problem(blobs()[:1], cross_entropy)
    )
    assert len(solution.events("up")) == 3


def test_f_of_x_is_not_measured_again_if_it_is_known():
    many = hierarchy(2)
    options = Options(Smoothing(1, 1, 2), Tau(batches=2), Gate(**WIDE, share=math.inf, search=(1.0,)))
    solution = FAS("v", torch.optim.SGD, 0.05, cycles=1, options=options).solve(many, Problem(blobs(), cross_entropy))
    (down,), (up,) = solution.events("down"), solution.events("up")
    assert up["before"] == down["fine"]
    assert solution.ledger.flops[0, "search"] == 2 * 16 * many.levels[0].flops / 2


class Endless(IterableDataset):
    """A stream of one blob after the other, without a length. A loader of it has a len() that fails."""

    def __iter__(self):
        yield from zip(*(torch.cat(side) for side in zip(*blobs(), strict=True)), strict=True)


def test_minibatches_without_a_length_are_trained_on_and_a_tau_of_all_of_them_is_refused():
    problem = Problem(DataLoader(Endless(), 16), cross_entropy)
    assert FAS("v", torch.optim.SGD, 0.1, cycles=2).solve(hierarchy(2), problem).events("smooth")
    solver = FAS("v", torch.optim.SGD, 0.1, cycles=2, options=Options(tau=Tau("whole")))
    with pytest.raises(NetgraphError, match=r"the minibatches have no length.*Give a loader with len\(\)"):
        solver.solve(hierarchy(2), problem)
