"""Multigrid in your own loop, compared with the bare optimizer and with the laws of the solver."""

import copy

import pytest
import torch
from blobs import batches, blobs, levels, loss_of, network, weights

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.optimizer import Multigrid, freeze_closure
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Adapt, Gate, Smoothing, Split, Tau

OPEN = Gate(gap=1e9, tau=1e9, kappa=0.0, share=float("inf"))


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_one_level_is_the_bare_optimizer_bit_for_bit(make):
    x, t = blobs()
    bare, wrapped = network(), network()
    mine = make(bare.parameters(), lr=0.01)
    theirs = Multigrid(make(wrapped.parameters(), lr=0.01), build_single_level(wrapped, x[:2]), every=2)
    schedules = [torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=20) for o in (mine, theirs)]
    for i in range(16):
        inputs, targets = batches(x, t)[i % 8]
        mine.zero_grad()
        loss = loss_of(bare, inputs, targets)
        loss.backward()
        mine.step()
        assert torch.equal(theirs.step(loss_of, inputs, targets), loss.detach())
        for schedule in schedules:
            schedule.step()
    assert torch.equal(weights(bare), weights(wrapped))
    assert theirs.history == []


def test_coarse_steps_follow_the_current_settings_and_lower_the_loss_on_their_minibatches():
    x, t = blobs()
    model = network()
    hierarchy = levels(model)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "lr": 0.008},
    ]
    optimizer = Multigrid(
        torch.optim.SGD(groups, lr=0.04, momentum=0.9), hierarchy, every=8, options=Options(gate=OPEN)
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5)
    for inputs, targets in batches(x, t) * 5:
        optimizer.step(loss_of, inputs, targets)
        schedule.step()
    ups = [r for r in optimizer.history if r["event"] == "up" and r["level"] == 0]
    assert len(ups) == 5
    assert all(r["after"] < r["before"] for r in ups if r["length"])
    assert any(r["length"] for r in ups)
    rates = [[g["lr"] for g in grid.smoother.optimizer.param_groups] for grid in optimizer._run.grids]
    assert rates == [[0.01, 0.002], [0.02, 0.004], [0.02, 0.004]]  # the coarse ones last worked at step 40
    assert optimizer.ledger.samples[2] > 0
    assert loss_of(model, x, t) < 0.5


def test_a_coarse_step_on_equal_levels_is_more_steps_of_the_bare_optimizer():
    x, t = blobs()
    model = network()
    hierarchy = ng.build_hierarchy(model, x[:2], n_levels=2)
    hierarchy.levels[1:] = [copy.deepcopy(hierarchy.levels[0])]
    options = Options(
        gate=Gate(gap=1e9, tau=1e9, kappa=0.0, share=float("inf"), search=()), smoothing=Smoothing(coarse=4)
    )
    optimizer = Multigrid(torch.optim.SGD(model.parameters(), lr=0.1), hierarchy, every=4, options=options)
    bare = network()
    mine = torch.optim.SGD(bare.parameters(), lr=0.1)
    first = batches(x, t)[:4]
    for inputs, targets in first:
        optimizer.step(loss_of, inputs, targets)
    for inputs, targets in first * 2:
        mine.zero_grad()
        loss_of(bare, inputs, targets).backward()
        mine.step()
    torch.testing.assert_close(weights(model), weights(bare), rtol=1e-6, atol=1e-7)


def test_training_begins_on_coarse_levels_and_keeps_function_and_rate_when_it_goes_up():
    x, t = blobs()
    model = network()
    start = weights(model)
    options = Options(split=Split(kind="none"))
    optimizer = Multigrid(
        torch.optim.Adam(model.parameters(), lr=0.01), levels(model), every=0, begin=(4, 8), options=options
    )
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    sizes = []
    for i, (inputs, targets) in enumerate(batches(x, t) * 2):
        sizes.append(sum(p.numel() for p in optimizer.model.parameters()))
        if i == 11:
            below = optimizer.model
        optimizer.step(loss_of, inputs, targets)
        schedule.step()
        if i == 11:
            torch.testing.assert_close(model(x), below(x), rtol=1e-4, atol=1e-5)
            assert optimizer.state[next(model.parameters())]["step"] == 12
        assert (optimizer.model is model) == (i >= 11)
        assert torch.equal(weights(model), start) == (i < 11)
    assert sizes[:8] == [sizes[0]] * 8
    assert sizes[0] < sizes[8] < sizes[12] == len(start)


