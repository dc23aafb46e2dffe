"""Checkpoints: a run that was stopped or killed anywhere ends with the weights of an uninterrupted one, bit for bit."""

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

import netgraph as ng
from netgraph.errors import LoadError, NetgraphError
from netgraph.fas.checkpoint.checkpoint import Checkpoints, list_checkpoints, resume
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.rematch import compute_signatures
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Adapt, Gate, Smoothing, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.run import Run
from netgraph.fas.solver.solver import FAS
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.models.perceptron import mlp
from netgraph.optim.muon import MuonWithAdamW

ROOT = Path(__file__).parents[3]
OPEN = Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf"))
TIMES = Smoothing(pre=2, post=1, coarse=3)
HIERARCHIES = {}


class Noisy(Dataset):
    """Rows with noise of torch, numpy and Python on every draw."""

    def __len__(self):
        return 48

    def __getitem__(self, i):
        x = torch.randn(6, generator=torch.Generator().manual_seed(i))
        return x + 0.1 * torch.rand(6) + np.float32(np.random.rand() + random.random()), i % 3


def rows():
    random_ = torch.Generator().manual_seed(5)
    return TensorDataset(torch.randn(48, 6, generator=random_), torch.randint(0, 3, (48,), generator=random_))


def networks(n_levels, importance="none"):
    """A hierarchy of a network with dropout and batch norm, the same at each call."""
    key = n_levels, importance
    if key not in HIERARCHIES:
        torch.manual_seed(0)
        layers = mlp((6, 16, 8, 3))
        model = nn.Sequential(layers[0], nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), *layers[2:])
        hierarchy = ng.build_hierarchy(model, torch.randn(2, 6), n_levels=n_levels, importance=importance)
        HIERARCHIES[key] = (
            hierarchy,
            [{k: v.clone() for k, v in m.model.state_dict().items()} for m in hierarchy.levels],
        )
    hierarchy, states = HIERARCHIES[key]
    for level, state in zip(hierarchy.levels, states, strict=True):
        level.model.load_state_dict(state)
    return hierarchy


ADAMW = partial(torch.optim.AdamW, weight_decay=0.1)
SGD = partial(torch.optim.SGD, momentum=0.9)
RUNS = {
    "w, AdamW, tau several, running mean": {"cycle": "w", "optimizer": ADAMW, "cycles": 2, "options": Options(TIMES, Tau("several", 2), OPEN)},
    "v, SGD, closed gates": {"cycle": "v", "optimizer": SGD, "cycles": 3, "options": Options(TIMES, Tau("common", 2), Gate(gap=-1.0, share=float("inf")))},
    "full, RMSprop, whole tau": {"cycle": "full", "optimizer": partial(torch.optim.RMSprop, momentum=0.5), "epochs": 4, "options": Options(TIMES, Tau("whole"), OPEN)},
    "v, Muon": {"cycle": "v", "optimizer": MuonWithAdamW, "cycles": 3, "options": Options(TIMES, Tau("common", 2), OPEN)},
    "additive, Adam, accumulated": {"cycle": "additive", "optimizer": torch.optim.Adam, "cycles": 3, "options": Options(Smoothing(2, 1, 3, accumulate=2, ema=0.8), Tau("none", 1), OPEN)},
}  # fmt: skip


def begun(name, *, callbacks=(), data=None):
    """A solver and its run, made again as another process would."""
    solver = FAS(lr=1e-2, schedule="one-cycle", **RUNS[name])
    loader = data if data is not None else DataLoader(Noisy(), 8, shuffle=True)
    return solver, solver.begin(networks(3), Problem(loader, cross_entropy), callbacks=callbacks, every=1)


def ended(solver, run):
    np.random.seed(3)
    random.seed(3)
    solution = solver.finish(run)
    weights = {f"{i}/{k}": v.clone() for i, g in enumerate(run.grids) for k, v in g.model.state_dict().items()}
    return weights | ({} if solution.mean is None else {k: v.clone() for k, v in solution.mean.state_dict().items()})


def stopping(at):
    def callback(run, record):
        if record["event"] == "smooth" and run.steps == at:
            run.stop("enough for today")

    return callback


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_at_any_step_and_resumed_is_the_same_bit_for_bit(name, tmp_path):
    solver, run = begun(name)
    uninterrupted = ended(solver, run)
    for at in range(1, run.steps, 5):
        folder = tmp_path / str(at)
        ended(*begun(name, callbacks=[stopping(at), Checkpoints(folder, every=100)]))
        solver, second = begun(name, callbacks=[stopping(at + 4), Checkpoints(folder)])
        assert f"at step {at} of" in resume(second, folder)
        ended(solver, second)
        solver, third = begun(name)
        resume(third, folder)
        assert_same_bits(uninterrupted, ended(solver, third))


