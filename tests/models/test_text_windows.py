"""Text files as windows of tokens, and tokenizers of folders of transformers that run no code."""

import json

import pytest
import torch

from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import DataError
from netgraph.models import load_calibration, load_splits
from netgraph.models.data import text_windows
from netgraph.models.data import tokenizer as text
from netgraph.models.data.folder_tokenizer import open_folder_tokenizer
from netgraph.models.data.text_windows import read_windows

TEXT = "".join(f"line {i} of a text, with words and words.\n" for i in range(200))
EXAMPLE = torch.zeros(2, 8, dtype=torch.int64)


@pytest.fixture
def words():
    return text.train_tokenizer([TEXT], kind="bpe", vocabulary=300)


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


def test_windows_follow_one_another_and_hold_the_whole_text(words, book, monkeypatch):
    tokens = words.encode(TEXT, add_special_tokens=False).ids
    windows = read_windows(book, words, 8)
    assert windows.shape == ((len(tokens) - 1) // 8, 9)
    for i in (0, 5, len(windows) - 1):
        assert windows[i].tolist() == tokens[8 * i : 8 * i + 9]
    words.enable_truncation(3)  # a setting of the tokenizer, which stays
    assert torch.equal(read_windows(f"text:{book}", words, 8), windows)
    assert words.truncation["max_length"] == 3
    monkeypatch.setattr(text_windows, "PIECE", 100)
    pieces = read_windows(book, words, 8)
    assert (
        words.decode(pieces[:, :-1].flatten().tolist()).split()
        == words.decode(windows[:, :-1].flatten().tolist()).split()
    )


def test_parts_of_a_text_share_no_passage_and_targets_are_the_next_tokens(words, book):
    tokens = words.encode(TEXT, add_special_tokens=False).ids
    splits = load_splits(book, example=EXAMPLE, n=10**6, tokenizer=words, next_tokens=True)
    n = (len(tokens) - 1) // 8
    sizes = [len(part.inputs) for part in splits[:3]]
    assert sizes == [n - 2 * (n // 4), n // 4, n // 4]
    joined = torch.cat([part.inputs for part in splits[:3]]).flatten().tolist()
    assert joined == tokens[: 8 * n]
    assert torch.cat([part.targets for part in splits[:3]]).flatten().tolist() == tokens[1 : 8 * n + 1]
    assert splits.next_tokens
    assert splits.origin[2] == f"{n // 4} of the last {n // 4} windows of 8 tokens"
    few = load_splits(book, example=EXAMPLE, n=5, n_test=3, tokenizer=words)
    assert (len(few.calibration.inputs), len(few.test.inputs), few.test.targets) == (5, 3, None)


def test_a_mask_of_windows_hides_nothing(words, book):
    example = {"input_ids": EXAMPLE, "attention_mask": EXAMPLE}
    rows = load_calibration(book, example=example, n=6, tokenizer=words)
    assert rows.inputs["input_ids"].shape == (6, 8)
    assert rows.inputs["attention_mask"].tolist() == [[1] * 8] * 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"short", "and a window takes 9. Give a longer text"),
        (b"", "has 0 tokens, and a window takes 9"),
        (None, "is not here. Give a text file"),
    ],
)
def test_files_that_are_no_text_are_refused(words, tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "bad.txt", example=EXAMPLE, tokenizer=words)


def test_what_does_not_fit_a_text_is_refused(words, book):
    with pytest.raises(DataError, match="is read by the tokenizer of the network, and there is none"):
        load_splits(book, example=EXAMPLE)
    with pytest.raises(
        DataError, match=r"is text, as whole numbers \(rows, tokens\), and the network takes torch.float32"
    ):
        load_splits(book, example=torch.zeros(2, 8), tokenizer=words)


def write_old_files(folder, **settings):
    """Write a tokenizer of GPT-2 as older versions of transformers did, without tokenizer.json."""
    alphabet = {chr(i): i - 33 for i in range(33, 127)} | {"Ġ": 94, "<|endoftext|>": 95}
    (folder / "vocab.json").write_text(json.dumps({**alphabet, "he": 96, "hel": 97}))
    (folder / "merges.txt").write_text("#version: 0.2\nh e\nhe l\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **settings}))


def test_a_tokenizer_of_older_files_is_opened_by_transformers(tmp_path):
    prepare_torchvision()
    pytest.importorskip("transformers")
    write_old_files(tmp_path)
    opened = open_folder_tokenizer(tmp_path)
    assert opened.encode("hello", add_special_tokens=False).ids == [97, ord("l") - 33, ord("o") - 33]
    assert text.padding_id(opened) == 95


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_a_tokenizer_that_is_code_of_its_own_is_refused_and_not_run(tmp_path, name):
    write_old_files(tmp_path)
    code = {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    settings = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**settings, **code}))
    (tmp_path / "mine.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(DataError, match="names code of its own"):
        open_folder_tokenizer(tmp_path)


def test_forged_numbers_of_tokens_are_refused_before_memory_is_taken(tmp_path):
    write_old_files(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 4000000000}')
    with pytest.raises(DataError, match="a token has a number above"):
        open_folder_tokenizer(tmp_path)
