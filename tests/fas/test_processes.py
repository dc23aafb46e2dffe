"""Two processes that train one network by DistributedDataParallel, judged by one process with the same minibatches."""

import os
import re
import signal
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints, list_checkpoints, resume
from netgraph.fas.levels.rematch import compute_signatures
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Adapt, Estimate, Gate, Smoothing, Tau, Tolerance
from netgraph.fas.parallel.split_problem import choose_rows
from netgraph.models import mlp
from tests.support.fasnets import batches, hierarchy_of, network
from tests.support.processes import Processes

OPEN = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"))
RUNS = {
    "plain": {"cycle": "kaskade", "epochs": 5, "share": (1.0, 0.0, 0.0)},
    "nested": {"cycle": "kaskade", "epochs": 5},
    "v-cycles": {"cycle": "v", "epochs": 5, "options": Options(gate=OPEN)},
    "v-cycles of one correction each": {"cycle": "v", "epochs": 2, "options": Options(gate=OPEN, tau=Tau("several"))},
    "v-cycles of the whole data": {"cycle": "v", "cycles": 2, "options": Options(gate=OPEN, tau=Tau("whole"))},
    "additive": {"cycle": "additive", "epochs": 2, "options": Options(gate=OPEN)},
    "accumulated": {
        "cycle": "v",
        "epochs": 4,
        "options": Options(Smoothing(accumulate=3, clip=0.5, ema=0.9), gate=OPEN),
    },
    "steered": {"cycle": "v", "epochs": 2, "options": Options(gate=OPEN, adapt=Adapt(steer=True))},
    "gates": {"cycle": "v", "epochs": 2, "options": Options(gate=Gate(share=0.5))},
}
RUNS |= {
    "closures": {"cycle": "kaskade", "epochs": 2},
    "rematched": {"cycle": "v", "epochs": 2, "options": Options(gate=OPEN, adapt=Adapt(rematch=1))},
    "stopped": {"cycle": "v", "cycles": 9, "options": Options(gate=OPEN, tolerance=Tolerance(rtol=1e-9, max_it=2))},
}
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, 0.1),
    "adam": (torch.optim.Adam, 1e-3),
    "lbfgs": (partial(torch.optim.LBFGS, max_iter=2), 0.05),
}


@pytest.fixture(scope="module")
def two():
    processes = Processes(2)
    yield processes
    processes.end()


def data(rows=16):
    """Ten minibatches in double precision, and a last one of fewer rows, which two processes cannot share equally."""
    whole = [(x.double(), y) for x, y in batches(10, rows)]
    return [*whole, (whole[0][0][:5], whole[0][1][:5])]


def make_hierarchy(*, dropout=False):
    model = network(dropout=dropout).double()
    hierarchy = ng.build_hierarchy(model, torch.randn(2, 6, dtype=torch.float64), n_levels=3)
    ng.init_coarse_weights(hierarchy)
    return hierarchy


def begin(parallel, name, optimizer="sgd", *, hierarchy=None, problem=None, callbacks=(), **changes):
    make_optimizer, lr = OPTIMIZERS[optimizer]
    solver = ng.FAS(optimizer=make_optimizer, lr=lr, parallel=parallel, **{**RUNS[name], **changes})
    problem = problem or ng.Problem(data(), cross_entropy)
    return solver, solver.begin(hierarchy or make_hierarchy(), problem, every=1, callbacks=callbacks)


def train(parallel, name, optimizer="sgd"):
    """Train, and return the losses, the events, the weights, the signatures of the levels, and the reason for the end."""
    solver, run = begin(parallel, name, optimizer)
    solution = solver.finish(run)
    losses = [record["loss"] for record in solution.events("smooth")]
    events = [(record["event"], record["level"], record["step"]) for record in solution.history]
    return losses, events, run.maps.models[0].state_dict(), compute_signatures(run.maps), solution.reason


