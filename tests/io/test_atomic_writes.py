"""Killed at any point, the old file or folder is there, or the new one, and nothing that belongs to others is lost."""

import contextlib
import hashlib
import os
import re
import signal
import stat

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.errors import LoadError, NetgraphError
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.io.files import atomic_writes
from netgraph.io.files.atomic_writes import remove_temporaries, write_atomically, write_folder_atomically
from netgraph.io.files.writers import Writer, identify_process

OURS = re.compile(r"part\d")
CALLS = ("os.replace", "os.fsync", "os.mkdir", "shutil.rmtree", "atomic_writes._swap", "os.unlink")


def run_killed(action, call, number):
    """Run an action in a process that is killed at the n-th use of a function. Return whether it was."""
    pid = os.fork()
    if pid == 0:
        module = {"os": os, "shutil": atomic_writes.shutil, "atomic_writes": atomic_writes}[call.partition(".")[0]]
        name, uses = call.partition(".")[2], []
        real = getattr(module, name)

        def count(*args, **kwargs):
            uses.append(1)
            if len(uses) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(module, name, count)
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def write_parts(text):
    def write(folder):
        for number in range(3):
            (folder / f"part{number}").write_text(text)

    return write


def read_parts(folder):
    texts = {path.read_text() for path in folder.iterdir() if OURS.fullmatch(path.name)}
    assert len(texts) == 1, "two states are mixed"
    return texts.pop()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_the_old_or_the_new_one_wherever_its_writer_is_killed(tmp_path, monkeypatch, call, swaps):
    if not swaps:  # as on a system that cannot exchange two folders by one rename
        monkeypatch.setattr(atomic_writes, "EXCHANGE", {})
    place = tmp_path / "net.parts"
    for number in range(1, 30):
        write_folder_atomically(write_parts("old"), place, OURS)
        (place / "notes.txt").write_text("mine")
        killed = run_killed(lambda: write_folder_atomically(write_parts("new"), place, OURS), call, number)
        if not swaps:
            atomic_writes.finish_exchange(place)
        assert read_parts(place) in ("old", "new")
        assert (place / "notes.txt").read_text() == "mine"
        remove_temporaries(tmp_path)
        assert os.listdir(tmp_path) == ["net.parts"]
        if not killed:
            assert read_parts(place) == "new"
            break
    else:
        raise AssertionError("the writer never came to its end")


@pytest.mark.parametrize("call", CALLS)
def test_a_file_is_the_old_or_the_new_one_and_the_next_writer_tidies_up(tmp_path, call):
    place = tmp_path / "a.safetensors"
    for number in range(1, 20):
        write_bundle(place, {"x": torch.zeros(3)}, {"state": "old"})
        killed = run_killed(lambda: write_bundle(place, {"x": torch.ones(3)}, {"state": "new"}), call, number)
        tensors, document = read_bundle(place)
        assert (document["state"], float(tensors["x"][0])) in (("old", 0.0), ("new", 1.0))
        write_bundle(tmp_path / "other.safetensors", {}, {})
        assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "other.safetensors"]
        if not killed:
            break
    else:
        raise AssertionError("the writer never came to its end")


def test_a_killed_exchange_is_finished_by_whoever_reads_or_writes_next(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_writes, "EXCHANGE", {})
    hierarchy = ng.build_hierarchy(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 6))
    for finish in (ng.load, lambda place: ng.save(hierarchy, place)):
        ng.save(hierarchy, tmp_path / "net.hierarchy")
        assert run_killed(
            lambda: ng.save(hierarchy, tmp_path / "net.hierarchy"), "os.replace", 5
        )  # after three files and the old folder
        assert not (tmp_path / "net.hierarchy").exists()
        finish(tmp_path / "net.hierarchy")
        assert len(ng.load(tmp_path / "net.hierarchy").levels) == 2


def test_what_a_living_writer_or_another_machine_has_aside_stays(tmp_path):
    here = identify_process()
    asides = [
        f".netgraph-{here}-{'0' * 16}",
        f".netgraph-{Writer('elsewhere', here.space, 4_000_000, 1)}-{'1' * 16}",
        f".netgraph-{Writer(here.host, '00000000', 4_000_000, 1)}-{'2' * 16}",  # another container of this name
        ".netgraph-notes",
        ".a.safetensors.1234",
    ]
    dead = f".netgraph-{Writer(here.host, here.space, 4_000_000, 1)}-{'3' * 16}"
    reused = f".netgraph-{Writer(here.host, here.space, here.pid, here.start - 1)}-{'4' * 16}"
    for name in (*asides, dead, reused):
        (tmp_path / name).mkdir()
    write_atomically(lambda path: path.write_text("x"), tmp_path / "new.txt")
    assert sorted(os.listdir(tmp_path)) == sorted([*asides, "new.txt"])


def test_a_writer_is_dead_once_it_has_ended_even_if_its_parent_has_not_asked():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(identify_process()).encode())
        signal.pause()
    writer = Writer.parse(os.read(read, 200).decode())
    assert writer.pid == pid
    assert not writer.is_dead()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert writer.is_dead()
    os.waitpid(pid, 0)
    assert writer.is_dead()
    with pytest.raises(NetgraphError, match="does not name a process"):
        Writer.parse("host-1-2")


