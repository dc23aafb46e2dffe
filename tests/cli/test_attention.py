"""``netgraph attention``, the view of heads on the page, and the pages in MLflow: they show the measured attention."""

import base64
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import TWO_FRAMES, chromium, logged, opened
from command_line import run
from PIL import Image

import netgraph as ng
from netgraph.cli.console.artifacts import make_page_writers
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.models.data import datasets
from netgraph.models.data import tokenizer as text
from netgraph.models.data.calibration import encode_like_example, load_calibration
from netgraph.models.data.datasets import Dataset, DataSplit
from netgraph.models.transformer import Encoder
from netgraph.viz.figures.attention_maps import collect_layer_attention
from netgraph.viz.page.attention_data import build_attention_data
from netgraph.viz.page.page import write_page

REVIEW = "a fine film , and <b>not</b> at all long"
SIZES = {"width": 32, "n_heads": 4, "n_hidden": 24, "length": 16, "depth": 2}


@pytest.fixture(scope="module")
def words():
    return text.train_tokenizer([REVIEW, "bad"])


@pytest.fixture(scope="module")
def hierarchy(words):
    torch.manual_seed(0)
    model = Encoder(words.get_vocab_size(), 2, **SIZES).eval()
    return ng.build_hierarchy(model, torch.randint(1, 9, (2, 16)), affinity="circuits", n_levels=3)


@pytest.fixture(scope="module")
def folder(hierarchy, words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    first = hierarchy.levels[0]
    ng.save(coarse_network(first.model, first.spec, {}), folder / "net.safetensors")
    text.save_tokenizer(words, folder / "net.tokenizer.json")
    return folder


def shown_by(page):
    """Return the attention that a page carries."""
    match = re.search(r'id="hierarchy">(.*?)</script>', page.read_text(), re.S)
    return json.loads(match.group(1))["attention"]


def test_the_command_draws_heads_and_words_and_finds_the_tokenizer_beside_the_network(folder, tmp_path):
    for name, more in (("heads.png", []), ("words.png", ["--layer", 1, "--head", 0])):
        code, _, err = run("attention", folder / "net.safetensors", tmp_path / name, "--text", REVIEW, *more)
        assert code == 0, err
        assert len(np.unique(np.asarray(Image.open(tmp_path / name).convert("L")))) > 10


def test_the_page_of_the_command_has_every_text_word_and_head(folder, tmp_path):
    out = tmp_path / "page.html"
    code, _, err = run("attention", folder / "net.safetensors", out, "--text", REVIEW, "--text", "bad", "--row", 0)
    assert code == 0, err
    first, second = shown_by(out)
    assert second["words"] == ["[CLS]", "bad"]
    assert first["words"][:4] == ["[CLS]", "a", "fine", "film"]
    assert [{level: len(maps) for level, maps in layer["maps"].items()} for layer in first["layers"]] == [
        {"0": 4, "1": 2, "2": 1}
    ] * 2


def test_numbers_of_the_page_are_the_shares_of_attention(hierarchy, words):
    inputs = encode_like_example([REVIEW], example=torch.zeros(2, 16, dtype=torch.int64), tokenizer=words)
    (shown,) = build_attention_data(hierarchy, [(["w"] * 9, inputs)])
    layer, wanted = shown["layers"][1], collect_layer_attention(hierarchy, inputs, [2])[1]
    values = np.frombuffer(base64.b64decode(layer["maps"][2][0][1]), np.uint8).reshape(9, 9).astype(float)
    shares = layer["even"] * 2 ** (layer["octaves"] * (2 * values / 255 - 1))
    np.testing.assert_allclose(shares, wanted.maps[2][0][:9, :9], rtol=0.01)
    assert layer["joined"][2] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["x.png"], "Give --text 'some words', or --data"),
        (["x.txt", "--text", "a"], "ends in .txt. Attention is drawn as"),
        (["x.html", "--text", "a", "--head", 0], "--head would have no effect: the page has all heads"),
        (["x.png", "--text", "a", "--row", 1], "--row would have no effect"),
        (["x.png", "--text", "a", "--row", 1, "--head", 0], "there is no text 1. There are 1"),
        (["x.png", "--text", "a", "--head", 7], "no head 7 of layer 0. Level 1 has 2 layers with 2, 2 heads"),
        (["x.png", "--text", "a", "--tokenizer", "none.json"], "none.json is no tokenizer"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_with_the_reason(folder, tmp_path, typed, message):
    code, _, err = run("attention", folder / "net.safetensors", tmp_path / typed[0], *typed[1:])
    assert (code, message in err) == (1, True), err


def test_a_text_without_a_tokenizer_is_refused_and_numbers_of_tokens_are_drawn(folder, tmp_path):
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes((folder / "net.safetensors").read_bytes())
    code, _, err = run("attention", plain, tmp_path / "x.png", "--text", "a")
    assert (code, "its folder has none" in err) == (1, True), err
    np.save(tmp_path / "tokens.npy", np.array([[2, 5, 4] + [0] * 13, [2, 6] + [0] * 14]))
    code, _, err = run("attention", plain, tmp_path / "x.html", "--data", tmp_path / "tokens.npy", "--row", 1)
    assert code == 0, err
    assert [one["words"] for one in shown_by(tmp_path / "x.html")] == [["2", "6"]]


def test_texts_become_tokens_and_a_mask_of_their_lengths(words):
    example = {"input_ids": torch.zeros(2, 5, dtype=torch.int64), "attention_mask": torch.zeros(2, 5)}
    encoded = encode_like_example(["a fine film", "bad a a a a a"], example=example, tokenizer=words)
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert text.decode_tokens(words, encoded["input_ids"][0].tolist()) == ["[CLS]", "a", "fine", "film", "[PAD]"]


def test_a_foreign_tokenizer_pads_with_its_own_padding_token(words, tmp_path, monkeypatch):
    theirs = json.loads(words.to_str())
    vocabulary = theirs["model"]["vocab"]
    vocabulary["<pad>"] = vocabulary.pop("[PAD]") + len(vocabulary) + 1
    (tmp_path / "tokenizer.json").write_text(json.dumps({**theirs, "added_tokens": theirs["added_tokens"][1:]}))
    opened = text.open_tokenizer(tmp_path / "tokenizer.json")
    assert text.padding_id(opened) == vocabulary["<pad>"]
    assert text.encode_texts(opened, ["bad"], length=3)[0].tolist() == [2, vocabulary["bad"], vocabulary["<pad>"]]


def read(words):
    """Return a data set of a few reviews, as `netgraph.models.data.datasets.load_dataset` gives it."""
    tokens = text.encode_texts(words, [REVIEW, "bad", "a fine film"] * 8, length=16)
    split = DataSplit(tokens, torch.arange(24) % 2)
    return Dataset("imdb", ("bad", "good"), split, split, split, padding=0, tokenizer=words)


def test_a_data_set_brings_its_words(folder, words, tmp_path, monkeypatch):
    monkeypatch.setattr("netgraph.models.data.calibration.load_dataset", lambda *a, **k: read(words))
    calibration = load_calibration("imdb", example=torch.zeros(2, 16, dtype=torch.int64), n=4)
    assert calibration.tokenizer is words
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes((folder / "net.safetensors").read_bytes())
    code, _, err = run("attention", plain, tmp_path / "x.html", "--data", "imdb", "--text", "fine", "--samples", 4)
    assert code == 0, err
    assert shown_by(tmp_path / "x.html")[0]["words"] == ["[CLS]", "fine"]


def test_training_leaves_the_tokenizer_beside_the_network(words, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: read(words))
    out = tmp_path / "net.safetensors"
    code, _, err = run("train", "transformer", "--plain", "--widths", 16, "--epochs", 1, "--batch", 8, "-o", out)
    assert code == 0, err
    kept = text.load_tokenizer(tmp_path / "net.tokenizer.json")
    assert kept.get_vocab() == words.get_vocab()


def test_mlflow_keeps_heads_words_and_a_page_that_has_both(hierarchy, words, tmp_path):
    task = SimpleNamespace(data=read(words), network=hierarchy.levels[0].model)
    for write in make_page_writers(task, hierarchy):
        write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"hierarchy.html", "heads.png", "words.png"}
    assert [one["words"][1] for one in shown_by(tmp_path / "hierarchy.html")] == ["a", "bad", "a", "a"]


