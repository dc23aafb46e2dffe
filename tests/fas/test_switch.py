"""The switch from a level to the next finer one by rule: the plan that it leaves, its costs, and resumed runs."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import run as run_command
from hypothesis import given
from hypothesis import strategies as st

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas import FAS, Checkpoints, Options, Problem, SwitchOnPlateau, resume
from netgraph.fas.auto.switch import PATIENCE
from netgraph.fas.ledger import STEP
from netgraph.fas.solver.cycles import Visit, leave_visit, plan_steps
from netgraph.fas.solver.schedule import Schedule

SHARE = (200, 400, 1000)


def make_levels(n=3):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    hierarchy = ng.build_hierarchy(network, torch.ones(2, 6), n_levels=n)
    ng.init_coarse_weights(hierarchy)
    return hierarchy


def make_problem(valid, batch=16):
    inputs = torch.randn(160, 6, generator=torch.Generator().manual_seed(1))
    pairs = list(zip(inputs.split(batch), inputs[:, :2].abs().split(batch), strict=True))
    return Problem(pairs, torch.nn.functional.mse_loss, valid=valid)


def script(hierarchy, own, finer):
    """Return a validation loss that falls by ``own`` at each measurement of level 2, and by ``finer`` at those of other levels."""
    coarse, losses = hierarchy.levels[2].model, {True: 100.0, False: 100.0}

    def valid(model):
        is_coarse = model is coarse
        losses[is_coarse] -= own if is_coarse else finer
        return {"loss": losses[is_coarse]}

    return valid


def solve(own, finer, *, every=10, **settings):
    hierarchy = make_levels()
    solver = FAS("kaskade", torch.optim.Adam, 1e-2, epochs=160, share=SHARE, **settings)
    return hierarchy, solver.solve(
        hierarchy, make_problem(script(hierarchy, own, finer)), callbacks=[SwitchOnPlateau()], every=every
    )


@given(st.integers(0, 500), st.floats(0, 500))
def test_the_operations_that_are_left_go_to_the_finer_level(done, spent):
    flops = [8.0, 3.0, 1.0]
    visits = plan_steps("kaskade", 3, 1600, lambda level: None, SHARE)
    changed = leave_visit(visits, 0, done, flops, spent)
    before, after = (sum(v.steps * flops[v.level] for v in each) for each in (visits, changed))
    assert after == pytest.approx(max(before - spent, before - (1000 - done)), abs=flops[1])
    assert [v[:2] for v in changed] == [v[:2] for v in visits]


def test_the_finest_level_cannot_be_left():
    with pytest.raises(NetgraphError, match="no finer level follows level 0"):
        leave_visit([Visit("smooth", 0, 5)], 0, 2, [1.0])


def test_a_schedule_of_another_length_goes_on_at_the_same_rate():
    schedule = Schedule("wsd", torch.optim.SGD, 100, 20)
    schedule.tick(40)
    longer = schedule.with_length(140, 30)
    rates = []
    for _ in range(100):
        rates.append(longer.group["lr"])
        longer.tick()
    assert rates == pytest.approx([min(1.0, (140 - i) / 30) for i in range(40, 140)])


def test_a_level_that_earns_less_is_left_after_two_checks_in_a_row():
    _, solution = solve(own=0.0, finer=5.0)
    first, *others = solution.events("switch")
    assert (first["level"], first["steps"]) == (2, 10 + 100 * PATIENCE)  # the first record has nothing to compare with
    assert first["earned"] == 0 < first["finer"]
    assert all(record["level"] == 1 for record in others)
    steps = {level: sum(r["level"] == level for r in solution.events("smooth")) for level in range(3)}
    assert steps[2] == 21  # records of ten steps


@pytest.mark.parametrize("minibatches", [1, 2])  # of a step on the coarsest level
def test_probes_and_smoothing_cost_what_was_planned(minibatches):
    hierarchy, solution = solve(own=0.0, finer=5.0, options=Options(levels={2: {"accumulate": minibatches}}))
    flops = [STEP * 16 * level.flops / 2 for level in hierarchy.levels]
    flops[2] *= minibatches
    planned = sum(n * cost for n, cost in zip(SHARE, flops, strict=True))
    spent = solution.ledger.total_flops()
    assert any(kind == "probe" and cost for (_, kind), cost in solution.ledger.flops.items())
    assert spent == pytest.approx(planned, abs=2 * flops[0])


def test_a_level_that_earns_more_stays_for_its_share():
    _, solution = solve(own=50.0, finer=0.1)
    assert not [record for record in solution.events("switch") if record["level"] == 2]
    assert solution.history[-1]["step"] >= 1000


def test_a_probe_leaves_the_finer_level_as_it_was():
    hierarchy = make_levels()
    finer = hierarchy.levels[1].model
    before = {name: tensor.clone() for name, tensor in finer.state_dict().items()}

    def look(run, record):
        if record["event"] == "smooth" and run.top == 2 and run.done == 110:
            assert any(kind == "probe" for _, kind in run.ledger.flops)
            assert all(torch.equal(before[name], tensor) for name, tensor in finer.state_dict().items())
            assert not run.grids[1].smoother.optimizer.state
            run.stop("seen")

    problem = make_problem(script(hierarchy, 1.0, 1.0))
    solution = FAS("kaskade", torch.optim.Adam, 1e-2, epochs=160, share=SHARE).solve(
        hierarchy, problem, callbacks=[SwitchOnPlateau(), look], every=10
    )
    assert solution.reason == "seen"


def measured(model):
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return {"loss": float((model(inputs) - inputs[:, :2].abs()).square().mean())}


@pytest.mark.parametrize("at", [150, 700])
def test_a_run_that_left_a_level_is_resumed_bit_for_bit(at, tmp_path):
    def begin(*callbacks):
        solver = FAS("kaskade", torch.optim.Adam, 0.05, epochs=160, share=SHARE)
        hierarchy = make_levels()
        return solver, solver.begin(
            hierarchy, make_problem(measured), callbacks=[SwitchOnPlateau(), *callbacks], every=10
        )

    def stop(run, record):
        if record["event"] == "smooth" and run.steps >= at:
            run.stop("enough for today")

    solver, run = begin()
    whole = solver.finish(run)
    assert whole.events("switch"), "without a switch this test would not test it"
    solver, run = begin(stop, Checkpoints(tmp_path, every=1000))
    solver.finish(run)
    solver, run = begin()
    resume(run, tmp_path)
    again = solver.finish(run)
    assert all(torch.equal(a, again.model.state_dict()[name]) for name, a in whole.model.state_dict().items())
    assert [r["step"] for r in again.events("switch")] == [r["step"] for r in whole.events("switch")]


@pytest.mark.parametrize(
    ("settings", "valid", "why"),
    [
        ({"cycle": "v"}, measured, "levels that start one after another. Take the cycle kaskade"),
        ({"schedule": "cosine"}, measured, "Take the schedule wsd or constant"),
        ({"schedule_per_level": True}, measured, "Take the schedule wsd or constant"),
        ({}, None, r"the problem measures none. Give Problem\(valid=...\)"),
        ({}, lambda model: {"accuracy": 1.0}, "figures are accuracy. Give one called loss"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(settings, valid, why):
    with pytest.raises(NetgraphError, match=why):
        FAS(**{"cycle": "kaskade", "epochs": 8, **settings}).solve(
            make_levels(), make_problem(valid), callbacks=[SwitchOnPlateau()], every=5
        )
    with pytest.raises(NetgraphError, match="checks is 0"):
        SwitchOnPlateau(0)


def test_the_command_switches_by_rule_and_refuses_where_it_cannot():
    code, out, err = run_command("train", "mlp", "--switch", "plateau", "--epochs", 60, "--json")
    assert code == 0, err
    assert {row["kind"] for row in json.loads(out)["ledger"]["rows"]} >= {"probe"}
    for words, why in (
        (("--cycle", "v"), "and --cycle v returns. Take kaskade"),
        (("--schedule", "one-cycle"), "Take --schedule wsd or constant"),
        (("--levels", 1), "--switch would have no effect"),
    ):
        code, _, err = run_command("train", "mlp", "--switch", "plateau", *words)
        assert (code, why in err) == (1, True), err