@pytest.mark.parametrize("kind", ["its own generator", "a list", "views", "a sampler"])
def test_every_kind_of_minibatches_goes_on_where_it_was(kind, tmp_path):
    def data():
        generator = torch.Generator().manual_seed(11)
        if kind == "a list":
            return list(DataLoader(rows(), 8))
        if kind == "views":  # that lie askew in memory, one behind the other
            inputs, targets = rows().tensors
            return list(
                zip(inputs.T.contiguous().T.split(7), targets[:, None].expand(48, 2)[:, 0].split(7), strict=True)
            )
        if kind == "a sampler":
            return DataLoader(rows(), 8, sampler=torch.utils.data.RandomSampler(rows(), generator=generator))
        return DataLoader(rows(), 8, shuffle=True, generator=generator)

    name = "w, AdamW, tau several, running mean"
    uninterrupted = ended(*begun(name, data=data()))
    ended(*begun(name, data=data(), callbacks=[stopping(13), Checkpoints(tmp_path)]))
    solver, run = begun(name, data=data())
    resume(run, tmp_path)
    assert_same_bits(uninterrupted, ended(solver, run))


def test_every_field_of_a_run_and_a_grid_is_saved_or_an_argument():
    """A new field must be added here and in `capture_state`."""
    arguments = {
        "maps",
        "make_grid",
        "problem",
        "options",
        "visits",
        "callbacks",
        "seed",
        "every",
        "evaluations",
        "reason",
        "outcome",
        "converged",
        "ranks",
        "begun_on",
        "plan",
        "lengths",
    }
    written = {
        "switches",
        "grids",
        "schedules",
        "stream",
        "mean",
        "ledger",
        "history",
        "top",
        "at",
        "instead",
        "done",
        "steps",
        "cycles",
    }
    written |= {"refused", "losses", "backoffs", "steering", "coarse_problems", "account", "before", "notes", "rng"}
    written |= {"estimates", "remainder"}
    assert {f.name for f in fields(Run)} == arguments | written
    assert {f.name for f in fields(Grid)} == {
        "model",
        "smoother",
        "x",
        "rhs",
        "common",
        "injected",
        "position",
        "new",
    }


def test_an_evaluation_that_a_kill_prevented_is_made_after_resuming(tmp_path):
    """A record of smoothing comes before the evaluation of its step, and a checkpoint may be written there."""

    def run_of(callbacks):
        torch.manual_seed(0)
        levels = ng.build_hierarchy(mlp((6, 16, 8, 3)), torch.randn(2, 6))
        problem = Problem(DataLoader(rows(), 8, shuffle=True), cross_entropy, valid=lambda model: {"loss": 0.0})
        solver = FAS("kaskade", SGD, 1e-2, epochs=4)
        return solver, solver.begin(levels, problem, callbacks=callbacks, every=1, evaluations=3)

    def killed(run, record):
        if record["event"] == "smooth" and run.steps == 6:
            raise KeyboardInterrupt

    solver, uninterrupted = run_of([])
    solver.finish(uninterrupted)
    solver, run = run_of([Checkpoints(tmp_path, seconds=0.0), killed])
    with pytest.raises(KeyboardInterrupt):
        solver.finish(run)
    solver, run = run_of([])
    assert "at step 6 of" in resume(run, tmp_path)
    solver.finish(run)
    steps = [
        [r["step"] for r in history if r["event"] == "evaluate"] for history in (uninterrupted.history, run.history)
    ]
    assert steps[0] == steps[1] == list(range(3, 25, 3))


def test_history_and_costs_go_on(tmp_path):
    name = "v, SGD, closed gates"
    ended(*begun(name, callbacks=[stopping(5), Checkpoints(tmp_path)]))
    solver, run = begun(name)
    resume(run, tmp_path)
    seconds = run.ledger.total_seconds()
    assert seconds > 0
    ended(solver, run)
    smooth = [r["step"] for r in run.history if r["event"] == "smooth"]
    assert smooth == list(range(1, run.steps + 1))
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(run.history))


