"""Opening a network asks nobody on the network, unless the user has allowed a download."""

import json
import socket
import types

import pytest
import torch

from netgraph.environment.offline import is_offline_error, stay_offline
from netgraph.errors import LoadError, LoadWarning, UntrustedError
from netgraph.io import huggingface
from netgraph.io.model_zoo import build_network


@pytest.fixture
def asked(monkeypatch):
    """The hosts that were looked up. None is found."""
    hosts = []

    def refuse(host, *args, **kwargs):
        hosts.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return hosts


class NoLibrary:
    """Stands for transformers. Nothing of it may be reached."""

    def __getattr__(self, name):
        raise AssertionError(f"transformers.{name} was used")


@pytest.mark.parametrize(
    "entries",
    [
        {"backbone": "owner/name"},
        {"backbone": "hf-hub:owner/name"},
        {"vision_config": {"backbone": "owner/name"}},
        {"encoders": [{"model_type": "bert", "encoder_model_name": "owner/name"}]},
        {"question_encoder_name_or_path": "owner/name@main/x"},
        {"architecture": "hf_hub:owner/name"},
        {"adapter_repo_id": "owner/name"},
        {"backbone": "https://example.org/weights.pth"},
    ],
)
def test_an_entry_that_names_a_repository_is_refused_by_name(tmp_path, entries):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "any", **entries}))
    with pytest.raises(LoadError, match=r"which is a repository on the network\. Give --download"):
        huggingface.build_from_config(NoLibrary(), path, {})
    library = types.SimpleNamespace(CONFIG_MAPPING={}, __version__="5")
    with pytest.raises(LoadError, match=r"model_type 'any', which transformers 5 does not have"):
        huggingface.build_from_config(library, path, {}, download=True)


@pytest.mark.parametrize(
    "entries",
    [
        {"backbone": "resnet50"},
        {"_name_or_path": "owner/name"},
        {"text_config": {"name_or_path": "owner/name"}},
        {"attn_implementation": {"": "sdpa", "vision_config": "eager"}},
        {"license": "see https://example.org/license", "architectures": ["A/B"]},
    ],
)
def test_other_entries_pass(tmp_path, entries):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "any", **entries}))
    library = types.SimpleNamespace(CONFIG_MAPPING={}, __version__="5")
    with pytest.raises(LoadError, match="model_type"):
        huggingface.build_from_config(library, path, {})


def test_classes_of_a_repository_are_dropped_with_a_word_and_its_kernels_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "any", "auto_map": {"AutoModel": "owner/name--modeling.Net"}}))
    seen = []

    def for_model(**data):
        seen.append(data)
        raise LoadError("that is enough")

    library = types.SimpleNamespace(CONFIG_MAPPING={"any": 1}, AutoConfig=types.SimpleNamespace(for_model=for_model))
    with pytest.warns(LoadWarning, match=r"classes of its own \(auto_map\)"), pytest.raises(LoadError, match="enough"):
        huggingface.build_from_config(library, path, {})
    assert "auto_map" not in seen[0]
    path.write_text(json.dumps({"model_type": "any", "attn_implementation": "owner/kernel"}))
    with pytest.raises(UntrustedError, match="attn_implementation"):
        huggingface.build_from_config(library, path, {}, download=True)


@pytest.mark.parametrize(
    "entries",
    [
        {"attn_implementation": {"": "owner/kernel"}},
        {"attn_implementation": {"text_config": {"x": ["sdpa", "owner/kernel:run"]}}},
        {"text_config": {"_attn_implementation": "paged|owner/kernel@main"}},
        {"_attn_implementation_internal": "owner/kernel"},
        {"model_args": {"checkpoint_path": "weights.pt"}},
        {"backbone_kwargs": {"pretrained_cfg": {"file": "weights.pt"}}},
        {"backbone": "local-dir:weights"},
    ],
)
def test_an_entry_that_names_code_or_an_unchecked_file_is_refused(tmp_path, entries):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "any", **entries}))
    for download in (False, True):
        with pytest.raises(UntrustedError, match=r"Remove that entry"):
            huggingface.build_from_config(NoLibrary(), path, {}, download=download)


def test_weights_in_arguments_are_not_fetched_without_permission(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        LoadError, match=r"asks the network for https://.*\.pth, which is not on this machine\. Give --download"
    ):
        build_network("torchvision:fcn_resnet50", {"weights_backbone": "IMAGENET1K_V1"})
    assert not asked
    with pytest.raises(LoadError, match="no network in this test"):
        build_network("torchvision:fcn_resnet50", {"weights_backbone": "IMAGENET1K_V1"}, download=True)
    assert asked


def test_the_hub_is_not_asked_within_the_block(asked):
    hub = pytest.importorskip("huggingface_hub")
    before = hub.constants.HF_HUB_OFFLINE
    with stay_offline():
        for ask in (lambda: hub.HfApi().repo_exists("owner/name"), lambda: hub.hf_hub_download("owner/name", "x.json")):
            with pytest.raises(Exception) as caught:  # noqa: PT011, the classes are the library's own
                ask()
            assert is_offline_error(caught.value)
        with pytest.raises(ConnectionError):
            torch.hub.download_url_to_file("https://example.org/x", "x")
    assert not asked
    assert before == hub.constants.HF_HUB_OFFLINE
    assert not is_offline_error(ValueError("x"))
