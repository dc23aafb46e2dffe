"""Opening networks: what is safe opens, what is not is refused by name, and nothing a stranger wrote runs."""

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import netgraph as ng
from netgraph.bundle import read_bundle, write_bundle
from netgraph.coarsen.network import coarse_network
from netgraph.configs import on_shapes
from netgraph.errors import LoadError, UntrustedError
from netgraph.examples import guess_input, parse_inputs
from netgraph.loading import load_model, origin, parse_arch_args
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


def test_prefixes_are_taken_off_unless_they_are_the_networks_own(tmp_path):
    (tmp_path / "wrapped.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, name):\n"
        "        super().__init__()\n        self.add_module(name, nn.Linear(2, 3))\n"
    )
    for own in ("model", "module"):
        for prefix in ("", "module.", "_orig_mod.", "_orig_mod.module."):
            state = {f"{prefix}{own}.{k}": v for k, v in nn.Linear(2, 3).state_dict().items()}
            torch.save({"model": {"state_dict": state}}, tmp_path / "m.pt")
            opened = load_model(tmp_path / "m.pt", arch="wrapped:Net", arch_args={"name": own}, code_dir=tmp_path)
            assert torch.equal(getattr(opened, own).weight, state[f"{prefix}{own}.weight"])


def test_a_tied_weight_is_filled_by_either_of_its_names(tmp_path):
    from safetensors.torch import save_model

    (tmp_path / "tied.py").write_text(
        "from torch import nn\ndef tied():\n    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)\n"
        "    b.weight = a.weight\n    return nn.Sequential(a, b)\n"
    )
    a = nn.Linear(4, 4, bias=False)
    net = nn.Sequential(a, nn.Linear(4, 4, bias=False))
    net[1].weight = a.weight
    save_model(net, str(tmp_path / "m.safetensors"))  # keeps one name of the two
    opened = load_model(tmp_path / "m.safetensors", arch="tied:tied", code_dir=tmp_path)
    assert opened[0].weight is opened[1].weight
    assert torch.equal(opened[0].weight, a.weight)


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


def test_the_state_dict_of_a_coarse_network_is_told_how_to_be_opened(tmp_path):
    x = torch.randn(2, 64)
    small = ng.own_class(ng.build_hierarchy(mlp(), x), x)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    with pytest.raises(LoadError, match=r"\(64, 64\), not \(128, 64\).*--own-class wrote \(with --trust\)"):
        load_model(tmp_path / "small.pt", arch=ARCH)
    torch.save(small, tmp_path / "whole.pt")
    assert torch.equal(load_model(tmp_path / "whole.pt", trust=True)(x), small.eval()(x))


def test_safetensors_state_dicts_open(tmp_path):
    from safetensors.torch import save_file

    save_file(mlp().state_dict(), tmp_path / "m.safetensors")
    load_model(tmp_path / "m.safetensors", arch=ARCH)
    with pytest.raises(LoadError, match="--arch"):
        load_model(tmp_path / "m.safetensors")


def test_whole_modules_and_programs_open_only_with_trust(tmp_path):
    model, x = mlp((6, 8, 3)), torch.randn(2, 6)
    torch.save(model, tmp_path / "m.pt")
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    for name in ("m.pt", "m.pt2"):
        with pytest.raises(UntrustedError, match="--trust"):
            load_model(tmp_path / name)
        assert torch.equal(load_model(tmp_path / name, trust=True)(x), model(x))


