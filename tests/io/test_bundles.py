"""Files of netgraph open unchanged. Files that were altered are refused, and nothing in them is run."""

import contextlib
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import LoadError
from netgraph.io.bundle import read_bundle, write_bundle
from netgraph.io.example_inputs import guess_input
from netgraph.io.load import load_model
from netgraph.models.perceptron import mlp


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit_of_a_saved_network_is_refused(tmp_path, where, bit):
    path, shared = tmp_path / "m.safetensors", torch.arange(20.0)
    write_bundle(path, {"a": shared, "tied": shared, "b": torch.arange(5)}, {"graph": ["é", 1]})
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(bytes(data))
    with pytest.raises(LoadError, match=re.escape(str(path))):
        read_bundle(path)


def test_a_tied_tensor_is_stored_once_and_comes_back_tied(tmp_path):
    path, shared = tmp_path / "m.safetensors", torch.randn(1000)
    write_bundle(
        path, {"a": shared, "tied": shared, "part": shared[:10], "none": shared[:0], "nil": shared[:0]}, {"x": 1}
    )
    tensors, document = read_bundle(path)
    assert document == {"x": 1}
    assert path.stat().st_size < 2 * 4000
    assert tensors["a"].data_ptr() == tensors["tied"].data_ptr() != tensors["part"].data_ptr()
    assert torch.equal(tensors["tied"], shared)
    assert torch.equal(tensors["part"], shared[:10])
    assert tensors["none"].shape == tensors["nil"].shape == (0,)


def test_a_bundle_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    write_bundle(path, {"a": torch.ones(2)}, {"x": 1})
    monkeypatch.setattr("netgraph.io.bundle.DOCUMENT_LIMIT", 10)
    with pytest.raises(LoadError, match="at most 10"):
        write_bundle(path, {"a": torch.zeros(2)}, {"long": "document"})
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(LoadError, match="no room"):
        write_bundle(path, {"a": torch.zeros(2)}, {"x": 2})
    assert read_bundle(path)[1] == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_bundle_is_as_readable_as_any_file(tmp_path):
    write_bundle(tmp_path / "m.safetensors", {"a": torch.ones(2)}, {"x": 1})
    (tmp_path / "any").write_text("")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_network_saved_by_netgraph_needs_no_options_and_runs_the_same(tmp_path):
    model, x = mlp((6, 8, 3)), torch.randn(2, 6)
    hierarchy = ng.build_hierarchy(model, x)
    ng.save(hierarchy.levels[1].model, tmp_path / "small.safetensors")
    opened = load_model(tmp_path / "small.safetensors")
    assert torch.equal(opened(x), hierarchy.levels[1].model.eval()(x))
    again, text = guess_input(opened)
    assert text == "--input 2x6"
    ng.build_hierarchy(opened, again)


def test_a_hierarchy_is_saved_and_loaded_whole(tmp_path):
    model, x = mlp((6, 8, 3)), torch.randn(2, 6)
    hierarchy = ng.build_hierarchy(model, x, n_levels=3)
    ng.save(hierarchy, tmp_path / "m.hierarchy")
    ng.save(hierarchy, tmp_path / "m.hierarchy")  # over itself
    for level in hierarchy.levels:
        level.seconds = None  # a file does not hold them, so that equal hierarchies are equal files
    for loaded in (ng.load(tmp_path / "m.hierarchy"), ng.load(tmp_path / "m.hierarchy", arch=lambda: mlp((6, 8, 3)))):
        assert str(loaded) == str(hierarchy)
        for a, b in zip(loaded.levels, hierarchy.levels, strict=True):
            torch.testing.assert_close(a.model(x), b.model.eval()(x))
            assert {n: t.aggregates.tolist() for n, t in a.transfers.items()} == {
                n: t.aggregates.tolist() for n, t in b.transfers.items()
            }
    (tmp_path / "other").mkdir()
    with pytest.raises(LoadError, match="not a hierarchy"):
        ng.save(hierarchy, tmp_path / "other")
    with pytest.raises(LoadError, match="not a hierarchy"):
        ng.load(tmp_path / "other")
    with pytest.raises(LoadError, match="state_dict"):
        ng.save(model, tmp_path / "x.safetensors")


