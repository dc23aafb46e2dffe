"""Opening networks: safe files open, others are refused by name, and no code of a file runs."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.errors import LoadError, UntrustedError
from netgraph.io.bundle import write_bundle
from netgraph.io.load import load_model
from netgraph.io.model_zoo import parse_arch_args
from netgraph.models.perceptron import mlp

ARCH = "netgraph.models:mlp"


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
        load_model(tmp_path / "m.pt", arch="netgraph.models.perceptron:nothing")
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


class Tied(nn.Module):
    """Two ties of parameters, one of buffers, and two parameters that are equal by chance."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
        self.again, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head.weight, self.again.weight = self.embed.weight, self.inner.weight
        self.other.load_state_dict(self.inner.state_dict())
        self.register_buffer("scale", torch.rand(16))
        self.register_buffer("same", self.scale)

    def forward(self, ids):
        h = self.other(self.again(self.inner(self.embed(ids)).relu() * self.scale) + self.same)
        return self.head(h)


def test_an_exported_program_keeps_its_ties(tmp_path):
    torch.manual_seed(0)
    model, ids = Tied().eval(), torch.randint(0, 20, (2, 5))
    torch.export.save(torch.export.export(model, (ids,)), tmp_path / "tied.pt2")
    opened = ng.load_model(tmp_path / "tied.pt2", trust=True)
    assert sum(p.numel() for p in opened.parameters()) == sum(p.numel() for p in model.parameters())
    assert len({id(b) for _, b in opened.named_buffers()}) == 1
    first, second = (ng.build_hierarchy(m, ids, n_levels=2, seed=0).levels[1].model for m in (model, opened))
    assert sorted(tuple(p.shape) for p in first.parameters()) == sorted(tuple(p.shape) for p in second.parameters())
    with torch.no_grad():
        torch.testing.assert_close(second(ids), first(ids))


def test_a_program_that_is_none_is_one_sentence_without_torchs_traceback(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 and no program")
    open_it = f"from netgraph.io.load import load_model; load_model({str(tmp_path / 'm.pt2')!r}, trust=True)"
    code = f"try:\n    {open_it}\nexcept ValueError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "cannot be opened as an exported program" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "mend"), [(".metadata", "dcp_to_torch"), ("zero_to_fp32.py", "DeepSpeed. Run its script")]
)
def test_folders_of_sharded_training_are_told_how_to_become_one_file(tmp_path, name, mend):
    (tmp_path / name).write_text("")
    with pytest.raises(LoadError, match=mend):
        load_model(tmp_path, arch=ARCH)


def test_a_folder_is_told_how_to_be_opened(tmp_path):
    with pytest.raises(LoadError, match=r"is a folder without a config.json of netgraph, transformers or timm"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(LoadError, match=rf"and no weights. Give hf:{re.escape(str(tmp_path))} for random ones"):
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


def test_a_folder_of_code_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(LoadError, match="not a folder"):
        load_model("m.pt", arch="one:One", code_dir=tmp_path / "nosuch")
