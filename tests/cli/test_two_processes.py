"""Two real processes and one output, one folder of checkpoints, or one report: the second is refused, or both do right."""

import os
import subprocess
import sys
from contextlib import contextmanager
from time import sleep

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.fas.checkpoint.checkpoint import LOCK, list_checkpoints
from tests.support.command_line import run

WAITING = """
from pathlib import Path
from time import sleep
from torch import nn

def make():
    Path("begun").touch()
    while not Path("go").exists():
        sleep(0.01)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
"""
DIGITS = ("train", "mlp", "--data", "digits", "--widths", "16", "--epochs", "2", "--levels", "2", "--seed", "3")


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


@contextmanager
def netgraph_in_a_process(*words):
    """Begin a command in a process of its own, and let it go on to its end after the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "netgraph", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        assert process.wait() == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        sleep(0.01)


@pytest.mark.parametrize(
    ("command", "output", "name"),
    [
        ("coarsen", ("-o", "net.hierarchy"), "net.hierarchy"),
        ("export", ("net.graphml",), "net.graphml"),
    ],
    ids=["coarsen", "export"],
)
def test_a_second_command_with_the_same_output_is_refused_and_the_first_goes_on(
    tmp_path, monkeypatch, command, output, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waiting.py").write_text(WAITING)
    torch.save(make().state_dict(), "net.pt")
    words = (command, "net.pt", *output, "--arch", "waiting:make", "--input", "2x6")
    with netgraph_in_a_process(*words) as first:
        wait_for(tmp_path / "begun", first)
        code, out, err = run(*words)
        assert (code, out) == (1, "")
        assert err.startswith(f"{name} is in use by process {first.pid} on "), err
        assert not os.path.exists(name)
        (tmp_path / "go").touch()
    assert os.path.exists(name)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".netgraph")]


def test_a_second_run_with_the_same_folders_is_refused_before_it_begins_and_the_first_is_as_alone(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folders = ("--checkpoints", "points", "--report", "report")
    with netgraph_in_a_process(*DIGITS, *folders, "-o", "one.safetensors") as first:
        wait_for(tmp_path / "report" / LOCK, first)
        for words, name in ((folders[:2], "points"), (folders[2:], "report"), ((*folders[:2], "--resume"), "points")):
            code, out, err = run(*DIGITS, *words, "-o", "two.safetensors")
            assert (code, out) == (1, "")
            assert err.startswith(f"the folder {name} is in use by process {first.pid} on "), err
        assert not os.path.exists("two.safetensors")
    assert run(*DIGITS, "-o", "alone.safetensors")[0] == 0
    one, alone = ng.load_model("one.safetensors"), ng.load_model("alone.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), alone.parameters(), strict=True))
    assert LOCK not in {*os.listdir("points"), *os.listdir("report")}
    assert list_checkpoints("points")


def test_processes_that_save_one_hierarchy_over_and_over_leave_one_whole_hierarchy(tmp_path):
    place, children = tmp_path / "net.hierarchy", []
    hierarchies = [ng.build_hierarchy(make().requires_grad_(False), torch.zeros(2, 6)) for _ in range(3)]
    for number, hierarchy in enumerate(hierarchies):
        for level in hierarchy.levels:
            for parameter in level.model.parameters():
                parameter.data.fill_(float(number))
    for hierarchy in hierarchies:
        if (child := os.fork()) == 0:
            status = 1
            try:
                for _ in range(6):
                    ng.save(hierarchy, place)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["net.hierarchy"]
    values = {float(v) for level in ng.load(place).levels for p in level.model.parameters() for v in p.unique()}
    assert len(values) == 1, "the levels are of one save"