@pytest.mark.parametrize("stop", [5, 14, 30])
def test_a_saved_state_continues_exactly(stop, tmp_path):
    x, t = blobs()

    def made():
        model = network()
        return model, Multigrid(torch.optim.AdamW(model.parameters(), lr=0.01), levels(model), every=50, begin=(6, 10))

    model, optimizer = made()
    for i, (inputs, targets) in enumerate(batches(x, t) * 5):
        if i == stop:
            torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
        optimizer.step(loss_of, inputs, targets)
    again, resumed = made()
    saved, state = torch.load(tmp_path / "state.pt")
    again.load_state_dict(saved)
    resumed.load_state_dict(state)
    for inputs, targets in (batches(x, t) * 5)[stop:]:
        resumed.step(loss_of, inputs, targets)
    assert torch.equal(weights(model), weights(again))


def test_states_move_between_the_wrapper_and_a_bare_optimizer():
    x, t = blobs()
    model = network()
    bare = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss_of(model, x, t).backward()
    bare.step()
    optimizer = Multigrid(torch.optim.AdamW(model.parameters(), lr=0.5), levels(model))
    optimizer.load_state_dict(bare.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.01
    bare.load_state_dict(optimizer.state_dict())
    assert bare.state[model[0].weight]["step"] == 1


def test_a_closure_without_arguments_keeps_its_minibatch():
    held = []
    for number in range(3):

        def closure(model):
            return model + number  # noqa: B023

        held.append(freeze_closure(closure))
    assert [f(0) for f in held] == [0, 1, 2]
    scope = {"bound": freeze_closure}
    exec("held = []\nfor n in range(3):\n    def f(model):\n        return model + n\n    held.append(bound(f))", scope)
    assert [f(0) for f in scope["held"]] == [0, 1, 2]


def test_closures_and_arguments_take_the_same_steps():
    x, t = blobs()
    ends = []
    for arguments in (True, False):
        model = network()
        optimizer = Multigrid(
            torch.optim.SGD(model.parameters(), lr=0.1), levels(model), every=8, options=Options(gate=OPEN)
        )
        for inputs, targets in batches(x, t) * 2:

            def closure(model):
                return loss_of(model, inputs, targets)  # noqa: B023

            optimizer.step(*((loss_of, inputs, targets) if arguments else (closure,)))
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_steps_that_are_not_finite_are_refused_and_too_many_end_training():
    model = network()
    optimizer = Multigrid(torch.optim.SGD(model.parameters(), lr=0.1), levels(model))
    start = weights(model)

    def closure(m):
        return m(torch.zeros(2, 6)).sum() * float("nan")

    for _ in range(24):
        optimizer.step(closure)
    with pytest.raises(NetgraphError, match="25 steps in a row"):
        optimizer.step(closure)
    assert torch.equal(weights(model), start)


def test_mistakes_are_refused_before_work_begins():
    model = network()
    hierarchy, optimizer = levels(model), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(NetgraphError, match="not those of the hierarchy"):
        Multigrid(torch.optim.SGD(network().parameters(), lr=0.1), hierarchy)
    with pytest.raises(NetgraphError, match="at most 2 coarse levels"):
        Multigrid(optimizer, hierarchy, begin=(1, 2, 3))
    with pytest.raises(NetgraphError, match="last minibatches"):
        Multigrid(optimizer, hierarchy, options=Options(tau=Tau("whole")))
    with pytest.raises(NetgraphError, match="belong to your loop"):
        Multigrid(optimizer, hierarchy, options=Options(smoothing=Smoothing(ema=0.9)))
    with pytest.raises(NetgraphError, match="every level has that of your optimizer"):
        Multigrid(optimizer, hierarchy, options=Options(levels={1: {"lr": 0.1}}))
    with pytest.raises(NetgraphError, match="only the solver FAS"):
        Multigrid(optimizer, hierarchy, options=Options(adapt=Adapt(rematch=2)))
    with pytest.raises(NetgraphError, match="v, w, f, additive"):
        Multigrid(optimizer, hierarchy, cycle="full")
    with pytest.raises(NetgraphError, match="def closure"):
        Multigrid(optimizer, hierarchy).step()
