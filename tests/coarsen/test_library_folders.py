"""Folders of coarse networks of transformers and timm: their own libraries open them, in a process of their own too."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import netgraph as ng
from netgraph.coarsen import from_pretrained, push_to_hub
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import LoadError, OwnClassError, UntrustedError
from tests.support.command_line import run_main

prepare_torchvision()
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["the", "a", "film", "was", "good", "bad", "long", "very", "not", "and"],
]
TEXT = "the film was very good and not long"
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": len(WORDS),
}


def make_tokenizer(transformers):
    """Return a tokenizer of whole words, made here."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        chat_template="{{ messages[0].content }}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Make a folder with a small BERT that judges films, and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "fine")
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, pad_token_id=0, use_cache=False, num_labels=2)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder / "deep")
    for name in ("fine", "deep"):
        make_tokenizer(transformers).save_pretrained(folder / name)
    return folder


PROGRAM = textwrap.dedent(
    """
    import json, sys
    from netgraph.environment.torchvision_compat import prepare_torchvision
    prepare_torchvision()
    import transformers
    folders, text = json.loads(sys.argv[1])
    for folder in folders:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        network = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        judged = transformers.pipeline("text-classification", model=folder)(text)
        chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
        logits = network(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
        print(json.dumps([type(network).__name__, network.config.num_hidden_layers, judged, logits, chat]))
    """
)


def test_a_fresh_process_opens_what_commands_have_written(reader, monkeypatch):
    monkeypatch.chdir(reader)
    ids, mask = ("--input", "input_ids=2x8:int64"), ("--input", "attention_mask=2x8:int64")
    for words in (
        ("coarsen", "hf:fine", *ids, *mask, "--levels", 2, "-o", "narrow"),
        ("coarsen", "deep", *ids, "--levels", 2, "--coarsen", "depth", "-o", "short"),
        ("coarsen", "narrow", *ids, *mask, "--levels", 2, "--own-class", "again"),
    ):
        code, _, err = run_main(*words)
        assert code == 0, err
        name = "Llama" if words[1] == "deep" else "Bert"
        assert f"wrote {words[-1]}, a {name}ForSequenceClassification" in err
    folders = ["narrow", "short", "again"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([folders, TEXT])], env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for folder, line in zip(folders, done.stdout.splitlines()[-3:], strict=True):
        name, n_layers, (judged,), logits, chat = json.loads(line)
        assert name == f"{'Llama' if folder == 'short' else 'Bert'}ForSequenceClassification"
        assert (n_layers, chat) == (2 if folder == "short" else 4, TEXT)
        tokens = torch.tensor([[WORDS.index(word) for word in TEXT.split()]])
        network = ng.load_model(folder)
        with torch.no_grad():
            expected = network(input_ids=tokens).logits[0]
        torch.testing.assert_close(torch.tensor(logits), expected)
        assert judged["label"] == network.config.id2label[int(expected.argmax())]
    assert json.loads((reader / "narrow" / "config.json").read_text())["hidden_size"] == 16
    card = (reader / "again" / "README.md").read_text()
    assert card.count("### Coarsening") == 2
    assert 'AutoTokenizer.from_pretrained("again")' in card
    assert "library_name: transformers" in card
    assert "netgraph coarsen hf:fine" in card


