"""Opening networks: what is safe opens, what is not is refused by name, and nothing a stranger wrote runs."""

import io
import os
import pickle
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import netgraph as ng
from netgraph.bundle import read_bundle, write_bundle
from netgraph.errors import LoadError, UntrustedError
from netgraph.examples import guess_input, parse_inputs
from netgraph.loading import load_model, parse_arch_args
from netgraph.models.mlp import mlp

ARCH = "netgraph.models.mlp:mlp"


def test_a_state_dict_opens_with_its_architecture_and_arguments(tmp_path):
    model = mlp((6, 8, 3))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    opened = load_model(tmp_path / "model.pt", arch=ARCH, arch_args=parse_arch_args(["sizes=(6, 8, 3)"]))
    x = torch.randn(2, 6)
    assert torch.equal(opened(x), model(x))
    assert not opened.training


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s}, lambda s: {"model": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_usual_wrappers_are_taken_off(tmp_path, wrap):
    torch.save(wrap(mlp().state_dict()), tmp_path / "m.pth")
    assert isinstance(load_model(tmp_path / "m.pth", arch=ARCH), nn.Sequential)


def test_a_state_dict_without_or_with_the_wrong_architecture_is_refused_with_the_mend(tmp_path):
    torch.save(mlp().state_dict(), tmp_path / "m.pt")
    with pytest.raises(LoadError, match="--arch"):
        load_model(tmp_path / "m.pt")
    with pytest.raises(LoadError, match="does not fit torchvision:resnet18"):
        load_model(tmp_path / "m.pt", arch="torchvision:resnet18")
    with pytest.raises(LoadError, match=r"\(128, 64\), not \(32, 64\)"):
        load_model(tmp_path / "m.pt", arch=ARCH, arch_args={"sizes": (64, 32, 64, 10)})
    with pytest.raises(LoadError, match="no callable"):
        load_model(tmp_path / "m.pt", arch="netgraph.models.mlp:nothing")
    with pytest.raises(LoadError, match="names no factory"):
        load_model(tmp_path / "m.pt", arch="foo")


def test_safetensors_state_dicts_open(tmp_path):
    from safetensors.torch import save_file

    save_file(mlp().state_dict(), tmp_path / "m.safetensors")
    load_model(tmp_path / "m.safetensors", arch=ARCH)
    with pytest.raises(LoadError, match="--arch"):
        load_model(tmp_path / "m.safetensors")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_runs_nothing_without_trust(tmp_path, legacy):
    torch.save(
        {"w": torch.ones(2), "x": Payload(tmp_path / "ran")},
        tmp_path / "m.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(UntrustedError, match=r"posix\.mkdir"):
        load_model(tmp_path / "m.pt", arch=ARCH)
    assert not (tmp_path / "ran").exists()


def test_whole_modules_and_programs_open_only_with_trust(tmp_path):
    model, x = mlp((6, 8, 3)), torch.randn(2, 6)
    torch.save(model, tmp_path / "m.pt")
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    for name in ("m.pt", "m.pt2"):
        with pytest.raises(UntrustedError, match="--trust"):
            load_model(tmp_path / name)
        assert torch.equal(load_model(tmp_path / name, trust=True)(x), model(x))


def _crafted(path, numel):
    """Write a state dict whose storage claims more numbers than the file has."""
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = data.replace(b"K\x03t", b"\x8a\x08" + numel.to_bytes(8, "little") + b"t", 1)
            new.writestr(entry.filename, data)


CHILD = """
import resource, sys
from netgraph.loading import load_model
from netgraph.errors import LoadError
import time
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()
try:
    load_model(sys.argv[1], arch="netgraph.models.mlp:mlp")
except LoadError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.time() - started)
"""


@pytest.mark.parametrize("kind", ["claim", "bomb", "header", "tensor"])
def test_a_file_that_asks_for_terabytes_is_refused_in_two_seconds_and_little_memory(tmp_path, kind):
    path = tmp_path / ("m.safetensors" if kind == "header" else "m.pt")
    if kind == "claim":
        _crafted(path, 2**42)
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 2**28)
    elif kind == "tensor":
        torch.save({"w": torch.ones(3)}, path)
        huge = pickle.dumps({"w": HugeTensor()})
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", huge)
    else:
        path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
    *message, last = done.stdout.strip().splitlines()
    grown, seconds = last.split()
    assert message
    assert int(grown) < 512 * 1024
    assert float(seconds) < 2


class HugeTensor:
    def __reduce__(self):
        return torch.Tensor, (2**40,)


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 1000])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files_are_one_sentence(tmp_path, cut, suffix):
    model = mlp((6, 8, 3))
    if suffix == ".pt":
        torch.save(model.state_dict(), tmp_path / "m.pt")
    else:
        write_bundle(tmp_path / "m.safetensors", model.state_dict(), {})
    path = tmp_path / f"m{suffix}"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(LoadError):
        load_model(path, arch=ARCH)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit_of_a_saved_network_is_noticed(tmp_path, where, bit):
    path = tmp_path / "m.safetensors"
    write_bundle(path, {"a": torch.randn(20), "b": torch.arange(5)}, {"graph": ["x", 1]})
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        tensors, document = read_bundle(path)
    except LoadError:
        return
    assert document == {"graph": ["x", 1]}  # the flip was in padding or in a name of the header that nothing reads
    assert tensors["b"].tolist() == list(range(5))


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
    for loaded in (ng.load(tmp_path / "m.hierarchy"), ng.load(tmp_path / "m.hierarchy", arch=lambda: mlp((6, 8, 3)))):
        assert str(loaded) == str(hierarchy)
        for a, b in zip(loaded.levels, hierarchy.levels, strict=True):
            torch.testing.assert_close(a.model(x), b.model.eval()(x))
            assert {n: t.aggregates.tolist() for n, t in a.transfers.items()} == {
                n: t.aggregates.tolist() for n, t in b.transfers.items()
            }
    (tmp_path / "other").mkdir()
    with pytest.raises(LoadError, match="no hierarchy"):
        ng.save(hierarchy, tmp_path / "other")
    with pytest.raises(LoadError, match="no hierarchy"):
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