def test_a_program_that_is_none_is_one_sentence_without_torchs_traceback(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 and no program")
    open_it = f"from netgraph.loading import load_model; load_model({str(tmp_path / 'm.pt2')!r}, trust=True)"
    done = _fresh(f"try:\n    {open_it}\nexcept ValueError as error:\n    print(error)")
    assert "cannot be opened as an exported program" in done.stdout
    assert done.stderr == ""


def test_a_folder_is_told_how_to_be_opened(tmp_path):
    with pytest.raises(LoadError, match=rf"is a folder; give hf:{re.escape(str(tmp_path))}"):
        load_model(tmp_path)


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
    monkeypatch.setattr("netgraph.bundle.DOCUMENT_LIMIT", 10)
    with pytest.raises(LoadError, match="at most 10"):
        write_bundle(path, {"a": torch.zeros(2)}, {"long": "document"})
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(LoadError, match="no room"):
        write_bundle(path, {"a": torch.zeros(2)}, {"x": 2})
    assert read_bundle(path)[1] == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


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


def _strangers_graphs(document, change):
    return {mode: [change(*node) for node in graph] for mode, graph in document["graphs"].items()}


@pytest.mark.parametrize("place", ["tensor", "keyword", "input", "number"])
def test_nothing_written_in_a_document_is_run_as_code(tmp_path, place):
    """Names of a file once went into generated Python; each of these made a folder then, or would have."""
    code = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"

    def change(name, what, args, kwargs):
        if place == "tensor" and what.startswith("get_attr"):
            what = f'get_attr:0.weight") or {code} or getattr(self, "x'
        if place == "keyword" and what == "aten.linear.default":
            kwargs = {"dict": {f"**({code} or {{}}), bias": None}}
        if place == "input" and what.startswith("placeholder"):
            what = f"placeholder:x={code}"
        if place == "number" and what == "aten.linear.default":
            args = [*args[:2], {"float": code}]
        return [name, what, args, kwargs]

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
    with pytest.raises(LoadError, match="no hierarchy of this version"):
        ng.load(path)
    data = bytearray((path / "hierarchy.safetensors").read_bytes())
    data[-3] ^= 4
    (path / "hierarchy.safetensors").write_bytes(bytes(data))
    with pytest.raises(LoadError, match="damaged"):
        ng.load(path)


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


def test_a_second_folder_called_models_is_not_mistaken_for_the_first(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "models", raising=False)
    for name in ("first", "second"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models" / "__init__.py").write_text(
            "from torch import nn\ndef make():\n    return nn.Linear(2, 5)\n"
        )
    torch.save(nn.Linear(2, 5).state_dict(), tmp_path / "m.pt")
    load_model(tmp_path / "m.pt", arch="models:make", code_dir=tmp_path / "first")
    load_model(tmp_path / "m.pt", arch="models:make", code_dir=tmp_path / "first")
    with pytest.raises(LoadError, match=r"already imported from .*first.*process of its own"):
        load_model(tmp_path / "m.pt", arch="models:make", code_dir=tmp_path / "second")
    monkeypatch.delitem(sys.modules, "models", raising=False)


def test_a_torchvision_network_goes_round_by_its_name(tmp_path):
    model = load_model("torchvision:resnet18")
    torch.save(model.state_dict(), tmp_path / "m.pth")
    opened, x = load_model(tmp_path / "m.pth", arch="torchvision:resnet18"), torch.randn(1, 3, 32, 32)
    assert torch.equal(opened(x), model(x))
    assert guess_input(opened)[1] == "--input 2x3x224x224"


BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 50, "max_position_embeddings": 32,
}  # fmt: skip