@pytest.mark.parametrize("importance", ["none", "magnitude"])
def test_levels_that_were_matched_again_are_found_again(importance, tmp_path):
    name = "w, AdamW, tau several, running mean"
    options = replace(RUNS[name]["options"], adapt=Adapt(rematch=1))

    def again(callbacks=()):
        solver = FAS("w", ADAMW, 1e-2, cycles=3, options=options)
        return solver, solver.begin(
            networks(3, importance),
            Problem(DataLoader(Noisy(), 8, shuffle=True), cross_entropy),
            callbacks=callbacks,
            every=1,
        )

    solver, run = again()
    assert all(t.is_weighted == (importance == "magnitude") for t in run.maps.hierarchy.levels[1].transfers.values())
    uninterrupted = ended(solver, run)
    assert any(r["event"] == "rematch" and not r["why"] for r in run.history)
    ended(*again([stopping(22), Checkpoints(tmp_path)]))
    solver, run = again()
    resume(run, tmp_path)
    assert_same_bits(uninterrupted, ended(solver, run))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_and_handlers_are_restored(number, tmp_path):
    before = signal.getsignal(number)
    name = "w, AdamW, tau several, running mean"

    def send_signal(run, record):
        if record["event"] == "smooth" and run.steps == 4:
            os.kill(os.getpid(), number)

    solver, run = begun(name, callbacks=[send_signal, Checkpoints(tmp_path)])
    ended(solver, run)
    assert run.steps == 4
    assert run.reason.startswith(f"{number.name} arrived")
    assert signal.getsignal(number) is before
    uninterrupted = ended(*begun(name))
    solver, again = begun(name)
    assert resume(again, tmp_path) is not None
    assert_same_bits(uninterrupted, ended(solver, again))


def test_signal_handlers_are_restored_if_the_run_fails(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def fails(run, record):
        if record["event"] == "smooth":
            raise RuntimeError("a callback of somebody")

    solver, run = begun("v, SGD, closed gates", callbacks=[Checkpoints(tmp_path), fails])
    with pytest.raises(RuntimeError, match="somebody"):
        solver.finish(run)
    assert signal.getsignal(signal.SIGTERM) is before
    assert run.history[-1]["event"] == "failed"


def test_damaged_checkpoints_are_skipped_by_name_and_the_newest_whole_one_is_taken(tmp_path, caplog):
    name = "v, SGD, closed gates"
    ended(*begun(name, callbacks=[Checkpoints(tmp_path, keep=5)]))
    newest, second, *_ = list_checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-7])
    with caplog.at_level(logging.INFO, logger="netgraph"):
        message = resume(begun(name)[1], tmp_path)
    assert newest.name in message
    assert second.name in message
    assert newest.name in caplog.text
    for path in list_checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(NetgraphError, match=r"all checkpoints of .* are damaged"):
        resume(begun(name)[1], tmp_path)


CRAFTED = [
    (("at",), -1), (("at",), 10**9), (("top",), 7), (("done",), -(10**12)), (("steps",), "3"), (("cycles",), None), (("losses",), [None]),
    (("instead",), ["smooth", 0, 10**12]), (("instead",), ["swim", 0, 1]), (("grids", 0, "turns"), -5), (("grids", 1, "rhs"), 10**12),
    (("stream", "position"), 10**12), (("schedules",), []), (("rests",), {"9": {}}), (("descents",), {"2": {}}), (("layouts",), {"0/x/0.weight": [0, [2**50, 1]]}),
    (("ledger", "rows"), 3), (("steering",), {"factor": "x"}), (("grids",), {}), ((), []),
    (("remainder", "largest"), -1), (("remainder", "batches"), {"list": [{"tensor": 7}]}), (("estimates",), {"3": {}}),
    *((("estimates",), {"0": {"levels": [0, 1], "sizes": [2, 4], "coefficients": [1.0, 0.5], "age": 0} | wrong}) for wrong in (
        {"levels": [0, 7]}, {"levels": [1, 0]}, {"levels": [1, 2]}, {"sizes": [2, 0]}, {"sizes": [2]}, {"coefficients": ["1", 0.5]}, {"age": -2},
        {"report": 3},
    )),
]  # fmt: skip


def replaced(value, place, other):
    """JSON data with another value in a place."""
    if not place:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], other)
    return copy


