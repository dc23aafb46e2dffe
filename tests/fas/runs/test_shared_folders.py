"""Two runs and one folder of checkpoints: each keeps its own, and another process is refused."""

import os

import pytest
import torch

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas import Checkpoints, resume
from netgraph.fas.checkpoint.checkpoint import LOCK, list_checkpoints
from netgraph.io.files.writers import Writer, identify_process
from netgraph.models import mlp


def begin(callbacks=(), lr=1e-3, cycles=3):
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    hierarchy = ng.build_hierarchy(mlp((6, 8, 3)), x[:2], n_levels=2)
    solver = ng.FAS("v", torch.optim.AdamW, lr, cycles=cycles)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    problem = ng.Problem(batches, torch.nn.functional.cross_entropy)
    return solver, solver.begin(hierarchy, problem, callbacks=callbacks)


def test_a_run_prunes_and_resumes_its_own_checkpoints_only(tmp_path):
    begun = []

    def interfere(run, record):
        if record["event"] == "smooth" and not begun:
            begun.append(1)
            solver, other = begin([Checkpoints(tmp_path)], 2e-3, 6)
            solver.finish(other)

    def cut(run, record):
        if record["event"] == "cycle" and run.cycles == 2:
            run.stop("as SIGTERM does")

    solver, run = begin([interfere, cut, Checkpoints(tmp_path, keep=1)])
    solver.finish(run)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert f"checkpoint-{run.steps:09d}.safetensors" in names
    assert len(names) == 4, "three of the longer run, and one of this"
    solver, again = begin([Checkpoints(tmp_path, keep=1)])
    assert resume(again, tmp_path).startswith(f"resumed at step {run.steps}")
    plain = begin()
    end, expected = solver.finish(again), plain[0].finish(plain[1])
    for a, b in zip(end.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(list_checkpoints(tmp_path)) == 4


def test_a_checkpoint_of_another_run_is_not_written_over(tmp_path, caplog):
    begun = []

    def interfere(run, record):
        if record["event"] == "smooth" and not begun:
            begun.append(1)
            solver, other = begin([Checkpoints(tmp_path)], 2e-3, 3)
            solver.finish(other)

    solver, run = begin([interfere, Checkpoints(tmp_path)])
    solver.finish(run)
    assert "is of another run" in caplog.text
    solver, again = begin(lr=2e-3)
    assert resume(again, tmp_path) is not None


def test_another_process_is_refused_and_a_dead_one_replaced(tmp_path):
    here = identify_process()
    (tmp_path / LOCK).write_text(str(Writer(here.host, here.space, os.getppid(), parent_start())))
    solver, run = begin([Checkpoints(tmp_path)])
    with pytest.raises(NetgraphError, match=rf"in use by process {os.getppid()} on"):
        solver.finish(run)
    (tmp_path / LOCK).write_text(str(Writer(here.host, here.space, os.getppid(), parent_start() - 1)))
    solver, run = begin([Checkpoints(tmp_path)])
    solver.finish(run)
    assert LOCK not in os.listdir(tmp_path)


def parent_start():
    from netgraph.io.files.writers import _find_start

    return _find_start(os.getppid())


def test_what_a_killed_writer_left_is_removed_when_a_run_begins(tmp_path):
    here = identify_process()
    dead = tmp_path / f".netgraph-{Writer(here.host, here.space, 4_000_000, 1)}-{'0' * 16}"
    dead.mkdir()
    (dead / "checkpoint-000000009.safetensors").write_bytes(b"half")
    solver, run = begin([Checkpoints(tmp_path)])
    solver.finish(run)
    assert not dead.exists()