CASES = [(name, "sgd") for name in RUNS if name != "closures"] + [
    (name, "adam") for name in ("plain", "nested", "v-cycles")
]
CASES.append(("closures", "lbfgs"))


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_two_processes_train_as_one_does(two, name, optimizer):
    losses, events, state, signatures, reason = train(None, name, optimizer)
    first, second = two.call(train, "ddp", name, optimizer)
    assert len(losses) >= 10
    if name != "steered":  # decisions of the clock cannot be repeated, but must be shared
        assert first[1] == events
        torch.testing.assert_close(first[0], losses, rtol=1e-6, atol=0)
        torch.testing.assert_close(first[2], state, rtol=1e-6, atol=1e-9)
        assert (first[3], first[4]) == (signatures, reason)
    assert first[:2] == second[:2]
    assert first[3:] == second[3:]
    assert all(torch.equal(first[2][key], second[2][key]) for key in state)


def test_v_cycles_take_corrections_in_two_processes():
    taken = {event for event, *_ in train(None, "v-cycles")[1]}
    assert {"down", "up"} <= taken


def test_parts_of_rows_are_a_partition():
    for n in range(9):
        for count in range(1, 5):
            parts = [choose_rows(n, rank, count) for rank in range(count)]
            assert [row for start, stop in parts for row in range(start, stop)] == list(range(n))


# what is not the mean over rows of one data set is refused on both ranks


def rank():
    return dist.get_rank()


def refused(what):
    """Begin a run that two processes cannot share."""
    hierarchy, problem, changes = make_hierarchy(), ng.Problem(data(), cross_entropy), {}
    if what == "data":
        problem = ng.Problem([(x + rank(), y) for x, y in data()], cross_entropy)
    elif what == "length":
        problem = ng.Problem(data()[rank() :], cross_entropy)
    elif what == "rows":
        problem = ng.Problem(data(15), cross_entropy)
    elif what == "sum":
        problem = ng.Problem(data(), lambda outputs, targets: cross_entropy(outputs, targets, reduction="sum"))
    elif what == "sampler":
        rows = TensorDataset(*map(torch.cat, zip(*data(), strict=True)))
        problem = ng.Problem(DataLoader(rows, 8, sampler=DistributedSampler(rows)), cross_entropy)
    elif what == "hierarchy":
        torch.manual_seed(rank())
        hierarchy, problem = hierarchy_of(mlp((6, 16, 8, 3))), ng.Problem(batches(), cross_entropy)
    elif what == "options":
        changes = {"options": Options(Smoothing(pre=3 + rank()))}
    elif what == "estimate":
        changes = {"options": Options(estimate=Estimate("multilevel"))}
    elif what == "one process":
        return begin(None, "nested")
    begin("ddp", "nested", hierarchy=hierarchy, problem=problem, **changes)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "data",
            r"the ranks differ in the first minibatch: \w{8} on rank 0 and \w{8} on rank 1\. Give all of them the same data",
        ),
        ("length", "the ranks differ in the number of minibatches: 11 on rank 0 and 10 on rank 1"),
        ("rows", "a minibatch has 15 rows, which 2 processes cannot share equally"),
        ("sum", "the mean over the rows of 2 processes is .* Take reduction='mean'"),
        ("sampler", "the loader has a DistributedSampler"),
        (
            "hierarchy",
            r"the ranks differ in the aggregates of axis \S+ of level 1: \w{8} on rank 0 and \w{8} on rank 1",
        ),
        ("options", r"the ranks differ in the options: \w{8} on rank 0 and \w{8} on rank 1"),
        ("estimate", "estimate.kind takes a gradient from samples of several levels"),
        ("one process", "this is one of 2 .* give parallel='ddp'"),
    ],
)
def test_what_two_processes_cannot_share_is_refused_on_both(two, what, message):
    assert re.search(message, two.refusal(refused, what))


def test_one_process_without_a_group_is_told_to_join_one():
    with pytest.raises(NetgraphError, match="this process has joined no group of processes"):
        begin("ddp", "nested")
    with pytest.raises(NetgraphError, match=r"parallel is 'fsdp'\. Give 'ddp', or None"):
        ng.FAS(epochs=1, parallel="fsdp")


# callbacks and figures