def test_modules_of_the_users_own_folder_are_found_even_one_called_models(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "mine.py").write_text(
        "from torch import nn\n\ndef make(width=3):\n    return nn.Linear(2, width)\n"
    )
    torch.save(nn.Linear(2, 5).state_dict(), tmp_path / "m.pt")
    monkeypatch.delitem(sys.modules, "models", raising=False)
    opened = load_model(tmp_path / "m.pt", arch="models.mine:make", arch_args={"width": 5}, code_dir=tmp_path)
    assert opened.out_features == 5
    monkeypatch.delitem(sys.modules, "models", raising=False)
    monkeypatch.delitem(sys.modules, "models.mine", raising=False)


def test_names_build_networks_and_wrong_ones_are_refused(tmp_path):
    assert load_model("torchvision:squeezenet1_1").training is False
    with pytest.raises(LoadError, match="nosuchnet"):
        load_model("torchvision:nosuchnet")
    with pytest.raises(LoadError, match=r"netgraph-coarsening\[timm\]|Unknown model|fails"):
        load_model("timm:nosuchnet")
    with pytest.raises(LoadError, match=r"netgraph-coarsening\[transformers\]|config"):
        load_model(f"hf:{tmp_path}/none.json")
    with pytest.raises(LoadError, match="does not exist"):
        load_model(tmp_path / "none.pt")
    (tmp_path / "m.xyz").write_text("x")
    with pytest.raises(LoadError, match=r"ends in \.xyz"):
        load_model(tmp_path / "m.xyz")
    (tmp_path / "m.pt").write_text("hello, this is no network")
    with pytest.raises(LoadError, match="no PyTorch file"):
        load_model(tmp_path / "m.pt", arch=ARCH)
    (tmp_path / "e.pt").write_text("")
    with pytest.raises(LoadError, match="empty"):
        load_model(tmp_path / "e.pt", arch=ARCH)


def test_inputs_are_read_from_text():
    assert parse_inputs(["2x3x8x8"]).shape == (2, 3, 8, 8)
    ids, mask = parse_inputs(["2x16:int64", "2x16:bool"])
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert parse_inputs(["ids=2x4:int64", "x=2x3"])["ids"].shape == (2, 4)
    assert torch.equal(parse_inputs(["2x3"]), parse_inputs(["2x3"]))


@pytest.mark.parametrize("text", [["2y3"], ["2x3:int7"], ["2x0"], ["a=2x3", "2x3"], ["100000x100000"], ["x"], [""]])
def test_wrong_inputs_are_refused_before_memory_is_taken(text):
    started = time.perf_counter()
    with pytest.raises(LoadError, match="--input"):
        parse_inputs(text)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (mlp((6, 8, 3)), "--input 2x6"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 2)), "--input 2x1x28x28"),
        (nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)), "--input 2x16:int64"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1)), "--input 2x2x64"),
    ],
)
def test_the_input_is_guessed_from_the_first_layer(model, text):
    assert guess_input(model)[1] == text


def test_an_input_that_cannot_be_guessed_is_asked_for():
    with pytest.raises(LoadError, match="give --input"):
        guess_input(nn.Sequential(nn.Linear(3, 4), nn.Linear(7, 2)))
    with pytest.raises(LoadError, match="key=value"):
        parse_arch_args(["depth"])