def test_a_recorded_graph_of_a_language_model_keeps_the_tokenizer(reader, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(reader)
    network, ids = ng.load_model("fine"), {"input_ids": torch.zeros(2, 8, dtype=torch.int64)}
    hierarchy = ng.build_hierarchy(network, ids, n_levels=2)
    hierarchy.levels[1].model.save_pretrained("graph")
    hierarchy.save_pretrained("levels")
    for folder in ("graph", "levels"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert tokenizer(TEXT)["input_ids"] == [WORDS.index(word) for word in TEXT.split()]
        assert "library_name: netgraph" in (reader / folder / "README.md").read_text()


def test_a_network_that_transformers_opened_brings_its_tokenizer_from_the_cache(reader, monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers")
    constants = pytest.importorskip("huggingface_hub.constants")
    snapshot = tmp_path / "cache" / "models--me--films" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "cache" / "models--me--films" / "refs").mkdir()
    (tmp_path / "cache" / "models--me--films" / "refs" / "main").write_text("c" * 40)
    for path in (reader / "fine").iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    network = transformers.BertForSequenceClassification.from_pretrained(snapshot)
    network.config.name_or_path = "me/films"
    ids = {"input_ids": torch.zeros(2, 8, dtype=torch.int64)}
    own = ng.own_class(ng.build_hierarchy(network, ids, n_levels=2), ids)
    ng.coarsen.save_pretrained(own, tmp_path / "small")
    assert (tmp_path / "small" / "tokenizer.json").is_file()
    assert 'base_model: "me/films"' in (tmp_path / "small" / "README.md").read_text()


def make_timm(name, **options):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **options).eval()


@pytest.mark.parametrize(
    ("name", "options", "directions", "changed"),
    [
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "depth": 2, "num_heads": 4},
            "channels",
            {"embed_dim": 96, "num_heads": 2},
        ),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 4, "num_heads": 4}, "depth", {"depth": 2}),
        ("resnet10t", {}, "channels", {"channels": [32, 64, 128, 256]}),
    ],
)
def test_timm_opens_a_coarse_network_by_its_own_arguments(name, options, directions, changed, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    model, x = make_timm(name, **options), torch.randn(2, 3, 32, 32)
    hierarchy = ng.build_hierarchy(model, x, directions=directions, n_levels=2)
    own = ng.own_class(hierarchy, x)
    ng.coarsen.save_pretrained(own, "small")
    again = timm.create_model("local-dir:small", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), hierarchy.levels[1].model(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ng.load_model("small")(x), again(x))
        torch.testing.assert_close(from_pretrained("small")(x), again(x))
    arguments = json.loads((tmp_path / "small" / "config.json").read_text())["model_args"]
    assert changed.items() <= arguments.items()
    card = (tmp_path / "small" / "README.md").read_text()
    assert 'timm.create_model("local-dir:small", pretrained=True)' in card


def test_sizes_that_no_argument_of_timm_expresses_are_named_and_the_graph_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x = make_timm("vit_tiny_patch16_224", img_size=32, depth=2, num_heads=4), torch.randn(2, 3, 32, 32)
    hierarchy = ng.build_hierarchy(model, x, ratio={"blocks.0.mlp.fc1": 0.5, "*": 1.0}, n_levels=2)
    own = ng.own_class(hierarchy, x)
    with pytest.raises(
        OwnClassError, match=r"the arguments of timm for vit_tiny_patch16_224 do not express its sizes \(blocks"
    ):
        ng.coarsen.save_pretrained(own, "small")
    words = ("timm:vit_tiny_patch16_224", "--arch-arg", "img_size=32", "--arch-arg", "depth=2", "--input", "2x3x32x32")
    code, _, err = run_main(
        "coarsen", *words, "--levels", 2, "--ratio", 1, "--axis-ratio", "blocks.0.mlp.fc1=0.5", "-o", "graph"
    )
    assert code == 0, err
    assert "do not express its sizes" in err
    assert "wrote graph, the recorded graph" in err
    assert ng.load_model("graph")(x).shape == (2, 1000)
    assert "It is a recorded graph: the arguments of timm" in (tmp_path / "graph" / "README.md").read_text()


def test_a_config_of_timm_that_names_weights_elsewhere_is_refused(tmp_path):
    pytest.importorskip("timm")
    (tmp_path / "model.safetensors").touch()
    for entries, kind, sentence in (
        (
            {"architecture": "resnet10t", "model_args": {"checkpoint_path": "x.pt"}},
            UntrustedError,
            "the argument checkpoint_path",
        ),
        ({"architecture": "resnet10t", "model_args": {"pretrained": True}}, UntrustedError, "the argument pretrained"),
        ({"architecture": "hf-hub:me/net"}, LoadError, "asks for 'hf-hub:me/net', which timm"),
        ({"architecture": "resnet10t", "model_args": [1]}, LoadError, "has model_args that are no names with values"),
        (
            {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 10**6}},
            LoadError,
            "asks for depth 1,000,000",
        ),
    ):
        (tmp_path / "config.json").write_text(json.dumps(entries))
        with pytest.raises(kind, match=sentence):
            from_pretrained(tmp_path)


def test_a_folder_of_transformers_is_uploaded_as_it_is(reader, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def create_repo(self, repo_id, **_):
        return hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **_):
        asked.update({name: (reader / "fine" / name).exists() for name in os.listdir(folder_path)}, repo_id=repo_id)
        return "address"

    monkeypatch.setattr(hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(hub.HfApi, "upload_folder", upload_folder)
    assert push_to_hub(reader / "fine", "me/fine") == "address"
    assert asked.pop("repo_id") == "me/fine"
    assert set(asked) == set(os.listdir(reader / "fine"))
