"""A place that turns full, read-only or vanishes while a run goes on: a sentence, no half a file, and no lost result."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.cli.commands import train
from netgraph.errors import LoadError, NetgraphError
from netgraph.fas.checkpoint.checkpoint import NAME, Checkpoints, list_checkpoints, resume
from netgraph.io.bundle import read_bundle
from netgraph.io.files import atomic_writes
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.refused_writes import PREFIX, write_all, write_or_keep
from tests.support.command_line import run
from tests.support.tracked_runs import begun

HELP = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "The quota is used up",
    errno.EROFS: "Nothing can be written there",
    errno.EACCES: "change its permissions",
    errno.EIO: "The disk or its connection fails",
}
REFUSALS = tuple(HELP)
DIGITS = ("train", "mlp", "--data", "digits", "--widths", "16", "--epochs", "1", "--levels", "2")


def refuse(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


def read_weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def are_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def build(seed=0):
    torch.manual_seed(seed)
    return ng.build_hierarchy(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("call", "number"),
    [("fsync", number) for number in REFUSALS] + [("mkdir", errno.EROFS), ("replace", errno.ENOSPC)],
)
def test_checkpoints_that_a_folder_refuses_are_warnings_and_the_last_good_one_stays(
    tmp_path, monkeypatch, caplog, call, number
):
    solver, undisturbed = begun([], cycles=3)
    expected = read_weights(solver.finish(undisturbed).model)

    def break_folder(run, record):
        if record["event"] == "cycle" and run.cycles == 2:
            monkeypatch.setattr(os, call, refuse(number))

    solver, disturbed = begun([break_folder, Checkpoints(tmp_path)], cycles=3)
    assert are_equal(expected, read_weights(solver.finish(disturbed).model))
    monkeypatch.undo()
    assert os.strerror(number) in caplog.text
    (last,) = list_checkpoints(tmp_path)
    assert os.listdir(tmp_path) == [last.name]
    solver, again = begun([], cycles=3)
    assert resume(again, tmp_path).startswith("resumed at step")
    assert are_equal(expected, read_weights(solver.finish(again).model))


def test_a_folder_of_checkpoints_that_vanishes_is_a_warning_and_training_goes_on(tmp_path, caplog):
    solver, undisturbed = begun([], cycles=3)
    expected = read_weights(solver.finish(undisturbed).model)

    def remove(run, record):
        if record["event"] == "cycle" and run.cycles == 2:
            shutil.rmtree(tmp_path / "points")

    solver, disturbed = begun([remove, Checkpoints(tmp_path / "points")], cycles=3)
    assert are_equal(expected, read_weights(solver.finish(disturbed).model))
    assert "no checkpoint was written at step" in caplog.text
    assert os.listdir(tmp_path) == []


def test_an_old_checkpoint_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    def unlink(path, **options):
        refuse(errno.EROFS)() if NAME.fullmatch(path.name) else real(path, **options)

    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink)
    solver, disturbed = begun([Checkpoints(tmp_path / "points", keep=1)], cycles=3)
    solver.finish(disturbed)
    assert "is not removed (Read-only file system)" in caplog.text
    assert len(list_checkpoints(tmp_path / "points")) > 1


@pytest.mark.parametrize("cycles", [0, 1])
def test_a_run_that_a_signal_ends_says_whether_it_was_saved(tmp_path, monkeypatch, cycles):
    def strike(run, record):
        if record["event"] == "smooth" and run.cycles == cycles:
            monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
            os.kill(os.getpid(), signal.SIGTERM)

    solver, struck = begun([Checkpoints(tmp_path), strike], cycles=3)
    reason = solver.finish(struck).reason
    rest = f", and can be resumed from {list_checkpoints(tmp_path)[0].name}" if cycles else ""
    assert reason == f"SIGTERM arrived. The run could not be saved in {tmp_path}{rest}"


@pytest.mark.parametrize(
    ("name", "number"),
    [("net.safetensors", number) for number in REFUSALS]
    + [("net.hierarchy", errno.ENOSPC), ("net.hierarchy", errno.EACCES), ("net.graphml", errno.EROFS)]
    + [("net.html", errno.EDQUOT), ("net.svg", errno.ENOSPC)],
)
def test_an_output_that_is_refused_is_one_sentence_and_leaves_the_older_one(tmp_path, monkeypatch, name, number):
    place = tmp_path / name

    def write(hierarchy):
        if name == "net.safetensors":
            ng.save(hierarchy.levels[1].model, place)
        elif name == "net.hierarchy":
            ng.save(hierarchy, place)
        else:
            ng.export(hierarchy, place)

    def read():
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        return [(file.name, file.read_bytes()) for file in files]

    write(build())
    older = read()
    sentence = (
        rf"^{re.escape(str(place))}(/\w+\.safetensors)? cannot be written \({os.strerror(number)}\)\. .*{HELP[number]}"
    )
    for module, call in ((os, "fsync"), (os, "mkdir"), (atomic_writes, "_swap") if place.is_dir() else (os, "replace")):
        monkeypatch.setattr(module, call, refuse(number))
        with pytest.raises(NetgraphError, match=sentence):
            write(build(1))
        monkeypatch.undo()
        assert read() == older
        assert os.listdir(tmp_path) == [name]


def test_a_result_is_kept_where_temporary_files_go_and_its_place_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def write(path):
        write_atomically(lambda place: place.write_text("weights"), path)

    with pytest.raises(NetgraphError, match=r"gone/a\.txt cannot be written \(No such file") as raised:
        write_or_keep(write, tmp_path / "gone" / "a.txt", "the trained network")
    place = re.search(r"The trained network is kept as (.*)\.$", str(raised.value))[1]
    assert Path(place).read_text() == "weights"
    assert Path(place).parent.name.startswith(PREFIX)
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(NetgraphError, match=r"No space left.* The trained network is lost, because .*No space left"):
        write_or_keep(write, tmp_path / "a.txt", "the trained network")
    assert os.listdir(tmp_path) == [Path(place).parent.name], "nothing half-written, and no empty folder"


def test_every_result_is_tried_and_all_refusals_are_told():
    done = []

    def fail(word):
        done.append(word)
        raise LoadError(f"{word} is refused.")

    error = write_all(lambda: fail("one"), lambda: done.append("two"), lambda: fail("three"))
    assert str(error) == "one is refused. three is refused."
    assert done == ["one", "two", "three"]
    assert write_all(lambda: None) is None


def test_a_trained_network_and_its_report_are_kept_if_their_folders_vanish(tmp_path, monkeypatch):
    places = tmp_path / "places"
    (tmp_path / "tmp").mkdir()
    places.mkdir()
    real = train._solve

    def solve(*args):
        answer = real(*args)
        shutil.rmtree(places)
        places.write_text("")  # and nothing can be made there
        return answer

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(train, "_solve", solve)
    code, out, err = run(*DIGITS, "-o", places / "net.safetensors", "--report", places / "report")
    assert code == 1
    assert "accuracy" in out, "the result is printed all the same"
    kept = re.findall(r"is kept as (\S*)\.(?: |$)", err)
    assert [Path(path).name for path in kept] == ["net.safetensors", "report"]
    assert isinstance(ng.load_model(kept[0]), nn.Module)
    assert json.loads((Path(kept[1]) / "run.json").read_text())["history"]
    assert "The trained network is kept" in err
    assert "The report is kept" in err


def test_a_stdout_and_a_stderr_that_are_full_cost_no_trained_network(tmp_path):
    with open("/dev/full", "w") as full:  # the kernel refuses every byte
        code = subprocess.call(
            [sys.executable, "-m", "netgraph", *DIGITS, "-o", tmp_path / "net.safetensors"], stdout=full, stderr=full
        )
    assert code == 1
    assert isinstance(ng.load_model(tmp_path / "net.safetensors"), nn.Module)


def test_a_log_that_is_full_does_not_end_a_run(monkeypatch):
    solver, undisturbed = begun([])
    expected = read_weights(solver.finish(undisturbed).model)
    logger = logging.getLogger("netgraph")
    handlers, level = list(logger.handlers), logger.level
    try:
        with open("/dev/full", "w", buffering=1) as full:
            monkeypatch.setattr(sys, "stderr", full)
            ng.setup_logging(json=True)
            solver, logged = begun([ng.fas.log_event])
            assert are_equal(expected, read_weights(solver.finish(logged).model))
            monkeypatch.undo()
            with pytest.raises(OSError, match="No space left"):
                full.flush()
    except OSError:  # of the last close
        pass
    finally:
        logger.handlers[:], logger.propagate = handlers, True
        logger.setLevel(level)


MOUNTED = """
import os, subprocess, sys
import torch
from torch import nn
import netgraph as ng
from netgraph.errors import NetgraphError

