"""Networks of text through compress, evaluate, finetune and export: their own tokenizer, next tokens, and a file that ONNX Runtime runs."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.network import functional_error
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.models import Decoder, Encoder
from netgraph.models.data import tokenizer as text
from netgraph.models.data.datasets import Dataset, DataSplit
from tests.support.command_line import run_main

REVIEWS = ["a good film", "a bad film, and a long one", "good", "bad bad film", "one long good film", "a film"] * 8


def word_tokenizer(*more):
    """Return a tokenizer whose words have other numbers than those of the reviews alone."""
    return text.train_tokenizer([*REVIEWS, *more])


def read(tokenizer, length):
    tokens, targets = text.encode_texts(tokenizer, REVIEWS, length=length), torch.arange(len(REVIEWS)) % 2
    split = DataSplit(tokens, targets)
    return Dataset("imdb", ("bad", "good"), split, split, split, padding=0, tokenizer=tokenizer)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Be in a folder with a classifier and a language model, whose tokenizer is not that of the reviews."""

    def load(name, root=None, tokenizer=None, length=256):
        return read(tokenizer or word_tokenizer(), length)

    monkeypatch.setattr("netgraph.models.data.calibration.load_dataset", load)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    words, tokens = word_tokenizer("zebra zebra yak " * 40), torch.ones(2, 8, dtype=torch.int64)
    for name, network in (
        ("reader", Encoder(20, width=16, n_hidden=32, depth=1, length=8)),
        ("writer", Decoder(20, width=16, n_hidden=32, depth=1, length=8)),
    ):
        ng.save(ng.coarse_network(network.eval(), ng.trace(network, tokens), {}), f"{name}.safetensors")
        text.save_tokenizer(words, f"{name}.tokenizer.json")
    return words


def succeed(*words):
    code, out, err = run_main(*map(str, words))
    assert code == 0, err
    return out, err


def test_the_tokenizer_follows_a_network_to_the_file_of_a_runtime(here):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, err = succeed(
        "compress", "reader.safetensors", "--data", "imdb", "--target", "parameters=0.7", "-o", "small.hierarchy"
    )
    assert "netgraph: wrote small.tokenizer.json, the tokenizer of the network" in err
    succeed("finetune", "small.hierarchy", "--data", "imdb", "--epochs", 1, "-o", "tuned.hierarchy")
    out, err = succeed("export", "tuned.hierarchy", "tuned.onnx", "--data", "imdb", "--json")
    assert "no tokenizer" not in err
    assert json.loads(out)["inputs"][0]["shape"] == ["batch", 8]
    words = text.load_tokenizer("tuned.tokenizer.json")
    assert words.get_vocab() == here.get_vocab()
    tokens = text.encode_texts(words, REVIEWS, length=8).long()
    answers = onnxruntime.InferenceSession("tuned.onnx").run(None, {"tokens": tokens.numpy()})[0]
    right = float((np.argmax(answers, 1) == np.arange(len(REVIEWS)) % 2).mean())
    out, err = succeed("evaluate", "tuned.hierarchy", "--data", "imdb", "--json")
    assert json.loads(out)["networks"][1]["metrics"]["top1"] == pytest.approx(right)


def test_words_of_the_data_take_the_place_of_a_missing_tokenizer_and_that_is_said(here, tmp_path):
    (tmp_path / "reader.tokenizer.json").unlink()
    _, err = succeed(
        "coarsen", "reader.safetensors", "--levels", 2, "--repair", "ridge", "--data", "imdb", "-o", "c.hierarchy"
    )
    assert "no tokenizer lies beside reader.safetensors, and the words are those that `netgraph train` learns" in err
    code, _, err = run_main("evaluate", "reader.safetensors", "--data", "rows.pt", "--tokenizer", "w.json")
    assert code == 1
    assert "--tokenizer w.json reads texts, and --data rows.pt has none" in err