def test_a_hugging_face_config_builds_the_class_it_names(tmp_path):
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    for named, cls in (({}, "BertModel"), ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM")):
        path.write_text(json.dumps({**BERT, **named}))
        model = load_model(f"hf:{tmp_path}")
        assert type(model).__name__ == cls
        example, text = guess_input(model)
        assert text == "--input input_ids=2x16:int64 --input attention_mask=2x16:int64"
        assert model(**example)[0].shape[:2] == (2, 16)
    model.save_pretrained(tmp_path / "saved")  # which leaves out tied weights
    opened = load_model(tmp_path / "saved" / "model.safetensors", arch=f"hf:{path}")
    assert torch.equal(opened(**example)[0], model(**example)[0])
    for wrong in ({"architectures": ["pipeline"]}, {"model_type": "nosuch"}):
        path.write_text(json.dumps({**BERT, **wrong}))
        with pytest.raises(LoadError, match=r"pipeline|nosuch"):
            load_model(f"hf:{path}")


def test_a_hugging_face_folder_gives_its_own_weights_or_says_what_does_not_fit(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForMaskedLM(transformers.AutoConfig.for_model(**BERT)).eval()
    model.save_pretrained(tmp_path)
    folder = f"hf:{tmp_path}"
    opened = load_model(folder)
    own = opened.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert "weights of its folder" in origin(folder, {})
    fresh = load_model(f"{folder}/config.json").state_dict()
    assert not torch.equal(
        fresh["cls.predictions.transform.dense.weight"], own["cls.predictions.transform.dense.weight"]
    )
    assert "random weights" in origin(f"{folder}/config.json", {})
    for args in (
        {"architectures": ["BertForPreTraining"]},
        {"architectures": ["BertModel"]},
        {"intermediate_size": 24},
    ):
        with pytest.raises(LoadError, match=r"do not fit|fails"):
            load_model(folder, arch_args=args)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match=r"pytorch_model\.bin and no model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 2**40},
        {"vocab_size": 2**50},
        {"num_hidden_layers": 10**12},
        {"num_hidden_layers": 2**10 + 1},
        {"num_labels": 10**12},
        {"attn_implementation": "somebody/attention"},
    ],
    ids=str,
)
def test_a_config_that_asks_for_too_much_is_refused_before_memory_is_taken(tmp_path, wrong):
    pytest.importorskip("transformers")
    import resource

    (tmp_path / "config.json").write_text(json.dumps({**BERT, **wrong}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoadError, match="asks for"):
        load_model(f"hf:{tmp_path}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024  # KiB


def test_what_a_config_asks_for_is_measured_exactly(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**BERT)
    model = transformers.BertModel(config)
    taken = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    for room in (taken, taken - 1):
        monkeypatch.setattr("psutil.virtual_memory", lambda room=room: SimpleNamespace(available=room))
        with contextlib.nullcontext() if room == taken else pytest.raises(LoadError, match=f"{taken:,} bytes"):
            assert all(p.is_meta for p in on_shapes(transformers.BertModel, config).parameters())


def _fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_torchvision_and_what_imports_it_open_in_a_fresh_process():
    code = "from netgraph.loading import load_model; load_model('torchvision:squeezenet1_1')"
    if importlib.util.find_spec("timm"):
        code = code.replace("load_model('", "load_model('timm:resnet10t'); load_model('")
    done = _fresh(code)
    assert done.returncode == 0, done.stderr
    shim = "from netgraph.torchvision_ops import prepare_torchvision as p; p(); p()"
    done = _fresh(f"{shim}; import torchvision, torch; print(torch.ops.torchvision.nms.default._schema)")
    assert "float iou_threshold) -> Tensor" in done.stdout, done.stderr


@pytest.mark.parametrize("case", ["native", "missing"])
def test_nothing_is_declared_where_torchvision_loads_or_is_not_there(case):
    mock = {
        "native": "t._native_loads = lambda folder: True",
        "missing": "t.importlib.util.find_spec = lambda name: None",
    }[case]
    done = _fresh(f"import netgraph.torchvision_ops as t, torch; {mock}; t.prepare_torchvision(); print(t._kept)")
    assert done.stdout.strip() == "[]", done.stderr


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


@pytest.mark.parametrize(
    "text",
    [
        ["2y3"],
        ["9" * 5000],
        ["a=2x3", "a=2x4"],
        ["2x3:int7"],
        ["2x0"],
        ["a=2x3", "2x3"],
        ["100000x100000"],
        ["x"],
        [""],
    ],
)
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
        (nn.LSTM(5, 6, batch_first=True), "--input 2x16x5"),
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


def test_a_folder_of_code_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(LoadError, match="no folder"):
        load_model("m.pt", arch="one:One", code_dir=tmp_path / "nosuch")
