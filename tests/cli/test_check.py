"""``netgraph check`` tells what a file holds and whether it is whole, and runs nothing of it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import netgraph as ng
from netgraph.errors import LoadError
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.models import mlp
from tests.support.command_line import run


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(mlp((6, 8, 3)), torch.zeros(2, 6), n_levels=2)
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    ng.save(hierarchy.levels[1].model, tmp_path / "small.safetensors")
    save_file({"w": torch.ones(3, 2), "h": torch.ones(2).half()}, tmp_path / "foreign.safetensors")
    torch.save(mlp((6, 8, 3)).state_dict(), tmp_path / "weights.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    return tmp_path


def check(path):
    code, out, _ = run("check", path, "--json")
    return code, json.loads(out)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.hierarchy", "a hierarchy of 2 levels"),
        ("small.safetensors", "a network of netgraph"),
        ("net.hierarchy/hierarchy.safetensors", "the index of a hierarchy"),
        ("foreign.safetensors", "weights without an architecture"),
        ("weights.pt", "a pickle of weights"),
        ("module.pt", "a pickle of more than weights"),
    ],
)
def test_whole_files_are_named_by_what_they_hold(files, name, kind):
    code, contents = check(files / name)
    assert (code, contents["kind"], contents["whole"], contents["problem"]) == (0, kind, True, "")
    assert bool(contents["trust"]) == (name == "module.pt")
    code, out, err = run("check", files / name)
    assert (code, err) == (0, "")
    assert "whole" in out.splitlines()[0]


def test_numbers_are_those_of_the_tensors(files):
    _, contents = check(files / "foreign.safetensors")
    assert (contents["tensors"], contents["parameters"]) == (2, 8)
    assert contents["dtypes"] == {"float32": 1, "float16": 1}
    _, contents = check(files / "net.hierarchy")
    assert contents["format"] == 2
    assert contents["version"] == ng.__version__
    levels = ng.load(files / "net.hierarchy").levels
    assert [part["parameters"] for part in contents["parts"][1:]] == [level.n_parameters for level in levels]


@pytest.mark.parametrize("name", ["small.safetensors", "weights.pt", "net.hierarchy/level1.safetensors"])
def test_a_changed_byte_is_found(files, name):
    data = bytearray((files / name).read_bytes())
    if name == "weights.pt":
        numbers = torch.load(files / name)["0.weight"].numpy().tobytes()
        data[data.find(numbers) + 5] ^= 1
    else:
        data[-3] ^= 1
    (files / name).write_bytes(data)
    target = files / "net.hierarchy" if "hierarchy" in name else files / name
    code, contents = check(target)
    assert (code, contents["whole"]) == (1, False)
    code, out, err = run("check", target)
    assert code == 1
    assert "NOT whole" in out
    assert "is not whole" in err


def test_missing_and_foreign_levels_are_found(files):
    torch.manual_seed(1)
    other = ng.build_hierarchy(mlp((6, 8, 3)), torch.zeros(2, 6), n_levels=2)
    ng.save(other, files / "other.hierarchy")
    shutil.copy(files / "other.hierarchy" / "level1.safetensors", files / "net.hierarchy")
    (files / "net.hierarchy" / "level0.safetensors").unlink()
    code, contents = check(files / "net.hierarchy")
    problems = [part["problem"] for part in contents["parts"]]
    assert code == 1
    assert problems == ["", "it is missing", "it belongs to another hierarchy: its digest is not the one of the index"]


def test_what_is_not_there_or_not_known_is_refused(files):
    (files / "notes.txt").write_text("x")
    (files / "empty").mkdir()
    for name, message in (
        ("nothing.pt", "does not exist"),
        ("notes.txt", "no file that"),
        ("empty", "is no hierarchy"),
    ):
        code, out, err = run("check", files / name)
        assert (code, out) == (1, "")
        assert message in err


def test_no_code_of_a_file_runs(files):
    class Runs:
        def __reduce__(self):
            return exec, (f"open({str(files / 'ran')!r}, 'w')",)

    torch.save({"w": Runs()}, files / "hostile.pt")
    _, contents = check(files / "hostile.pt")
    assert contents["trust"] or not contents["whole"]
    assert not (files / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"transfers": 5},
        {"transfers": None},
        {"transfers": []},
        {"transfers": [[]] * 200_000},
        {"levels": None},
        {"levels": 5},
        {"levels": {"0": "x"}},
        {"levels": ["x"]},
        {"format": "2.0"},
        {"format": []},
        {"format": 10**30},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_index_that_is_no_index_is_told_and_does_not_open(files, changes):
    index = files / "net.hierarchy" / "hierarchy.safetensors"
    tensors, document = read_bundle(index)
    write_bundle(index, tensors, {**document, **changes})
    code, contents = check(files / "net.hierarchy")
    assert (code, contents["whole"]) == (1, False)
    assert len(contents["parts"]) < 5
    with pytest.raises(LoadError):
        ng.load(files / "net.hierarchy")


def test_a_network_of_a_later_version_is_told_to_need_it(files):
    tensors, document = read_bundle(files / "small.safetensors")
    write_bundle(files / "later.safetensors", tensors, {**document, "format": 99, "version": "9.9"})
    code, contents = check(files / "later.safetensors")
    assert code == 1
    assert "has format 99 of netgraph 9.9" in contents["problem"]