def test_permissions_and_links_of_an_older_file_stay(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_atomically(lambda path: path.write_text("new"), tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real.txt").stat().st_mode) == 0o640


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    write_folder_atomically(write_parts("old"), tmp_path / "real.parts", OURS)
    (tmp_path / "link.parts").symlink_to("real.parts")
    write_folder_atomically(write_parts("new"), tmp_path / "link.parts", OURS)
    assert (tmp_path / "link.parts").is_symlink()
    assert read_parts(tmp_path / "real.parts") == "new"


def test_files_of_others_are_kept_as_they_are(tmp_path):
    place = tmp_path / "net.parts"
    write_folder_atomically(write_parts("old"), place, OURS)
    (place / "notes").mkdir()
    (place / "notes" / "a.txt").write_text("mine")
    (place / "gone").symlink_to("nowhere")
    (place / "locked.txt").write_text("read only")
    (place / "locked.txt").chmod(0o400)
    write_folder_atomically(write_parts("new"), place, OURS)
    assert (place / "notes" / "a.txt").read_text() == "mine"
    assert (place / "gone").is_symlink()
    assert (place / "locked.txt").read_text() == "read only"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), OSError(28, "No space left on device")])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_interruption_between_two_renames_loses_nothing(tmp_path, monkeypatch, error, number):
    place, real, calls = tmp_path / "net.parts", os.replace, []
    monkeypatch.setattr(atomic_writes, "EXCHANGE", {})
    write_folder_atomically(write_parts("old"), place, OURS)
    (place / "notes.txt").write_text("mine")

    def replace(source, target):
        calls.append(target)
        if len(calls) == number:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with contextlib.suppress(type(error), NetgraphError):
        write_folder_atomically(write_parts("new"), place, OURS)
    assert read_parts(place) in ("old", "new")
    assert (place / "notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["net.parts"]


def test_an_older_folder_that_cannot_be_put_back_is_kept_aside(tmp_path, monkeypatch):
    place, real = tmp_path / "net.parts", os.replace
    monkeypatch.setattr(atomic_writes, "EXCHANGE", {})
    write_folder_atomically(write_parts("old"), place, OURS)

    def replace(source, target):
        if target == place:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(NetgraphError, match="Input/output error"):
        write_folder_atomically(write_parts("new"), place, OURS)
    monkeypatch.setattr(os, "replace", real)
    assert not place.exists()
    (aside,) = tmp_path.iterdir()
    assert atomic_writes._finish(aside) is None  # as the next writer does once this process has ended
    assert read_parts(place) in ("old", "new")


@pytest.mark.parametrize("swaps", [True, False])
def test_a_file_that_others_add_while_a_folder_is_written_is_kept(tmp_path, monkeypatch, swaps):
    place, real = tmp_path / "net.parts", atomic_writes._exchange
    write_folder_atomically(write_parts("old"), place, OURS)

    def exchange(new, path, old):
        (place / "late.txt").write_text("mine")
        real(new, path, old)

    if not swaps:
        monkeypatch.setattr(atomic_writes, "EXCHANGE", {})
    monkeypatch.setattr(atomic_writes, "_exchange", exchange)
    write_folder_atomically(write_parts("new"), place, OURS)
    assert (place / "late.txt").read_text() == "mine"
    assert read_parts(place) == "new"


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("call", ["exists", "replace"])
def test_a_folder_that_another_process_writes_at_the_same_moment_is_written_after_it(
    tmp_path, monkeypatch, swaps, call
):
    place, done = tmp_path / "net.parts", []

    def interfere():
        if not done:
            done.append(1)
            write_folder_atomically(write_parts("other"), place, OURS)

    def exists(path):
        answer = os.path.exists(path)
        if path == place:
            interfere()  # between the look and the rename
        return answer

    def replace(source, target):
        if target == place and not place.exists():
            interfere()  # between the two renames
        real(source, target)

    real = os.replace
    if not swaps:
        monkeypatch.setattr(atomic_writes, "EXCHANGE", {})
    if call == "exists":
        monkeypatch.setattr(type(place), "exists", exists)
    else:
        write_folder_atomically(write_parts("old"), place, OURS)
        monkeypatch.setattr(os, "replace", replace)
    write_folder_atomically(write_parts("new"), place, OURS)
    monkeypatch.undo()
    assert done or (swaps and call == "replace")
    assert read_parts(place) == "new"
    assert os.listdir(tmp_path) == ["net.parts"]


def test_a_refusal_of_the_system_is_a_sentence_and_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(NetgraphError, match=r"cannot be written \(No space left on device\)\. Free some space"):
        write_atomically(fail, tmp_path / "a.txt")
    with pytest.raises(LoadError, match="No space left"):
        write_folder_atomically(fail_in_folder(fail), tmp_path / "a.parts", OURS, LoadError)
    with pytest.raises(NetgraphError, match="No such file"):
        write_atomically(lambda path: path.write_text("x"), tmp_path / "nowhere" / "a.txt")
    assert os.listdir(tmp_path) == []


def fail_in_folder(fail):
    return lambda folder: fail(folder / "part0")


def test_equal_contents_give_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.int64), "ünï\x01": torch.zeros(0)}
    tensors["tied"] = tensors["b"]
    digests = set()
    for number in range(24):
        write_bundle(tmp_path / "a.safetensors", tensors, {"format": 1, "names": ["\x1b\u2028é"]})
        digests.add(hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest())
        if number == 0:
            read, document = read_bundle(tmp_path / "a.safetensors")
            assert {name: t.tolist() for name, t in read.items()} == {name: t.tolist() for name, t in tensors.items()}
            assert document["names"] == ["\x1b\u2028é"]
    assert len(digests) == 1


def test_a_hierarchy_that_is_built_twice_is_the_same_files(tmp_path):
    digests = []
    for name in ("a", "b"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        ng.save(ng.build_hierarchy(net, torch.zeros(2, 6), n_levels=3), tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        digests.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
