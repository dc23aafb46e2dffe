"""``netgraph export`` to files of runtimes: what it prints, what it writes, and which options it refuses."""

import json
import sys

import numpy as np
import pytest
import torch

import netgraph as ng
from netgraph.coarsen.runtimes import formats, torch_program
from netgraph.environment.optional_packages import EXTRAS
from netgraph.models import mlp
from tests.support.command_line import run_main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a coarse network, its hierarchy and rows of data."""
    place = tmp_path_factory.mktemp("runtimes")
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(mlp((6, 8, 8, 3)), torch.randn(2, 6), n_levels=2)
    ng.save(hierarchy, place / "net.hierarchy")
    ng.save(hierarchy.levels[1].model, place / "small.safetensors")
    torch.save(torch.randn(9, 6), place / "rows.pt")
    return place


def test_a_coarse_network_goes_to_onnx_runtime(folder, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(folder)
    code, out, err = run_main("export", "small.safetensors", "small.onnx", "--data", "rows.pt", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["path"] == "small.onnx"
    assert report["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 6]}]
    assert (report["batch"], report["data"]["rows"]) == (None, 9)
    session = onnxruntime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
    rows = torch.load("rows.pt")
    expected = ng.load_model("small.safetensors")(rows).detach().numpy()
    np.testing.assert_allclose(session.run(None, {"input": rows.numpy()})[0], expected, atol=1e-5)


def test_a_level_of_a_hierarchy_goes_to_a_program(folder, monkeypatch):
    monkeypatch.chdir(folder)
    levels = ng.load("net.hierarchy").levels
    rows = torch.load("rows.pt")
    for words, level in (([], levels[1]), (["--level", "0"], levels[0])):
        code, out, err = run_main("export", "net.hierarchy", "net.pt2", *words, "--batch", "9")
        assert code == 0, err
        assert "input  input  float32 9 x 6" in out
        torch.testing.assert_close(torch.export.load("net.pt2").module()(rows), level.model(rows))
    code, out, err = run_main("export", "net.hierarchy", "net.level1.pt2", "--level", "0")
    assert (code, out) == (1, "")
    assert "names level 1, and level 0 is asked for" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["small.safetensors", "x.pt2", "--levels", "2"],
            "--levels would have no effect: x.pt2 holds the network as it is",
        ),
        (["small.safetensors", "x.pt2", "--no-prove"], "--no-prove would have no effect"),
        (["small.safetensors", "x.pt2", "--level", "1"], "small.safetensors is no *.hierarchy"),
        (["small.safetensors", "x.pt2", "--samples", "3"], "without --data"),
        (["small.safetensors", "x.onnx", "--aot"], "--aot compiles a .pt2 file"),
        (
            ["small.safetensors", "x.html", "--batch", "2"],
            "--batch would have no effect: x.html is no file for a runtime",
        ),
        (["net.hierarchy", "x.pt2", "--input", "2x6"], "--input would have no effect: net.hierarchy is a hierarchy"),
        (["net.hierarchy", "x.pt2", "--level", "5"], "levels 0 to 1"),
        (["small.safetensors", "nowhere/x.pt2"], "does not exist"),
        (["small.safetensors", "x.pt2", "--tolerance", "nan"], "the tolerance nan is no relative error"),
    ],
)
def test_options_without_an_effect_and_wrong_values_are_refused(folder, monkeypatch, words, reason):
    monkeypatch.chdir(folder)
    code, out, err = run_main("export", *words)
    assert (code, out) == (1, "")
    assert reason in err
    assert not list(folder.glob("x.*"))


def test_a_difference_ends_with_the_code_of_a_failed_oracle(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def open_wrong(place, program):
        run = torch_program.open_program(place, program)
        return lambda tensors: [2 * t for t in run(tensors)]

    wrong = formats.RuntimeFormat("a wrong runtime", torch_program.write_program, open_wrong)
    monkeypatch.setitem(formats.FORMATS, "pt2", wrong)
    code, out, err = run_main("export", "small.safetensors", "wrong.pt2")
    assert (code, out) == (4, "")
    assert "are 1.0e+00 from those of the network" in err
    assert not (folder / "wrong.pt2").exists()


@pytest.mark.parametrize(("end", "module"), [("onnx", "onnxruntime"), ("pte", "executorch"), ("xml", "openvino")])
def test_a_missing_runtime_is_named_before_work_begins(folder, monkeypatch, end, module):
    monkeypatch.chdir(folder)
    for name in (module, f"{module}.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("netgraph.io.load.load_model", None)
    code, out, err = run_main("export", "small.safetensors", f"x.{end}")
    assert (code, out) == (1, "")
    assert f"(the extra {EXTRAS[module][1]})" in err


def test_coarsen_writes_the_coarsest_network_for_a_runtime(folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = run_main("coarsen", "small.safetensors", "--levels", "2", "--export", "coarsest.pt2", "--no-prove")
    assert code == 0, err
    sizes = [p.numel() for p in torch.export.load("coarsest.pt2").module().parameters()]
    assert sum(sizes) < sum(p.numel() for p in ng.load_model("small.safetensors").parameters())
