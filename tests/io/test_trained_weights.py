"""Trained weights by name: taken from the caches of other libraries, and fetched only with permission."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from netgraph.errors import LoadError, UntrustedError
from netgraph.io.load import describe_origin, is_network_name, load_model
from netgraph.io.trained_weights import names_trained_weights

SOURCE, FILE = "torchvision:squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"


def test_names_with_trained_weights_are_known():
    assert all(
        map(names_trained_weights, (f"{SOURCE}@DEFAULT", "timm:resnet18@pretrained", "hf:google/bert", "hf:a/b@main"))
    )
    assert not any(
        map(names_trained_weights, (SOURCE, "timm:resnet18", "hf:folder", "hf:a/b/config.json", "hf:a/c.json", "m.pt"))
    )
    assert is_network_name("hf:google/bert")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of downloads of `torch.hub`, and refuse the network."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(url, *args, **options):
        raise ConnectionError(f"no route to {url}")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return folder


def test_weights_of_torchvision_come_from_its_cache_or_are_told_by_one_sentence(cache):
    source = f"{SOURCE}@IMAGENET1K_V1"
    with pytest.raises(LoadError, match=r"not on this machine. Give --download"):
        load_model(source)
    with pytest.raises(
        LoadError, match=r"fetching .* fails \(ConnectionError: no route to https://download.pytorch.org"
    ):
        load_model(source, download=True)
    with pytest.raises(LoadError, match=r"weights are IMAGENET1K_V1"):
        load_model(f"{SOURCE}@V9")
    trained = load_model(SOURCE)
    torch.save(trained.state_dict(), cache / FILE)
    opened, x = load_model(source), torch.randn(1, 3, 64, 64)
    assert torch.equal(opened(x), trained(x))
    assert "trained weights" in describe_origin(source, {})
    assert f"{SOURCE}@DEFAULT" in describe_origin(SOURCE, {})
    torch.save(nn.Linear(2, 2), cache / FILE)
    with pytest.raises(UntrustedError, match="Linear"):
        load_model(source)


def test_weights_are_fetched_only_with_permission(cache, monkeypatch, tmp_path):
    trained, fetched = load_model(SOURCE), []

    def fetch(url, path, digest, **options):
        fetched.append((Path(url).name, digest))
        torch.save(trained.state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(LoadError, match="--download"):
        load_model(f"{SOURCE}@DEFAULT")
    assert not fetched
    opened = load_model(f"{SOURCE}@DEFAULT", download=True)
    assert fetched == [(FILE, "b8a52dc0")]  # the start of the sha256, which the library compares
    assert torch.equal(opened.features[0].weight, trained.features[0].weight)
    torch.save(trained.state_dict(), tmp_path / "m.pt")
    with pytest.raises(LoadError, match=r"Leave out @DEFAULT"):
        load_model(tmp_path / "m.pt", arch=f"{SOURCE}@DEFAULT")


def test_weights_of_timm_come_from_the_cache_of_hugging_face(monkeypatch, tmp_path):
    timm, hub = pytest.importorskip("timm"), pytest.importorskip("huggingface_hub")
    from safetensors.torch import save_file

    trained, asked = timm.create_model("resnet10t").eval(), []
    save_file(trained.state_dict(), tmp_path / "model.safetensors")

    def find(repository, name, *, revision, local_files_only):
        asked.append((repository, name, local_files_only))
        if local_files_only:
            raise hub.errors.LocalEntryNotFoundError("not in the cache")
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", find)
    with pytest.raises(LoadError, match=r"timm:resnet10t@pretrained are not on this machine. Give --download"):
        load_model("timm:resnet10t@pretrained")
    for name in ("pretrained", "c3_in1k"):
        opened, x = load_model(f"timm:resnet10t@{name}", download=True), torch.randn(1, 3, 64, 64)
        assert torch.equal(opened(x), trained(x))
    assert asked[-1] == ("timm/resnet10t.c3_in1k", "model.safetensors", False)
    with pytest.raises(LoadError, match=r"weights are pretrained, c3_in1k"):
        load_model("timm:resnet10t@nothing", download=True)


def test_repositories_of_hugging_face_come_from_its_cache(monkeypatch, tmp_path):
    transformers, hub = pytest.importorskip("transformers"), pytest.importorskip("huggingface_hub")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    net = transformers.BertForMaskedLM(transformers.BertConfig(**small)).eval()
    net.save_pretrained(tmp_path / "remote")
    asked = []

    def find(repository, *, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((repository, revision))
        if local_files_only and not (tmp_path / "cache").is_dir():
            raise hub.errors.LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            shutil.copytree(tmp_path / "remote", tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", find)
    with pytest.raises(LoadError, match=r"hf:owner/name@v2 are not on this machine. Give --download"):
        load_model("hf:owner/name@v2")
    ids = torch.randint(0, 50, (2, 8))
    for download in (True, False):
        assert torch.equal(load_model("hf:owner/name@v2", download=download)(ids).logits, net(ids).logits)
    assert asked[-1] == ("owner/name", "v2")
    (tmp_path / "cache" / "model.safetensors").unlink()  # a config alone would give random weights
    with pytest.raises(LoadError, match=r"weights of hf:owner/name are not on this machine"):
        load_model("hf:owner/name")