def test_a_checkpoint_with_a_right_digest_and_impossible_positions_is_refused(tmp_path):
    name = "v, SGD, closed gates"
    ended(*begun(name, callbacks=[stopping(4), Checkpoints(tmp_path, keep=1)]))
    (path,) = list_checkpoints(tmp_path)
    tensors, document = read_bundle(path)
    for place, value in CRAFTED:
        write_bundle(path, tensors, replaced(document, ("run", *place), value))
        with pytest.raises(
            NetgraphError, match=r"is no checkpoint of this version|asks for .* bytes|the state is not one of"
        ):
            resume(begun(name)[1], tmp_path)
    write_bundle(path, tensors, document)
    assert "resumed at step 4" in resume(begun(name)[1], tmp_path)


def test_a_checkpoint_that_lacks_a_weight_does_not_leave_it_as_it_began(tmp_path):
    name = "additive, Adam, accumulated"
    ended(*begun(name, callbacks=[stopping(4), Checkpoints(tmp_path, keep=1)]))
    (path,) = list_checkpoints(tmp_path)
    tensors, document = read_bundle(path)
    changes = {
        "0/x/0.weight": None,
        "2/x/5.bias": torch.zeros(1),
        next(n for n in tensors if n.startswith("mean/")): None,
    }
    for lost, other in changes.items():
        rest = {n: t for n, t in tensors.items() if n != lost}
        write_bundle(path, rest if other is None else {**rest, lost: other}, document)
        with pytest.raises(LoadError, match="are not those of the run"):
            resume(begun(name)[1], tmp_path)


def test_no_more_are_kept_than_asked_for_and_an_empty_folder_resumes_nothing(tmp_path):
    assert resume(begun("v, SGD, closed gates")[1], tmp_path) is None
    assert resume(begun("v, SGD, closed gates")[1], tmp_path / "nowhere") is None
    ended(*begun("v, SGD, closed gates", callbacks=[Checkpoints(tmp_path, keep=2)]))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (lambda: FAS("v", SGD, 1e-2, cycles=3, options=Options(TIMES, Tau("common", 3), Gate(gap=-1.0, share=float("inf")))), r"another options: tau.batches is 2 there and 3 here"),
        (lambda: FAS("v", SGD, 2e-2, cycles=3, options=RUNS["v, SGD, closed gates"]["options"]), "another optimizer: level 0"),
        (lambda: FAS("v", SGD, 1e-2, cycles=4, options=RUNS["v, SGD, closed gates"]["options"]), "another plan"),
        (lambda: FAS("v", SGD, 1e-2, cycles=3, options=RUNS["v, SGD, closed gates"]["options"], seed=3), "another seed"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_options_is_refused_by_name(other, sentence, tmp_path):
    ended(*begun("v, SGD, closed gates", callbacks=[Checkpoints(tmp_path)]))
    run = other().begin(networks(3), Problem(DataLoader(Noisy(), 8, shuffle=True), cross_entropy))
    with pytest.raises(NetgraphError, match=sentence):
        resume(run, tmp_path)


def test_a_checkpoint_of_another_network_or_other_data_is_refused_by_name(tmp_path):
    name = "v, SGD, closed gates"
    changed = rows()
    changed.tensors[1][0] = (changed.tensors[1][0] + 1) % 3
    ended(*begun(name, data=DataLoader(rows(), 8), callbacks=[Checkpoints(tmp_path)]))
    for data in (DataLoader(changed, 8), DataLoader(rows(), 6), list(DataLoader(rows(), 8))):
        with pytest.raises(NetgraphError, match="another data"):
            resume(begun(name, data=data)[1], tmp_path)
    wider = ng.build_hierarchy(mlp((6, 18, 8, 3)), torch.randn(2, 6), n_levels=3)
    solver = FAS(lr=1e-2, schedule="one-cycle", **RUNS[name])
    with pytest.raises(NetgraphError, match="another network"):
        resume(solver.begin(wider, Problem(DataLoader(rows(), 8), cross_entropy)), tmp_path)


def small(coarsener="hem", settings=None, callbacks=(), options=None, lr=1e-2):
    torch.manual_seed(0)
    levels = ng.build_hierarchy(mlp((6, 16, 8, 3)), torch.randn(2, 6), coarsener=coarsener, n_levels=3)
    solver = FAS("v", SGD, lr, cycles=3, options=options or Options(TIMES, Tau("common", 2), OPEN))
    problem = Problem(DataLoader(rows(), 8), cross_entropy, settings=settings)
    return solver, solver.begin(levels, problem, callbacks=callbacks, every=1)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"coarsener": "random"}, r"another hierarchy: level 1 is \"channels \w+\" there and \"channels \w+\" here"),
        ({"settings": {"label smoothing": 0.1}}, "another setting: label smoothing is 0.0 there and 0.1 here"),
        ({"settings": {}}, "another setting: label smoothing is 0.0 there and null here"),
    ],
)
def test_a_checkpoint_of_other_levels_or_another_loss_is_refused_by_name(other, sentence, tmp_path):
    same = {"settings": {"label smoothing": 0.0}}
    ended(*small(**same, callbacks=[stopping(9), Checkpoints(tmp_path)]))
    with pytest.raises(NetgraphError, match=sentence):
        resume(small(**{**same, **other})[1], tmp_path)
    assert resume(small(**same)[1], tmp_path) is not None


