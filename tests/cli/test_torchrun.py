"""``netgraph train`` in several processes: one network, printed and written once, and refusals of one sentence."""

import os
import socket
import subprocess
import sys

import pytest
import torch

import netgraph as ng
from netgraph.fas.checkpoint.checkpoint import list_checkpoints
from tests.support.command_line import run

DIGITS = ("train", "mlp", "--data", "digits", "--widths", "16", "--epochs", "2", "--levels", "2", "--seed", "3")
SECONDS = 300  # after which a hang is a failure. Imports take long on a busy machine


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}


def find_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def two_processes(*words):
    """Return the codes, the outputs and the errors of two processes, started as torchrun starts them."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_port()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "netgraph", *words],
            env=environment(**place, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        answers = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [p.returncode for p in processes], [out for out, _ in answers], [err for _, err in answers]


def test_torchrun_trains_one_network_that_is_printed_and_written_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torchrun = ("-m", "torch.distributed.run", "--master-port", find_port(), "--nproc-per-node", "2", "-m", "netgraph")
    words = ("--checkpoints", "points", "--report", "report", "-o", "two.safetensors")
    done = subprocess.run(
        [sys.executable, *torchrun, *DIGITS, *words], env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert run(*DIGITS, "-o", "one.safetensors")[0] == 0
    assert done.stdout.count("ended: the 2 epochs are spent") == 1
    assert done.stderr.count("netgraph: wrote two.safetensors") == 1
    assert os.path.exists("report/run.json")
    assert list_checkpoints("points")
    one, two = ng.load_model("one.safetensors"), ng.load_model("two.safetensors")
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_what_both_processes_refuse_is_printed_once():
    codes, outputs, errors = two_processes(*DIGITS, "--batch", "33")
    assert codes == [1, 1]
    assert outputs == ["", ""]
    assert errors[1] == ""
    assert errors[0].splitlines()[-1] == (
        "netgraph: a minibatch has 33 rows, which 2 processes cannot share equally. Take a multiple of 2, or another number of processes."
    )


@pytest.mark.parametrize(
    ("variables", "words", "message"),
    [
        (
            {},
            (),
            "this is one of 2 processes, which cannot find each other without RANK, MASTER_ADDR, MASTER_PORT. Start them with torchrun",
        ),
        ({}, ("--parallel", "none"), "trains in one process, and this is one of 2"),
        ({"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, ("--auto", "9"), "--auto measures seconds"),
        ({"RANK": "one", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, (), "RANK is 'one' and WORLD_SIZE is '2'"),
        (
            {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            ("--device", "mps"),
            "--device mps is for one process",
        ),
    ],
)
def test_processes_that_cannot_train_together_are_refused(monkeypatch, variables, words, message):
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    code, out, err = run(*DIGITS, *words)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none, and this machine has one")
def test_a_gpu_for_each_process_is_asked_for_and_none_is_there(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    code, _, err = run(*DIGITS, "--device", "cuda")
    assert code == 1
    assert "process 1 of this machine finds 0. Start at most as many processes as there are GPUs" in err


def test_one_process_says_that_ddp_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    code, _, err = run(*DIGITS, "--parallel", "ddp")
    assert code == 0
    assert "--parallel ddp changes nothing, because this is one process" in err