def test_a_document_with_a_strange_operator_or_an_absurd_size_is_refused(tmp_path):
    model = ng.build_hierarchy(mlp((6, 8, 3)), torch.randn(2, 6)).levels[1].model
    document = model.document()
    for bad in ("aten.from_file.default", "builtin:exec", "os.system.default"):
        graphs = {
            m: [[n, bad if w.startswith("aten") else w, a, k] for n, w, a, k in g]
            for m, g in document["graphs"].items()
        }
        write_bundle(tmp_path / "m.safetensors", model.tensors(), {**document, "graphs": graphs})
        with pytest.raises(LoadError, match="refused"):
            load_model(tmp_path / "m.safetensors")
    huge = [["x", "placeholder:x", [], {"dict": {}}], ["z", "aten.zeros.default", [[2**50]], {"dict": {}}]]
    write_bundle(tmp_path / "m.safetensors", model.tensors(), {**document, "graphs": {"eval": huge}})
    with pytest.raises(LoadError, match="size"):
        load_model(tmp_path / "m.safetensors")
    write_bundle(tmp_path / "m.safetensors", model.tensors(), {"format": 1})
    with pytest.raises(LoadError, match="no network"):
        load_model(tmp_path / "m.safetensors")


def _strangers_graphs(document, change):
    return {mode: [change(*node) for node in graph] for mode, graph in document["graphs"].items()}


@pytest.mark.parametrize("place", ["tensor", "keyword", "input", "number"])
def test_nothing_written_in_a_document_is_run_as_code(tmp_path, place):
    """Names of a file were once part of generated Python, where each of these texts would have made a folder."""
    code = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"

    def change(name, target, args, kwargs):
        if place == "tensor" and target.startswith("get_attr"):
            target = f'get_attr:0.weight") or {code} or getattr(self, "x'
        if place == "keyword" and target == "aten.linear.default":
            kwargs = {"dict": {f"**({code} or {{}}), bias": None}}
        if place == "input" and target.startswith("placeholder"):
            target = f"placeholder:x={code}"
        if place == "number" and target == "aten.linear.default":
            args = [*args[:2], {"float": code}]
        return [name, target, args, kwargs]

    model = ng.build_hierarchy(mlp((6, 8, 3)), torch.randn(2, 6)).levels[1].model
    document = model.document()
    graphs = _strangers_graphs(document, change)
    write_bundle(tmp_path / "m.safetensors", model.tensors(), {**document, "graphs": graphs})
    with contextlib.suppress(LoadError, RuntimeError):
        load_model(tmp_path / "m.safetensors")(torch.randn(2, 6))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sizes", [[2**20, 2**20], [2**50], [2, [2**20, 2**20]]])
def test_sizes_that_multiply_to_terabytes_are_refused_when_opened(tmp_path, sizes):
    model = ng.build_hierarchy(mlp((6, 8, 3)), torch.randn(2, 6)).levels[1].model
    graph = [
        ["z", "aten.zeros.default", [sizes], {"dict": {}}],
        ["output", "output:output", [[{"node": "z"}]], {"dict": {}}],
    ]
    write_bundle(tmp_path / "m.safetensors", model.tensors(), {**model.document(), "graphs": {"eval": graph}})
    with pytest.raises(LoadError, match="asks for"):
        load_model(tmp_path / "m.safetensors")


def test_parts_whose_sizes_multiply_to_much_are_no_reason_to_refuse():
    class Parts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(4, 600), torch.nn.Linear(600, 2)

        def forward(self, x):
            parts = self.first(x).split([100] * 6, 1)
            return self.last(torch.cat([part.relu() for part in parts], 1))

    model, x = Parts(), torch.randn(2, 4)
    torch.testing.assert_close(coarse_network(model, ng.trace(model, x), {})(x), model(x))