def build(width):
    torch.manual_seed(0)
    return ng.build_hierarchy(nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2)), torch.zeros(2, 6))

def mount(*words):
    return subprocess.call(["mount", *words], stderr=subprocess.DEVNULL)

folder = sys.argv[1]
if mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", folder):
    sys.exit(77)
ng.save(build(8), f"{folder}/net.hierarchy")
with open(f"{folder}/filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
for options in (None, "remount,ro"):
    if options and mount("-o", options, folder):
        sys.exit(77)
    try:
        ng.save(build(9), f"{folder}/net.hierarchy")
        sys.exit("nothing was refused")
    except NetgraphError as error:
        print(error)
    assert ng.load(f"{folder}/net.hierarchy").levels[0].n_units == build(8).levels[0].n_units
    assert sorted(os.listdir(folder)) == ["filler", "net.hierarchy"], os.listdir(folder)
"""


def test_a_mount_that_is_really_full_or_read_only_keeps_the_older_hierarchy(tmp_path):
    """The tests above put the refusals in place of the system's. Here the kernel refuses, where a mount is allowed."""
    words = [sys.executable, "-c", MOUNTED, str(tmp_path)]
    if shutil.which("unshare") is None:
        pytest.skip("a mount of its own needs unshare")
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    result = subprocess.run([*unshare, *words], capture_output=True, text=True)
    if result.returncode == 77 or "unshare failed" in result.stderr:
        pytest.skip("this system lets no user mount")
    assert result.returncode == 0, result.stderr
    full, read_only = result.stdout.splitlines()
    assert "No space left on device" in full
    assert "Read-only file system" in read_only


def test_bundles_of_a_refused_write_are_not_damaged_ones(tmp_path, monkeypatch):
    ng.save(build().levels[1].model, tmp_path / "net.safetensors")
    monkeypatch.setattr(os, "replace", refuse(errno.EDQUOT))
    with pytest.raises(LoadError, match="Disk quota exceeded"):
        ng.save(build(1).levels[1].model, tmp_path / "net.safetensors")
    assert read_bundle(tmp_path / "net.safetensors")[1]
