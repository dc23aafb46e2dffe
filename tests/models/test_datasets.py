"""Data sets are read as their authors' readers read them. A file that differs from the published one is never opened."""

import collections
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datafolders import md5, pack_pixels, pickle_as_python2, write_cifar, write_idx, write_imdb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits
from torchvision.transforms import v2

from netgraph.errors import DataError, NetgraphError
from netgraph.models.data import tokenizer as text
from netgraph.models.data.augmentation import random_crop, random_flip, random_rotation, rotate_by
from netgraph.models.data.batching import batch_rows, trim_padding
from netgraph.models.data.datasets import NAMES, Dataset, DataSplit, load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.data.readers import cifar, idx, imdb
from netgraph.utils.choices import TOKENIZERS

LAYOUTS = {
    "mnist": (write_idx, {}, "MNIST/raw/t10k-labels-idx1-ubyte"),
    "fashion-mnist": (write_idx, {"zipped": True}, "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
    "cifar10": (write_cifar, {}, "cifar-10-batches-py/data_batch_3"),
    "cifar10 packed": (write_cifar, {"zipped": True}, "cifar10/test_batch.npz"),
    "imdb": (write_imdb, {}, "imdb/test.csv.xz"),
    "imdb unpacked": (write_imdb, {"unpacked": True}, "aclImdb/train/pos/15_9.txt"),
}


def count_rows(data):
    """Return every training and validation row with its target, in no order."""
    splits = [data.train, data.valid]
    return collections.Counter(
        (x.numpy().tobytes(), int(y)) for split in splits for x, y in zip(split.inputs, split.targets, strict=True)
    )


@pytest.fixture
def _small_validation(monkeypatch):
    monkeypatch.setattr(
        "netgraph.models.data.datasets._split_rows", lambda n, _: (torch.arange(n - 3) + 3, torch.arange(3))
    )


def test_digits_are_those_of_scikit_learn_each_once():
    data, own = load_dataset("digits"), load_digits()
    parts = [data.train, data.valid, data.test]
    assert [len(part) for part in parts] == [1213, 135, 449]
    images = torch.cat([part.inputs for part in parts])
    assert images.dtype == torch.float32
    found = collections.Counter((x * 16).numpy().astype(int).tobytes() for x in images.flatten(1))
    assert found == collections.Counter(x.astype(int).tobytes() for x in own.data)
    counts = torch.bincount(torch.cat([part.targets for part in parts])).tolist()
    assert counts == np.bincount(own.target).tolist()


@pytest.mark.usefixtures("_small_validation")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_data_set_is_read_from_every_layout(layout, tmp_path, monkeypatch):
    write, options, _ = LAYOUTS[layout]
    written = write(tmp_path, monkeypatch, **options)
    data = load_dataset(layout.split()[0], root=tmp_path)
    if "mnist" in layout:
        images, labels, test, test_labels = written
        x, y = data.test.inputs, data.test.targets
        np.testing.assert_array_equal((x * 255).round().numpy()[:, 0], test)
        np.testing.assert_array_equal(data.train.targets, labels[3:])
        np.testing.assert_array_equal(y, test_labels)
        np.testing.assert_allclose(data.valid.inputs[:, 0], images[:3] / 255, rtol=1e-6)
    elif "cifar" in layout:
        images, labels = written
        found = torch.cat([data.valid.inputs, data.train.inputs, data.test.inputs])
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(data.test.targets, labels[60:])
    else:
        texts, labels = written
        np.testing.assert_array_equal(data.train.targets, labels[3:])
        for ids, original in zip(data.test.inputs, texts, strict=True):
            assert (ids != text.PAD).sum() == 1 + len(split_words(original))


def split_words(original):
    import re

    return re.findall(r"\w+|[^\w\s]+", original.replace("<br />", " "))


@pytest.mark.usefixtures("_small_validation")
def test_a_tokenizer_asked_for_by_name_is_trained_on_the_training_split(tmp_path, monkeypatch):
    texts, _ = write_imdb(tmp_path, monkeypatch)
    for kind in TOKENIZERS:
        wanted = text.train_tokenizer(texts[3:], kind=kind)
        assert load_dataset("imdb", root=tmp_path, tokenizer=kind).tokenizer.to_str() == wanted.to_str()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", ["one bit", "cut short", "empty", "longer"])
def test_a_file_that_differs_from_the_published_one_is_refused_by_name(layout, damage, tmp_path, monkeypatch):
    write, options, name = LAYOUTS[layout]
    write(tmp_path, monkeypatch, **options)
    path = tmp_path / name
    data = path.read_bytes()
    middle = len(data) // 2
    bit = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    path.write_bytes({"one bit": bit, "cut short": data[:-1], "empty": b"", "longer": data + b"0"}[damage])
    with pytest.raises(DataError, match=r"[Ff]etch it again|Fetch aclImdb") as caught:
        load_dataset(layout.split()[0], root=tmp_path)
    assert str(path if layout != "imdb unpacked" else path.parents[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_file_is_named(layout, tmp_path, monkeypatch):
    write, options, name = LAYOUTS[layout]
    write(tmp_path, monkeypatch, **options)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=Path(name).parts[1]):
        load_dataset(layout.split()[0], root=tmp_path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_crafted_batch_never_runs_even_if_its_digest_were_the_published_one(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    path, witness = tmp_path / "cifar-10-batches-py" / "data_batch_1", tmp_path / "ran"
    crafted = pickle.dumps({"data": Bomb(witness), "labels": []}, protocol=2)
    path.write_bytes(crafted)
    with pytest.raises(DataError, match="is not the published file"):
        load_dataset("cifar10", root=tmp_path)
    monkeypatch.setitem(cifar.PICKLED, "data_batch_1", md5(crafted))
    with pytest.raises(DataError, match="which is not an array"):
        load_dataset("cifar10", root=tmp_path)
    assert not witness.exists()
    pickle.loads(crafted)  # it is a bomb
    assert witness.exists()


def test_an_official_batch_is_what_torchvision_reads(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    write_cifar(tmp_path, monkeypatch)
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "batches.meta").write_bytes(pickle_as_python2({"label_names": list(cifar.CLASSES)}))
    table = list(cifar.PICKLED.items())
    monkeypatch.setattr(CIFAR10, "train_list", table[:-1])
    monkeypatch.setattr(CIFAR10, "test_list", table[-1:])
    meta = {**CIFAR10.meta, "md5": md5((folder / "batches.meta").read_bytes())}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    theirs = CIFAR10(str(tmp_path))
    ours, targets, *_ = cifar.read_batches(folder)
    np.testing.assert_array_equal(ours.permute(0, 2, 3, 1), theirs.data)
    assert targets.tolist() == theirs.targets


@given(hnp.arrays(np.uint8, (2, 3, 32, 32)))
def test_packed_pixels_unpack_to_themselves(images):
    import io

    file = io.BytesIO()
    np.savez(file, residual=pack_pixels(images), labels=np.zeros(2, np.uint8))
    np.testing.assert_array_equal(cifar.unpack_batch(file.getvalue(), Path("batch"))[0], images)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_missing_data_set_is_reported_with_its_folder_and_the_way_to_fetch_it(name, tmp_path, monkeypatch):
    monkeypatch.delenv("NETGRAPH_DATA", raising=False)
    with pytest.raises(DataError, match="set NETGRAPH_DATA"):
        load_dataset(name)
    monkeypatch.setenv("NETGRAPH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"download=True|aclImdb_v1.tar.gz") as caught:
        load_dataset(name)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match=r"no data set is called 'svhn'\. Choose one of digits, mnist"):
        load_dataset("svhn")


def test_a_failed_download_is_reported_with_its_reason(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def fails(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(CIFAR10, "__init__", fails)
    with pytest.raises(DataError, match=r"cifar10 cannot be fetched to .* \(OSError: no network\)"):
        load_dataset("cifar10", root=tmp_path, download=True)


def test_plain_fashion_files_without_a_published_digest_are_refused(tmp_path, monkeypatch):
    write_idx(tmp_path, monkeypatch, zipped=True)
    name = next(iter(idx.FASHION))
    path = tmp_path / "FashionMNIST" / "raw" / name
    path.with_name(name + ".gz").rename(path)
    with pytest.raises(DataError, match="has no published digest"):
        load_dataset("fashion-mnist", root=tmp_path)


def test_standardised_images_have_mean_zero_and_deviation_one():
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    mean, std = tuple((x / 255).mean((0, 2, 3)).tolist()), tuple((x / 255).std((0, 2, 3)).tolist())
    split = DataSplit(x, torch.zeros(5).long())
    data = Dataset("x", ("a",), split, split, split, mean, std)
    ready = data.ready(x)
    torch.testing.assert_close(ready.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(ready.std((0, 2, 3)), torch.ones(3))
    torch.testing.assert_close(data.flat().ready(x.flatten(1)), ready.flatten(1))


def test_crops_move_each_image_and_flips_mirror_it():
    x = torch.arange(6 * 2 * 9 * 7).reshape(6, 2, 9, 7) + 1
    generator = torch.Generator().manual_seed(0)
    moved, turned = random_crop(x, generator, pad=2), random_flip(x, generator)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    windows = padded.unfold(2, 9, 1).unfold(3, 7, 1)  # n, c, top, left, height, width
    for image, choices in zip(moved, windows, strict=True):
        assert any(torch.equal(image, choices[:, i, j]) for i in range(5) for j in range(5))
    assert len({tuple(m.flatten()[:9].tolist()) for m in moved - x}) > 1
    assert {bool(torch.equal(a, b)) for a, b in zip(turned, x, strict=True)} == {True, False}
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(turned, x, strict=True))


@pytest.mark.parametrize("shape", [(8, 8), (9, 6)])
@pytest.mark.parametrize("kept", [torch.float32, torch.uint8])
def test_rotations_of_a_batch_are_those_of_torchvision_image_by_image(kept, shape):
    x = torch.randint(0, 256, (5, 3, *shape)).to(kept)
    angles = torch.tensor([0.0, 7.0, -10.0, 45.0, 90.0])
    turned = rotate_by(x, angles)
    assert turned.dtype == kept
    for image, angle, found in zip(x, angles, turned, strict=True):
        wanted = v2.functional.rotate(image, float(angle), v2.InterpolationMode.BILINEAR)
        assert (found.float() - wanted.float()).abs().max() <= (
            1 if kept == torch.uint8 else 1e-2
        )  # a half may round either way


def test_angles_are_spread_up_to_the_largest_and_drawn_from_the_given_generator():
    x = torch.zeros(400, 1, 32, 32)
    x[:, :, :16] = 1.0  # the upper half is white: the edge in the outermost columns tells the angle
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    heights = random_rotation(x, generator)[:, 0, 8:24, 4].sum(1)  # of white in the fifth column: 8 - 11.5 tan(angle)
    angles = torch.rad2deg(torch.atan((heights - 8) / 11.5))
    assert torch.equal(torch.get_rng_state(), state)
    assert 9.5 < angles.abs().max() <= 10.5
    assert angles.mean().abs() < 1
    assert (angles.std() - 20 / 12**0.5).abs() < 0.5  # of a uniform distribution


def test_transforms_of_torchvision_are_drawn_for_each_image_and_again_with_each_pass():
    transform = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomCrop(8, padding=2), v2.ToDtype(torch.float32, scale=True)]
    )
    image = torch.randint(1, 256, (3, 8, 8), dtype=torch.uint8)
    split = DataSplit(image.expand(64, 3, 8, 8), torch.zeros(64).long())
    loader = Loader(Dataset("one", ("a",), split, split, split), 32, augment=transform)
    state = torch.get_rng_state()
    batches = [x for x, _ in loader]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, (b, _) in zip(batches, loader, strict=True))
    assert not torch.equal(*batches)
    windows = torch.nn.functional.pad(image, (2, 2, 2, 2)).unfold(1, 8, 1).unfold(2, 8, 1)  # colours, 5, 5, 8, 8
    choices = torch.cat([part.permute(1, 2, 0, 3, 4).flatten(0, 1) for part in (windows, windows.flip(-1))])
    which = [
        int(i) for found in batches for x in found for i in (choices == (255 * x).round()).flatten(1).all(1).nonzero()
    ]
    assert len(which) == 64
    assert len(set(which)) > 30  # of 50; 36 are to be expected


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@given(lengths, st.integers(1, 9), st.integers(0, 99))
def test_batches_hold_every_text_once_and_cut_only_padding(sizes, batch, seed):
    tokens = torch.zeros(len(sizes), 40, dtype=torch.int32)
    for row, size in zip(tokens, sizes, strict=True):
        row[:size] = 7
    split = DataSplit(tokens, torch.arange(len(sizes)))
    data = Dataset("x", ("a",), split, split, split, padding=0)
    found = batch_rows(data, split, batch=batch, generator=torch.Generator().manual_seed(seed))
    assert sorted(torch.cat(found).tolist()) == list(range(len(sizes)))
    assert len(found) == len(batch_rows(data, split, batch=batch))
    for chosen in found:
        inputs, _ = trim_padding(data, tokens[chosen], chosen)
        assert len(chosen) <= batch
        assert (inputs != 0).sum() == sum(sizes[i] for i in chosen)
        assert inputs.shape[1] < max(2 * max(sizes[i] for i in chosen), 17)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_saved_tokenizer_encodes_alike_in_every_process(kind, tmp_path):
    texts = [f"word{i % 7} and word{i % 5}, again {i % 3}" for i in range(200)]
    text.save_tokenizer(text.train_tokenizer(texts, kind=kind, vocabulary=300), tmp_path / "a.json")
    code = (
        "import sys; from netgraph.models.data.tokenizer import *\n"
        "texts = [f'word{i % 7} and word{i % 5}, again {i % 3}' for i in range(200)]\n"
        f"save_tokenizer(train_tokenizer(texts, kind={kind!r}, vocabulary=300), sys.argv[1])"
    )
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "b.json"], check=True, env=env)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    tokenizer = text.load_tokenizer(tmp_path / "a.json")
    tokens = text.encode_texts(tokenizer, ["word1 and word1", ""], length=6)
    assert tokens[1].tolist() == [text.CLS, 0, 0, 0, 0, 0]
    assert text.attention_mask(tokens).sum(1).tolist()[1] == 1
    decoded = tokenizer.decode(tokens[0].tolist()).split()
    assert decoded == ["word1", "and", "word1"]


def test_a_length_whose_tokens_do_not_fit_into_memory_is_refused_before_it_is_taken():
    tokenizer = text.train_tokenizer(["a film"])
    with pytest.raises(
        NetgraphError, match=r"a length of 2,147,483,647 tokens for 1,000 texts asks for 8,589,934,588,000 bytes"
    ):
        text.encode_texts(tokenizer, ["a film"] * 1000, length=2**31 - 1)


def test_new_words_are_unknown_to_word_tokenizers_and_known_to_byte_pairs():
    texts = ["good film", "bad film"]
    word, bpe = (text.train_tokenizer(texts, kind=kind, vocabulary=400) for kind in ("word", "bpe"))
    assert text.encode_texts(word, ["film ☂"], length=4)[0].tolist() == [text.CLS, 3, text.UNKNOWN, 0]
    ids = text.encode_texts(bpe, ["film ☂"], length=20)
    assert text.UNKNOWN not in ids
    assert bpe.decode(ids[0].tolist()).strip() == "film ☂"


@pytest.mark.parametrize(
    "contents", ["", "{}", '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}']
)
def test_a_file_that_holds_no_tokenizer_of_netgraph_is_refused(contents, tmp_path):
    (tmp_path / "t.json").write_text(contents)
    with pytest.raises(DataError, match=r"t\.json"):
        text.load_tokenizer(tmp_path / "t.json")


@pytest.mark.data
def test_mnist_is_what_torchvision_reads():
    from torchvision.datasets import MNIST

    root = os.environ["NETGRAPH_DATA"]
    data = load_dataset("mnist")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [55_000, 5_000, 10_000]
    theirs = MNIST(root, train=True)
    images, labels, *_ = idx.read_idx(Path(root) / "MNIST" / "raw", idx.MNIST)
    assert torch.equal(images[:, 0], theirs.data)
    assert torch.equal(labels.long(), theirs.targets)
    wanted = collections.Counter((x.numpy().tobytes(), int(y)) for x, y in zip(images / 255, labels, strict=True))
    assert count_rows(data) == wanted
    theirs = MNIST(root, train=False)
    assert torch.equal((data.test.inputs * 255).round().to(torch.uint8)[:, 0], theirs.data)
    assert torch.equal(data.test.targets, theirs.targets)


@pytest.mark.data
def test_cifar_has_the_digests_of_its_decoded_pixels():
    arrays = cifar.read_batches(Path(os.environ["NETGRAPH_DATA"]) / "cifar10")
    assert [hashlib.sha256(array.numpy().tobytes()).hexdigest() for array in arrays] == [
        "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ]
    data = load_dataset("cifar10")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(data.train.targets).add(torch.bincount(data.valid.targets)).tolist() == [5000] * 10
    mean = arrays[0].double().div(255).mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor(data.mean, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.data
def test_reviews_are_complete():
    folder = Path(os.environ["NETGRAPH_DATA"]) / "imdb"
    texts, labels = imdb.read_csv(folder, "train")
    assert collections.Counter(labels) == {0: 12_500, 1: 12_500}
    assert (len(set(texts)), sum(len(t.encode()) for t in texts)) == (24_904, 33_132_823)
    texts, labels = imdb.read_csv(folder, "test")
    assert collections.Counter(labels) == {0: 12_500, 1: 12_500}
    assert (len(set(texts)), sum(len(t.encode()) for t in texts)) == (24_801, 32_350_685)


@pytest.mark.data
def test_the_published_folder_gives_the_reviews_of_the_csv(tmp_path):
    import csv
    import io
    import lzma

    folder = Path(os.environ["NETGRAPH_DATA"]) / "imdb"
    data = lzma.decompress((folder / "test.csv.xz").read_bytes()).decode()
    for kind in ("neg", "pos"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    for row in csv.DictReader(io.StringIO(data, newline="")):
        path = tmp_path / "test" / ("pos" if row["label"] == "1" else "neg") / f"{row['id']}_{row['rating']}.txt"
        path.write_bytes(row["text"].encode())
    assert imdb.read_folder(tmp_path, "test") == imdb.read_csv(folder, "test")