def watch(failing=""):
    """Train with callbacks of one rank and of every rank, and stop by one of the first rank."""
    seen = []

    def count(run, record):
        seen.append(record["event"])
        if record["event"] == failing:
            raise OSError("the disk is full")
        if run.steps == 7:
            run.stop("enough")

    def validate(model):
        model.eval()
        everybody = torch.ones(1)
        dist.all_reduce(everybody)  # as torchmetrics and a split of validation data do
        return {"rank": rank(), "processes": float(everybody)}

    problem = ng.Problem(data(), cross_entropy, valid=validate)
    solver, run = begin("ddp", "nested", problem=problem, callbacks=[count])
    solution = solver.finish(run)
    figures = run.evaluate()
    return len(seen), solution.reason, run.steps, figures


def test_callbacks_and_figures_belong_to_the_first_rank_and_its_wish_to_all(two):
    first, second = two.call(watch)
    assert (first[0] > 7, second[0]) == (True, 0)
    assert first[1:] == second[1:] == ("enough", 7, {"rank": 0, "processes": 2.0})


def test_a_callback_that_fails_on_the_first_rank_ends_both(two):
    first, second = two.answer(watch, "smooth")
    assert first == ("OSError", "the disk is full")
    assert second == ("NetgraphError", "rank 0 failed: OSError: the disk is full")


def fail_to_validate():
    def validate(model):
        if rank() == 1:
            raise ZeroDivisionError("no rows")
        return {"loss": 1.0}

    solver, run = begin("ddp", "nested", problem=ng.Problem(data(), cross_entropy, valid=validate))
    solver.finish(run)


def test_an_error_of_one_rank_in_validation_ends_both(two):
    first, second = two.answer(fail_to_validate)
    assert first == ("NetgraphError", "rank 1 failed: ZeroDivisionError: no rows")
    assert second == ("ZeroDivisionError", "no rows")


def evaluate_in_callback(everywhere):
    def measure(run, record):
        if record["event"] == "smooth":
            run.measure_figures(0)

    measure.on_every_rank = everywhere
    problem = ng.Problem(data(), cross_entropy, valid=lambda model: {"loss": 1.0})
    solver, run = begin("ddp", "nested", problem=problem, callbacks=[measure])
    return solver.finish(run).reason


def test_a_callback_of_one_rank_that_needs_both_is_told_so(two):
    assert two.call(evaluate_in_callback, True) == ["the 5 epochs are spent"] * 2
    (_, first), (_, second) = two.answer(evaluate_in_callback, False)
    assert "Give it the attribute on_every_rank = True" in first
    assert second.startswith("rank 0 failed: NetgraphError: a callback that runs on rank 0 alone")


# networks that need care


class Idle(nn.Module):
    """A network with a parameter that its forward leaves out."""

    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(6, 3, dtype=torch.float64), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.layer(x)


class OneLevel:
    """A single level of a network of the user."""

    flops = (1.0,)

    def __init__(self, model):
        self.models = [model]


def train_idle(parallel):
    torch.manual_seed(0)
    model = Idle()
    solver = ng.FAS(optimizer=torch.optim.SGD, lr=0.1, epochs=2, share=(1.0,), weight_decay=0.1, parallel=parallel)
    solver.solve(OneLevel(model), ng.Problem(data(), cross_entropy))
    return model.state_dict()


def test_a_parameter_that_is_not_used_stays(two):
    alone, (first, second) = train_idle(None), two.call(train_idle, "ddp")
    torch.testing.assert_close(first, alone)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first["idle"], torch.ones(4))


def train_norms():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    hierarchy = ng.build_hierarchy(model, torch.randn(4, 6), n_levels=2)
    problem = ng.Problem(batches(6), cross_entropy)
    begun = model.state_dict()["1.running_mean"].clone()
    ng.FAS("v", epochs=2, options=Options(gate=OPEN), parallel="ddp").solve(hierarchy, problem)
    return begun, model.state_dict()


def test_statistics_of_norms_are_the_same_on_both(two):
    (begun, first), (_, second) = two.call(train_norms)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["1.running_mean"], begun)


def train_beside_the_model():
    """An objective that trains by a network of its own in place of the one that it is given."""

    class Beside:
        batches = data()

        def __init__(self, model):
            self.model = model

        def value(self, model, batch):
            x, y = batch
            return cross_entropy(self.model(x), y)

    torch.manual_seed(0)
    model = Idle().layer
    solver = ng.FAS(optimizer=torch.optim.SGD, lr=0.1, epochs=1, share=(1.0,), parallel="ddp")
    solver.solve(OneLevel(model), Beside(model))