@pytest.mark.browser
def test_the_page_goes_from_units_to_heads_and_hostile_words_do_nothing(hierarchy, words, tmp_path):
    inputs = encode_like_example([REVIEW, "bad"], example=torch.zeros(2, 16, dtype=torch.int64), tokenizer=words)
    hostile = ["<img src=x onerror=alert(1)>", "\"'></script>", "x" * 500, "\u202eabc", *["w"] * 5]
    data = build_attention_data(hierarchy, [(hostile, inputs[:1]), (["[CLS]", "bad"], inputs[1:])])
    write_page(hierarchy, tmp_path / "page.html", attention=data)
    with chromium() as driver:
        opened(driver, tmp_path / "page.html")
        find = lambda what: driver.find_elements("css selector", what)  # noqa: E731
        assert not find("#heads")[0].is_displayed()
        driver.find_element("id", "view").click()
        assert [find(name)[0].is_displayed() for name in ("#heads", "#stage", "#tables")] == [True, False, False]
        groups = hierarchy.levels[1].transfers["blocks.1.attention.query"].aggregates
        wanted = ", ".join(map(str, np.flatnonzero(groups == 1)))
        assert find(".group")[3].accessible_name == f"Layer 1, head 1 of level 1, was heads {wanted}"
        find(".group")[3].click()
        assert find("#heads-one h2")[0].text == "Layer 1, head 1 of level 1"
        assert find(".group")[3].get_attribute("aria-pressed") == "true"
        find(".asked button")[4].click()
        shares = [
            float(span.get_attribute("title").removeprefix("≤").split()[0])
            for span in find(".shaded")[-1].find_elements("css selector", "span")
        ]
        layer = collect_layer_attention(hierarchy, inputs[:1], [1])[1]
        np.testing.assert_allclose(shares, 100 * layer.maps[1][1][4, :9], atol=100 * layer.maps[0].max() / 100)
        script = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
        driver.execute_script(script, "heads-level", 2)
        assert len(find(".group")) == 2
        driver.execute_script(script, "heads-text", 1)
        assert [button.text for button in find(".asked button")] == ["[CLS]", "bad"]
        driver.find_element("id", "view").click()
        assert find("#stage")[0].is_displayed()
        driver.get("about:blank")
        driver.get(f"{(tmp_path / 'page.html').as_uri()}#attention")
        driver.execute_async_script(TWO_FRAMES)
        assert find("#heads")[0].is_displayed()
        assert not find("img")
        assert logged(driver) == ([], [])
