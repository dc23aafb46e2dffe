"""One process at a time has a folder of checkpoints, or writes an output."""

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from netgraph.errors import NetgraphError
from netgraph.io.files import locks
from netgraph.io.files.atomic_writes import remove_temporaries
from netgraph.io.files.locks import NAME, acquire_lock, lock_folders, lock_outputs, release_lock
from netgraph.io.files.writers import Writer, identify_process
from tests.support.command_line import run


def in_another_process(action):
    """Run an action in a fork. Return the message of its error, or None."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except NetgraphError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    text = os.read(read, 2000).decode()
    os.close(read)
    os.waitpid(pid, 0)
    return text or None


def test_another_process_is_refused_until_the_lock_is_given_back(tmp_path):
    lock = tmp_path / NAME
    acquire_lock(lock, "the folder")
    acquire_lock(lock, "the folder")  # the same process may
    for _ in range(2):
        message = in_another_process(lambda: acquire_lock(lock, "the folder"))
        assert message is not None
        assert f"the folder is in use by process {os.getpid()} on " in message
        release_lock(lock)
    assert in_another_process(lambda: acquire_lock(lock, "the folder")) is None
    release_lock(lock)  # one too many does nothing


def test_the_lock_of_a_dead_process_is_taken_over_with_a_sentence(tmp_path, caplog):
    lock = tmp_path / NAME
    assert in_another_process(lambda: acquire_lock(lock, "the folder")) is None
    assert lock.exists(), "the process ended without giving it back"
    acquire_lock(lock, "the folder")
    assert "which has ended. It is taken over" in caplog.text
    assert Writer.parse(lock.read_text()) == identify_process()
    release_lock(lock)
    assert os.listdir(tmp_path) == []


def test_a_lock_of_another_machine_or_without_a_name_is_left(tmp_path):
    here = identify_process()
    for text in (str(Writer("elsewhere", here.space, 4_000_000, 1)), "", "no name"):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(NetgraphError, match=r"is in use by .*\. If that process is gone, remove"):
            acquire_lock(tmp_path / NAME, "the folder")
        assert (tmp_path / NAME).read_text() == text


def test_only_one_of_many_takes_over(tmp_path):
    lock = tmp_path / NAME
    here = identify_process()
    for _ in range(5):
        lock.write_text(str(Writer(here.host, here.space, 4_000_000, 1)))
        children = []
        read, write = os.pipe()
        tried, told = os.pipe()
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                os.close(write)
                try:
                    acquire_lock(lock, "the folder")
                    os.write(told, b"1")
                    os.read(read, 1)  # alive until all have tried: the lock of an ended process is free
                    os._exit(0)
                except NetgraphError:
                    os.write(told, b"1")
                    os._exit(1)
            children.append(pid)
        for _ in children:
            os.read(tried, 1)
        for end in (read, write, tried, told):
            os.close(end)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        assert codes.count(0) == 1, codes


def test_a_lock_that_another_process_has_taken_over_meanwhile_is_not_moved_for_a_moment(tmp_path, monkeypatch):
    lock, here = tmp_path / NAME, identify_process()
    dead = Writer(here.host, here.space, 4_000_000, 1)
    lock.write_text(str(here))  # a living one was faster after this process had read the name of the dead one
    kept = lock.stat()

    def refuse(source, *rest):
        assert lock not in (source, *rest)

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, refuse)
    assert not locks._take_over(lock, dead, here, "the folder")
    assert os.path.samestat(kept, lock.stat())


def test_a_lock_that_is_taken_over_right_now_is_in_use(tmp_path):
    lock, here = tmp_path / NAME, identify_process()
    lock.write_text(str(Writer(here.host, here.space, 4_000_000, 1)))
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        message = in_another_process(lambda: acquire_lock(lock, "the folder"))
    assert (
        message
        == f"the folder is in use by another process. Wait for it, or give another name. If that process is gone, remove {lock}."
    )
    acquire_lock(lock, "the folder")
    release_lock(lock)


def test_a_file_system_without_locks_of_the_kernel_leaves_a_lock_to_its_user(tmp_path, monkeypatch):
    lock, here = tmp_path / NAME, identify_process()
    lock.write_text(str(Writer(here.host, here.space, 4_000_000, 1)))

    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(NetgraphError, match=r"in use by process 4000000 on .*\. If that process is gone, remove"):
        acquire_lock(lock, "the folder")


def test_a_full_disk_without_links_leaves_no_lock_that_names_nobody(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open

    def open_full(path, mode="r", **options):
        file = real(path, mode, **options)
        return Full() if mode == "x" else file

    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(NetgraphError, match="cannot be locked"):
        acquire_lock(tmp_path / NAME, "the folder")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("years", [-40, 40])
def test_the_age_of_a_lock_says_nothing_about_its_process(tmp_path, monkeypatch, years):
    lock, here, real = tmp_path / NAME, identify_process(), time.time
    moment = real() + years * 365.25 * 86400
    monkeypatch.setattr(time, "time", lambda: moment)
    acquire_lock(lock, "the folder")
    for stamp in (0, real(), real() + 1e9):
        os.utime(lock, (stamp, stamp))
        assert "in use by process" in in_another_process(lambda: acquire_lock(lock, "the folder"))
    release_lock(lock)
    lock.write_text(str(Writer(here.host, here.space, 4_000_000, 1)))
    os.utime(lock, (real() + 1e9, real() + 1e9))  # a dead one from the future
    acquire_lock(lock, "the folder")
    release_lock(lock)


def test_folders_are_made_and_locked_for_a_block(tmp_path):
    with lock_folders(tmp_path / "runs" / "a", None, tmp_path / "runs" / "a"):
        assert os.listdir(tmp_path / "runs" / "a") == [NAME]
        message = in_another_process(lambda: lock_folders(tmp_path / "runs" / "a").__enter__())
        assert message.startswith(f"the folder {tmp_path}/runs/a is in use by process {os.getpid()} on ")
    assert os.listdir(tmp_path / "runs" / "a") == []


def test_two_commands_do_not_write_one_output(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), tmp_path / "m.pt")
    words = ["coarsen", tmp_path / "m.pt", "--trust", "--input", "2x6", "-o", tmp_path / "small.safetensors"]
    code = (
        "import sys, time; from netgraph.io.files.locks import lock_outputs; from pathlib import Path\n"
        "with lock_outputs(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "small.safetensors")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        result, _, err = run(*words)
        assert result == 1
        assert f"small.safetensors is in use by process {other.pid}" in err
        assert not (tmp_path / "small.safetensors").exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert run(*words)[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["m.pt", "small.safetensors"]


def test_none_and_equal_outputs_are_locked_once(tmp_path):
    (tmp_path / "b").mkdir()
    with lock_outputs(None, tmp_path / "a", tmp_path / "b" / ".." / "a"):
        assert sorted(os.listdir(tmp_path)) == [f"{NAME}-a", "b"]
    assert os.listdir(tmp_path) == ["b"]
    with pytest.raises(NetgraphError, match="does not exist"), lock_outputs(tmp_path / "nowhere" / "a"):
        pass


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda p: os.symlink(p, p),
        lambda p: os.symlink("nowhere", p),
        lambda p: os.symlink("/etc/hostname", p),
    ],
    ids=["pipe", "folder", "link to itself", "link to nothing", "link to a file of others"],
)
def test_what_is_no_file_in_the_place_of_a_lock_is_refused_by_its_own_path(tmp_path, make):
    lock = tmp_path / NAME
    make(lock)
    with pytest.raises(NetgraphError, match=rf"remove {lock}\."):
        acquire_lock(lock, "the folder")
    assert os.listdir(tmp_path) == [NAME], "no file was made elsewhere"


def test_an_output_with_the_longest_name_is_locked(tmp_path):
    output = tmp_path / ("é" * 120 + ".hierarchy")
    with lock_outputs(output):
        assert "is in use by process" in in_another_process(lambda: lock_outputs(output).__enter__())
    assert os.listdir(tmp_path) == []


def test_what_a_process_killed_while_it_took_a_lock_has_left_is_removed_by_the_next_writer(tmp_path, monkeypatch):
    def take_and_die():
        os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        acquire_lock(tmp_path / NAME, "the folder")

    in_another_process(take_and_die)
    assert len(os.listdir(tmp_path)) == 1
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == []
