"""Addresses of a network are no paths, and several processes are no run of netgraph."""

import os
import stat

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.environment.processes import check_single_process, count_processes
from netgraph.errors import NetgraphError
from netgraph.fas import Checkpoints, Multigrid, read_run, write_run
from netgraph.io import write_bundle
from netgraph.io.files.output_files import check_path
from netgraph.models import load_calibration, open_tokenizer
from tests.support.command_line import run

ADDRESSES = (
    "s3://bucket/x.hierarchy",
    "gs://b/x.safetensors",
    "https://example.org/x.pt",
    "file:///tmp/x.pt",
    "hdfs://n/x",
)


@pytest.fixture
def hierarchy():
    return ng.build_hierarchy(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 6))


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused_by_everything_that_writes_or_reads(hierarchy, tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: ng.save(hierarchy, address),
        lambda: ng.save(hierarchy.levels[1].model, address),
        lambda: ng.load(address),
        lambda: ng.load_model(address),
        lambda: ng.export(hierarchy, f"{address}.html"),
        lambda: Checkpoints(address),
        lambda: write_run({"history": []}, address),
        lambda: write_bundle(address, {}, {}),
    ):
        with pytest.raises(NetgraphError, match="is an address, and netgraph writes and reads files of this machine"):
            use()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ["coarsen", "m.pt", "--trust", "--input", "2x6", "-o", "s3://bucket/x.hierarchy"],
        ["coarsen", "m.pt", "--trust", "--input", "2x6", "--export", "s3://bucket/x.html"],
        ["export", "m.pt", "gs://bucket/x.html", "--trust", "--input", "2x6"],
        ["train", "mlp", "--data", "digits", "--epochs", "1", "-o", "s3://bucket/x.pt"],
        ["train", "mlp", "--data", "digits", "--epochs", "1", "--checkpoints", "s3://bucket/x"],
        ["train", "mlp", "--data", "digits", "--epochs", "1", "--report", "s3://bucket/x"],
    ],
)
def test_commands_refuse_an_address_before_work_begins(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), "m.pt")
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "is an address" in err
    assert os.listdir(tmp_path) == ["m.pt"]


def test_paths_are_no_addresses(tmp_path):
    for name in ("a:b", "C:/x", "level:0/x", str(tmp_path / "s3:" / "x"), "./s3:/x"):
        check_path(tmp_path / name)


@pytest.mark.parametrize("name", ["n" * 300, "/".join(["d" * 200] * 25), "loop"])
def test_a_path_that_no_file_can_have_is_refused_by_everything_that_writes_or_reads(hierarchy, tmp_path, name):
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    path = tmp_path / f"{name}.pt"
    for use in (
        lambda: ng.save(hierarchy, path.with_suffix(".hierarchy") if name != "loop" else path),
        lambda: ng.load_model(path),
        lambda: load_calibration(path, example=torch.zeros(2, 6)),
        lambda: open_tokenizer(path),
        lambda: read_run(path),
        lambda: Checkpoints(path),
    ):
        with pytest.raises(NetgraphError, match=r"(Give a shorter name|leads back to itself)"):
            use()


def test_a_pipe_is_not_replaced_by_a_file(hierarchy, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name in ("x.safetensors", "x.html"):
        (tmp_path / name).symlink_to(pipe)
        with pytest.raises(NetgraphError, match="is a device, a pipe or a socket"):
            (ng.save if name == "x.safetensors" else ng.export)(
                hierarchy.levels[1].model if name == "x.safetensors" else hierarchy, tmp_path / name
            )
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["pipe", "x.html", "x.safetensors"]


@pytest.mark.parametrize("size", ["2", "8"])
def test_one_of_several_processes_is_refused(hierarchy, monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    problem = ng.Problem([(torch.zeros(2, 6), torch.zeros(2, 2))], nn.functional.mse_loss)
    optimizer = torch.optim.SGD(hierarchy.levels[0].model.parameters(), lr=0.1)
    for use in (lambda: ng.FAS(cycles=1).solve(hierarchy, problem), lambda: Multigrid(optimizer, hierarchy)):
        with pytest.raises(NetgraphError, match=rf"trains in one process, and this is one of {size} \(WORLD_SIZE\)"):
            use()
    code, _, err = run("train", "mlp", "--data", "digits", "--epochs", "1")
    assert code == 1
    assert f"this is one of {size}" in err


@pytest.mark.parametrize("size", ["2", "2 ", "+2", "\t02\n"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_every_launcher_tells_the_number_of_processes_as_python_reads_it(monkeypatch, name, size):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv(name, size)
    assert count_processes() == 2
    with pytest.raises(NetgraphError, match="this is one of 2"):
        check_single_process("this test")


@pytest.mark.parametrize("size", ["", "1", "many", "0", "-1", "2.0"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_single_process_is_taken(monkeypatch, name, size):
    monkeypatch.setenv(name, size)
    monkeypatch.setenv("SLURM_NTASKS", "8")  # a job of eight tasks, of which this process was not started as one
    assert count_processes() == 1
    check_single_process("this test")
