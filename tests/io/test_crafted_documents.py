"""Documents under a right digest that hold anything else: every one opens and runs, or is refused by a sentence."""

import copy
import random

import pytest
import torch

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.models import mlp

VALUES = [None, {}, [], -1, "x", 10**30, True, [[-1]], {"a": 1}, 1.5, {"tensor": 7}, {"tensor": -1}]
X = torch.zeros(2, 12)


def list_places(value, place=()):
    """Yield the path of every value inside JSON data."""
    if place:
        yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from list_places(part, (*place, key))


def change(document, place, value):
    """Return the document with another value in a place, or without it if the value is ``VALUES``."""
    document = copy.deepcopy(document)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    if value is VALUES:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return document


@pytest.mark.no_cover
@pytest.mark.parametrize("file", ["level1", "hierarchy"])
def test_a_changed_document_is_refused_or_runs(tmp_path, file):
    torch.manual_seed(0)
    ng.save(ng.build_hierarchy(mlp((12, 8, 3)), X, n_levels=2), tmp_path / "a")
    path = tmp_path / "a" / f"{file}.safetensors"
    tensors, document = read_bundle(path)
    cases = [(place, value) for place in list_places(document) for value in (*VALUES, VALUES)]
    drawn = random.Random(7).sample(cases, min(250, len(cases)))
    refused = 0
    for place, value in drawn:
        write_bundle(path, tensors, change(document, place, value))
        try:
            opened = ng.load(path if file == "level1" else path.parent)
            ng.trace(opened, X) if file == "level1" else str(opened)  # every command that runs a network traces it
        except NetgraphError:
            refused += 1
    assert refused > len(drawn) / 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("graphs", {}, "its graphs are"),
        ("outputs", {}, "its outputs are not those of its modes"),
        ("shapes", [[-1, 12]], "its shapes are not lists of sizes"),
        ("outputs", {"train": {"tensor": 5}, "eval": {"tensor": 5}}, "have the tensor 5 of 1"),
        ("graphs", {"eval": []}, "a graph of the file has no output"),
    ],
)
def test_the_refusal_says_where(tmp_path, key, value, message):
    ng.save(ng.build_hierarchy(mlp((12, 8, 3)), X).levels[1].model, tmp_path / "a.safetensors")
    tensors, document = read_bundle(tmp_path / "a.safetensors")
    write_bundle(tmp_path / "a.safetensors", tensors, {**document, key: value})
    with pytest.raises(NetgraphError, match=message):
        ng.load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "pools", [[1, 10**12], [1, 3], [2, 2], [1], [1, 2, 4], [1, True], [1, "2"], {"0": 1}, [1, -1], [2, 1]]
)
def test_resolutions_that_no_hierarchy_has_are_refused(tmp_path, pools):
    images = torch.rand(2, 3, 8, 8)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    ng.save(ng.build_hierarchy(model, images, directions="space"), tmp_path / "a")
    tensors, document = read_bundle(tmp_path / "a" / "hierarchy.safetensors")
    assert document["pools"] == [1, 2]
    write_bundle(tmp_path / "a" / "hierarchy.safetensors", tensors, {**document, "pools": pools})
    with pytest.raises(NetgraphError, match="They begin at 1 and stay or double"):
        ng.load(tmp_path / "a")


def test_a_missing_level_is_named_with_its_mend(tmp_path):
    ng.save(ng.build_hierarchy(mlp((12, 8, 3)), X), tmp_path / "a")
    (tmp_path / "a" / "level1.safetensors").unlink()
    with pytest.raises(
        NetgraphError, match=r"level1\.safetensors is missing, and .* names it\. Copy the whole folder again"
    ):
        ng.load(tmp_path / "a")