def test_ranks_that_come_apart_are_not_taken(two):
    assert "the ranks differ in the weights of weight on level 0" in two.refusal(train_beside_the_model)


# checkpoints


def train_in_parts(folder, stops, parallel="ddp"):
    """Train with dropout, stop after some steps, resume, and return the weights and the number of parts."""
    for part, stop in enumerate([*stops, None]):

        def halt(run, record, stop=stop):
            if stop is not None and run.steps >= stop:
                run.stop("enough")

        hierarchy = make_hierarchy(dropout=True)
        solver, run = begin(parallel, "v-cycles", "adam", hierarchy=hierarchy, callbacks=[halt, Checkpoints(folder)])
        assert (resume(run, folder) is None) == (part == 0 and not list_checkpoints(folder))
        solver.finish(run)
    return run.steps, hierarchy.levels[0].model.state_dict(), torch.get_rng_state()


def test_a_run_of_two_processes_resumes_bit_for_bit(two, tmp_path):
    whole = two.call(train_in_parts, tmp_path / "whole", [])
    parts = two.call(train_in_parts, tmp_path / "parts", [5, 26])
    for (steps, weights, _), (steps_again, weights_again, _) in zip(whole, parts, strict=True):
        assert steps == steps_again == 55
        assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir() if path.suffix == ".safetensors")[-1].endswith(
        "55.safetensors"
    )


def stop_at(folder, parallel, step):
    def halt(run, record):
        if run.steps >= step:
            run.stop("enough")

    solver, run = begin(parallel, "v-cycles", callbacks=[halt, Checkpoints(folder)])
    message = resume(run, folder)
    solution = solver.finish(run)
    return message, [record["loss"] for record in solution.events("smooth")]


@pytest.mark.parametrize("order", [("ddp", None), (None, "ddp")])
def test_a_checkpoint_is_resumed_with_another_number_of_processes(two, tmp_path, caplog, order):
    def part(parallel, step):
        return two.call(stop_at, tmp_path, parallel, step)[0] if parallel else stop_at(tmp_path, None, step)

    part(order[0], 20)
    message, losses = part(order[1], 99)
    assert message.startswith("resumed at step 20 of 55")
    torch.testing.assert_close(losses, train(None, "v-cycles")[0], rtol=1e-6, atol=0)
    if order[1] is None:
        assert "was written by a run of 2 processes, and this one has 1" in caplog.text


def train_until_signal(folder):
    """Send SIGTERM to the second process in the middle of a step, far from any record, and return the reason and the steps."""
    losses = []

    def loss(outputs, targets):
        losses.append(1)
        if rank() == 1 and len(losses) == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return cross_entropy(outputs, targets)

    solver = ng.FAS("kaskade", epochs=9, parallel="ddp")
    run = solver.begin(make_hierarchy(), ng.Problem(data(), loss), every=99, callbacks=[Checkpoints(folder)])
    return solver.finish(run).reason, run.steps


def test_a_signal_to_one_process_stops_both_after_the_same_step(two, tmp_path):
    (reason, steps), (reason_there, steps_there) = two.call(train_until_signal, tmp_path)
    assert reason_there.startswith("SIGTERM arrived. The run is saved")
    assert reason == "SIGTERM arrived"
    assert 0 < steps == steps_there < 24  # the coarsest level alone has 25 steps
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{steps:09d}.safetensors"]


def resume_apart(folder):
    solver, run = begin("ddp", "v-cycles", callbacks=[Checkpoints(folder)])
    if rank() == 0:
        resume(run, folder)
    solver.finish(run)


def test_ranks_that_resume_from_other_places_are_refused(two, tmp_path):
    two.call(stop_at, tmp_path, "ddp", 20)
    message = two.refusal(resume_apart, tmp_path)
    assert message.startswith(
        "the ranks differ in the step to go on from: 20 on rank 0 and 0 on rank 1. Resume all of them"
    )
