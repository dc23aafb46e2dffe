"""A clock that is set forwards or backwards during a run: order is that of steps, and durations are of another clock."""

import os
import time

import pytest
import torch

from netgraph.fas import parse_alerts
from netgraph.fas.checkpoint.checkpoint import Checkpoints, list_checkpoints, resume
from netgraph.io.files.atomic_writes import remove_temporaries
from netgraph.io.files.writers import Writer, identify_process
from tests.support.tracked_runs import begun

YEAR = 365.25 * 86400


def read_weights(solution):
    return [parameter.detach().clone() for parameter in solution.model.parameters()]


def finish(callbacks, cycles=4):
    solver, run = begun(callbacks, cycles=cycles)
    return solver.finish(run)


@pytest.mark.parametrize("stamps", [lambda n: 1e9 - n, lambda n: time.time() + 50 * YEAR / n, lambda n: 0.0])
def test_checkpoints_are_pruned_and_resumed_in_the_order_of_their_steps(tmp_path, stamps):
    """Each file is older than the one before by its time, or all are of the future, or of 1970."""
    expected = read_weights(finish([]))

    def stamp(run, record):
        for number, path in enumerate(reversed(list_checkpoints(tmp_path)), start=1):
            os.utime(path, (stamps(number), stamps(number)))
        if record["event"] == "cycle" and run.cycles == 3:
            run.stop("a pause")

    stopped = finish([Checkpoints(tmp_path, keep=2), stamp])
    steps = [record["step"] for record in stopped.events("cycle")]
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        f"checkpoint-{n:09d}.safetensors" for n in steps[:0:-1]
    ]
    solver, run = begun([], cycles=4)
    assert resume(run, tmp_path).startswith(f"resumed at step {steps[-1]} ")
    assert all(torch.equal(a, b) for a, b in zip(expected, read_weights(solver.finish(run)), strict=True))


def test_a_run_with_checkpoints_and_alerts_never_asks_the_clock_that_can_be_set(tmp_path, monkeypatch):
    def forbid():
        raise AssertionError("time.time() jumps when the clock is set")

    alerts = parse_alerts(["throughput(drop=0.99, times=2):raise", "plateau(patience=1000):raise", "memory:raise"])
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, forbid)
    solution = finish([*alerts, Checkpoints(tmp_path, keep=2, seconds=0.0)])
    monkeypatch.undo()
    seconds = [record["seconds"] for record in solution.history]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0.0
    assert len(list_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("moment", [0.0, 1e9, 4e9])
def test_temporaries_are_judged_by_their_process_and_not_by_their_age(tmp_path, moment):
    here = identify_process()
    living = tmp_path / f".netgraph-{here}-{'0' * 16}"
    dead = tmp_path / f".netgraph-{Writer(here.host, here.space, 4_000_000, 1)}-{'1' * 16}"
    for folder in (living, dead):
        folder.mkdir()
        os.utime(folder, (moment, moment))
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == [living.name]