def test_levels_that_were_matched_again_do_not_make_it_another_run(tmp_path):
    options = Options(TIMES, Tau("common", 2), OPEN, adapt=Adapt(rematch=1))
    ended(*small(lr=0.5, options=options, callbacks=[Checkpoints(tmp_path), stopping(14)]))
    solver, run = small(lr=0.5, options=options, callbacks=[Checkpoints(tmp_path), stopping(20)])
    resume(run, tmp_path)
    begun_on = list(run.begun_on)
    assert compute_signatures(run.maps) != begun_on  # else this shows nothing
    ended(solver, run)
    assert "at step 20 of" in resume(small(lr=0.5, options=options)[1], tmp_path)


def test_a_checkpoint_without_levels_is_resumed_with_one_warning(tmp_path, caplog):
    ended(*small(callbacks=[stopping(9), Checkpoints(tmp_path)]))
    path = list_checkpoints(tmp_path)[0]
    tensors, document = read_bundle(path)
    del document["identity"]["hierarchy"], document["identity"]["setting"]
    write_bundle(path, tensors, document)
    with caplog.at_level(logging.WARNING, logger="netgraph"):
        assert "at step 9 of" in resume(small(coarsener="random")[1], tmp_path)
    (record,) = caplog.records
    assert "did not save its setting and hierarchy. They are taken to be those of this run" in record.message


def test_a_new_run_does_not_mix_with_the_checkpoints_of_another(tmp_path):
    name = "v, SGD, closed gates"
    ended(*begun(name, callbacks=[Checkpoints(tmp_path)]))
    solver, run = begun(name, callbacks=[Checkpoints(tmp_path)])
    with pytest.raises(NetgraphError, match=r"this is a new run\. Resume the old run, or give another folder"):
        solver.finish(run)


def test_a_checkpoint_that_cannot_be_written_is_a_warning_and_training_goes_on(tmp_path, caplog, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    uninterrupted = ended(*begun("v, SGD, closed gates"))
    solver, run = begun("v, SGD, closed gates", callbacks=[Checkpoints(tmp_path)])
    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, logger="netgraph"):
        assert_same_bits(uninterrupted, ended(solver, run))
    assert "No space left" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_run_in_another_thread_is_refused_while_one_has_the_folder(tmp_path):
    refusals = []

    def begin_another(run, record):
        def other():
            with pytest.raises(NetgraphError, match="in use by a run in another thread") as caught:
                Checkpoints(f"{tmp_path}/.")(run, {"event": "begin"})
            refusals.append(caught.value)

        if record["event"] == "cycle":
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    solver, run = small(callbacks=[Checkpoints(tmp_path), begin_another])
    solver.finish(run)
    assert len(refusals) == run.cycles > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    solver, again = small(callbacks=[Checkpoints(tmp_path)])
    assert resume(again, tmp_path).startswith(f"resumed at step {run.steps}")
    thread = threading.Thread(target=solver.finish, args=[again])
    thread.start()
    thread.join()
    assert again.steps == run.steps


def test_an_impossible_folder_is_refused_before_work_begins(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NetgraphError, match="cannot be written to"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(NetgraphError, match="Give 1 or more"):
        Checkpoints(tmp_path, every=0)


def test_no_kill_loses_a_run():
    """Kill processes at random, at every write call and inside the file. benchmarks/training/kills.py has the long version."""
    process = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "training" / "kills.py", "--quick"],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    outcome = json.loads(process.stdout)
    assert outcome["random"] == {"kills": 2, "identical": True}
    writing = outcome["writing"]
    assert writing["calls"] > 5
    assert writing["sizes"] > 1
    assert writing["identical"] == writing["deaths"] == writing["calls"] + writing["sizes"]
    assert min(writing["left"]) >= 1