def test_a_language_model_is_judged_by_perplexity_on_next_tokens(here):
    out, _ = succeed(
        "compress", "writer.safetensors", "--data", "imdb", "--target", "flops=0.8", "--json", "-o", "s.safetensors"
    )
    result = json.loads(out)
    tokens = text.encode_texts(here, REVIEWS, length=9).long()
    network = ng.load_model("writer.safetensors")
    logits, following = network(tokens[:, :-1]).detach(), tokens[:, 1:]
    expected = math.exp(functional.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=0))
    assert result["metric"] == "perplexity"
    assert result["stages"][0]["metric"] == pytest.approx(expected, rel=1e-4)
    out, _ = succeed("evaluate", "writer.safetensors", "s.safetensors", "--data", "imdb", "--json")
    judged = json.loads(out)["networks"]
    assert judged[0]["metrics"]["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert judged[1]["metrics"]["perplexity"] == pytest.approx(result["stages"][-1]["metric"], rel=1e-4)
    out, _ = succeed("compress", "writer.safetensors", "--data", "imdb", "--target", "accuracy=-5", "--json")
    assert json.loads(out)["metric"] == "top1"


def test_large_outputs_are_compared_in_small_batches_without_keeping_them(monkeypatch):
    torch.manual_seed(0)
    model, tokens = Decoder(50, width=16, n_hidden=32, depth=1, length=8).eval(), torch.randint(1, 50, (40, 8))
    options = {"ratio": 0.5, "repair": "ridge", "data": tokens}
    expected = ng.build_hierarchy(model, tokens[:2], **options).levels[1]
    rows = []
    handle = model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    monkeypatch.setattr(functional_error, "ROOM", 3 * 8 * 50)
    monkeypatch.setattr(functional_error, "KEPT", 0)
    level = ng.build_hierarchy(model, tokens[:2], **options).levels[1]
    handle.remove()
    assert len(tokens) not in rows
    assert rows.count(3) >= 13, "all rows, three by three, to compute the outputs again for the error"
    assert level.reasons["error"] == pytest.approx(expected.reasons["error"], rel=1e-5)
    with torch.no_grad():
        difference = (level.model(tokens) - model(tokens)).norm() / model(tokens).norm()
    assert level.reasons["error"] == pytest.approx(float(difference), rel=1e-4)


def test_a_walk_ends_at_its_last_pause():
    model, tokens = Decoder(50, width=16, n_hidden=32, depth=1, length=8).eval(), torch.ones(2, 8, dtype=torch.int64)
    recorded = ng.coarse_network(model, ng.trace(model, tokens), {})
    called = []
    for name in ("blocks.0.up", "blocks.0.down"):
        recorded.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    for stop in recorded.walk([tokens], {torch.ops.aten.linear.default}):
        if stop.arguments[0][1] is recorded.get_submodule("blocks.0.down").weight:
            assert called == ["blocks.0.up"]
    assert called == ["blocks.0.up", "blocks.0.down"], "only the head, the last pause, is not run"


def write_gpt2(folder, book):
    """Write a small GPT-2 with random weights, its tokenizer, and a text."""
    prepare_torchvision()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = text.train_tokenizer([book], kind="bpe", vocabulary=300)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=4, n_head=4, n_positions=32, vocab_size=300, bos_token_id=1, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    return transformers, words


def measure_perplexity(model, tokens):
    """Return the perplexity on the last quarter of the windows of 16 tokens, one by one."""
    n = (len(tokens) - 1) // 16
    losses = [
        functional.cross_entropy(
            model(tokens[None, start : start + 16]).logits[0], tokens[start + 1 : start + 17]
        ).item()
        for start in range(16 * (n - n // 4), 16 * n, 16)
    ]
    return math.exp(np.mean(losses))


def test_a_causal_language_model_of_transformers_is_compressed_on_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt").mkdir()
    book = "".join(f"line {i} of a text, with words and words.\n" for i in range(300))
    (tmp_path / "book.txt").write_text(book)
    transformers, words = write_gpt2(tmp_path / "gpt", book)
    data = ("--data", "book.txt", "--input", "input_ids=2x16:int64")
    out, err = succeed("compress", "hf:gpt", *data, "--samples", 32, "--target", "flops=0.8", "-o", "small", "--json")
    assert "windows of 16 tokens calibrate" in err
    result = json.loads(out)
    assert (result["metric"], result["class"]) == ("perplexity", "GPT2LMHeadModel")
    tokens = torch.tensor(words.encode(book, add_special_tokens=False).ids)
    n = (len(tokens) - 1) // 16
    for folder, stage in (("gpt", 0), ("small", -1)):
        model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
        assert result["stages"][stage]["metric"] == pytest.approx(measure_perplexity(model, tokens), rel=1e-3)
    out, _ = succeed(
        "compress",
        "gpt",
        *data,
        "--samples",
        32,
        "--target",
        "flops=0.8",
        "--coarsen",
        "depth",
        "-o",
        "short",
        "--json",
    )
    short, result = transformers.GPT2LMHeadModel.from_pretrained("short").eval(), json.loads(out)
    (chain,) = result["blocks"].values()
    assert short.config.n_layer == len(chain) < 4
    assert result["stages"][-1]["metric"] == pytest.approx(measure_perplexity(short, tokens), rel=1e-3)
    out, err = succeed("evaluate", "hf:gpt", "short", "--data", "book.txt", "--json")
    assert "guessed --input input_ids=2x16:int64\n" in err, "windows have no padding, and need no mask"
    assert f"{n // 4} of the last {n // 4} windows of 16 tokens give the metric" in err
    judged = [network["metrics"]["perplexity"] for network in json.loads(out)["networks"]]
    assert judged == pytest.approx([result["stages"][0]["metric"], result["stages"][-1]["metric"]], rel=1e-3)
