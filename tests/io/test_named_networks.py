"""Networks by name, from torchvision, timm and Hugging Face: real names are built and wrong ones are refused."""

import contextlib
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from netgraph.errors import LoadError, LoadWarning
from netgraph.io.example_inputs import guess_input
from netgraph.io.huggingface import build_on_meta
from netgraph.io.load import describe_origin, load_model

ARCH = "netgraph.models:mlp"


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
    loaded = opened.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    assert "weights of its folder" in describe_origin(folder, {})
    fresh = load_model(f"{folder}/config.json").state_dict()
    assert not torch.equal(
        fresh["cls.predictions.transform.dense.weight"], loaded["cls.predictions.transform.dense.weight"]
    )
    assert "random weights" in describe_origin(f"{folder}/config.json", {})
    for args in (
        {"architectures": ["BertForPreTraining"]},
        {"architectures": ["BertModel"]},
        {"intermediate_size": 24},
    ):
        with pytest.raises(LoadError, match=r"do not fit|fails"):
            load_model(folder, arch_args=args)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match=r"pytorch_model\.bin is not a PyTorch file"):
        load_model(folder)


def test_quantised_weights_are_read_as_numbers_and_said_or_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2))
    model.save_pretrained(tmp_path)
    blocks = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": blocks}))
    numbers = {name: p.detach() for name, p in model.state_dict().items()}
    layers = [name for name in numbers if "proj" in name]
    scale = {name: numbers[name].abs().max() / 448 for name in layers}
    small = {name: (numbers[name] / scale[name]).to(torch.float8_e4m3fn) for name in layers}
    save_file(numbers | small, tmp_path / "model.safetensors", {"format": "pt"})  # without scales
    with pytest.raises(LoadError, match=r"is quantised \(fp8\) and keeps numbers of float8_e4m3fn"):
        load_model(f"hf:{tmp_path}")
    scales = {f"{name}_scale_inv": scale[name].reshape(1, 1) for name in layers}
    save_file(numbers | small | scales, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.warns(LoadWarning, match=r"is quantised \(fp8\)"):
        loaded = load_model(f"hf:{tmp_path}").state_dict()
    for name in layers:
        expected = small[name].float() * scale[name]
        torch.testing.assert_close(loaded[name].float(), expected, rtol=1e-2, atol=1e-4)


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


def test_the_memory_that_a_config_asks_for_is_measured_exactly(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**BERT)
    model = transformers.BertModel(config)
    taken = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    for room in (taken, taken - 1):
        monkeypatch.setattr("psutil.virtual_memory", lambda room=room: SimpleNamespace(available=room))
        with contextlib.nullcontext() if room == taken else pytest.raises(LoadError, match=f"{taken:,} bytes"):
            assert all(p.is_meta for p in build_on_meta(transformers.BertModel, config).parameters())


def _fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_torchvision_and_what_imports_it_open_in_a_fresh_process():
    code = "from netgraph.io.load import load_model; load_model('torchvision:squeezenet1_1')"
    if importlib.util.find_spec("timm"):
        code = code.replace("load_model('", "load_model('timm:resnet10t'); load_model('")
    done = _fresh(code)
    assert done.returncode == 0, done.stderr
    shim = "from netgraph.environment.torchvision_compat import prepare_torchvision as p; p(); p()"
    done = _fresh(f"{shim}; import torchvision, torch; print(torch.ops.torchvision.nms.default._schema)")
    assert "float iou_threshold) -> Tensor" in done.stdout, done.stderr


@pytest.mark.parametrize("case", ["native", "missing"])
def test_nothing_is_declared_where_torchvision_loads_or_is_not_there(case):
    mock = {
        "native": "t._loads_natively = lambda folder: True",
        "missing": "t.importlib.util.find_spec = lambda name: None",
    }[case]
    done = _fresh(
        f"import netgraph.environment.torchvision_compat as t, torch; {mock}; t.prepare_torchvision(); print(t._kept)"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_names_build_networks_and_wrong_ones_are_refused(tmp_path):
    assert load_model("torchvision:squeezenet1_1").training is False
    with pytest.raises(LoadError, match="nosuchnet"):
        load_model("torchvision:nosuchnet")
    with pytest.raises(LoadError, match=r"pip install timm|Unknown model|fails"):
        load_model("timm:nosuchnet")
    with pytest.raises(LoadError, match=r"pip install transformers|config"):
        load_model(f"hf:{tmp_path}/none.json")
    with pytest.raises(LoadError, match="does not exist"):
        load_model(tmp_path / "none.pt")
    (tmp_path / "m.xyz").write_text("x")
    with pytest.raises(LoadError, match=r"ends in \.xyz"):
        load_model(tmp_path / "m.xyz")
    (tmp_path / "m.pt").write_text("hello, this is no network")
    with pytest.raises(LoadError, match="not a PyTorch file"):
        load_model(tmp_path / "m.pt", arch=ARCH)
    (tmp_path / "e.pt").write_text("")
    with pytest.raises(LoadError, match="empty"):
        load_model(tmp_path / "e.pt", arch=ARCH)