def test_a_hierarchy_that_was_changed_or_does_not_fit_its_class_is_refused(tmp_path):
    path = tmp_path / "m.hierarchy"
    ng.save(ng.build_hierarchy(mlp((6, 8, 3)), torch.randn(2, 6)), path)
    for wrong in (lambda: nn.Linear(6, 3), lambda: mlp((6, 9, 3)), lambda: mlp((6, 8, 8, 3))):
        with pytest.raises(LoadError, match="does not fit"):
            ng.load(path, arch=wrong)
    tensors, document = read_bundle(path / "hierarchy.safetensors")
    options = {**document["options"], "example": {**document["options"]["example"], "tensors": [[[2**40], "float32"]]}}
    write_bundle(path / "hierarchy.safetensors", tensors, {**document, "options": options})
    with pytest.raises(LoadError, match="at most"):
        ng.load(path)
    write_bundle(path / "hierarchy.safetensors", tensors, {"format": 1})
    with pytest.raises(LoadError, match="not a hierarchy of this version"):
        ng.load(path)
    data = bytearray((path / "hierarchy.safetensors").read_bytes())
    data[-3] ^= 4
    (path / "hierarchy.safetensors").write_bytes(bytes(data))
    with pytest.raises(LoadError, match="damaged"):
        ng.load(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three hierarchies: two of one shape, and one of another width."""
    folder = tmp_path_factory.mktemp("saved")
    for name, seed, width in (("a", 1, 32), ("b", 2, 32), ("c", 3, 48)):
        torch.manual_seed(seed)
        ng.save(ng.build_hierarchy(mlp((12, width, 3)), torch.zeros(2, 12), n_levels=3), folder / name)
    return folder


@pytest.fixture
def hierarchies(saved, tmp_path):
    """Copies of the three, which a test may damage."""
    return shutil.copytree(saved, tmp_path / "hierarchies")


@pytest.mark.parametrize("other", ["b", "c"])
@pytest.mark.parametrize("file", ["level0", "level1", "level2", "hierarchy"])
def test_files_of_two_hierarchies_do_not_open_as_one(hierarchies, other, file):
    shutil.copy(hierarchies / other / f"{file}.safetensors", hierarchies / "a")
    with pytest.raises(LoadError, match=r"does not belong to .*hierarchy\.safetensors"):
        ng.load(hierarchies / "a")


@pytest.mark.parametrize("file", ["level0", "level1", "level2", "hierarchy"])
def test_an_older_hierarchy_without_digests_is_held_to_its_sizes(hierarchies, file):
    for name in ("a", "c"):
        index = hierarchies / name / "hierarchy.safetensors"
        tensors, document = read_bundle(index)
        del document["levels"]
        write_bundle(index, tensors, {**document, "format": 1, "seconds": [0.5, 0.25, 0.125]})
    assert [level.seconds for level in ng.load(hierarchies / "a").levels] == [0.5, 0.25, 0.125]
    shutil.copy(hierarchies / "c" / f"{file}.safetensors", hierarchies / "a")
    with pytest.raises(LoadError, match=r"files are of different hierarchies"):
        ng.load(hierarchies / "a")


@pytest.mark.parametrize("digests", [None, [], [None] * 3, [1, 2, 3], {"0": "a"}, "abc"])
def test_an_index_without_a_digest_for_each_level_is_refused(hierarchies, digests):
    index = hierarchies / "a" / "hierarchy.safetensors"
    tensors, document = read_bundle(index)
    write_bundle(index, tensors, {**document, "levels": digests})
    with pytest.raises(LoadError, match=r"does not have one digest for each of 3 levels"):
        ng.load(hierarchies / "a")


@pytest.mark.parametrize("number", [99, 0, -1, "2", None, True, 1.5])
@pytest.mark.parametrize("file", ["level1", "hierarchy"])
def test_another_format_is_refused_with_the_version_that_wrote_it(hierarchies, file, number):
    path = hierarchies / "a" / f"{file}.safetensors"
    tensors, document = read_bundle(path)
    write_bundle(path, tensors, {**document, "format": number, "version": "9.9"})
    with pytest.raises(LoadError, match=r"of netgraph 9\.9, and this is netgraph"):
        ng.load(path if file == "level1" else path.parent)


def test_complex_numbers_of_both_precisions_come_back_as_they_were(tmp_path):
    single = torch.randn(3, 2, dtype=torch.complex64)
    tensors = {
        "single": single,
        "double": single.to(torch.complex128).conj(),
        "again": single,
        "empty": torch.zeros(0, dtype=torch.complex128),
    }
    write_bundle(tmp_path / "a.safetensors", tensors, {"format": 1})
    found, _ = read_bundle(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
