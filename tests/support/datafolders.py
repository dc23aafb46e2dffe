"""Small data sets in the layouts of the real ones, with the digests of the real ones replaced by their own."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
from dataclasses import replace
from typing import ClassVar

import numpy as np

from netgraph.models.data.readers import cifar, idx, imdb
from netgraph.models.data.readers.cifar import PACKED, PICKLED
from netgraph.models.data.readers.imdb import FILES

TEXTS = ["a fine film<br />indeed", "dull, dull", "I liked it", "I left, at once", 'it is a "film"', "no"] * 4


def md5(data):
    return hashlib.md5(data).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write_idx(root, monkeypatch, *, zipped=False, n=40):
    """Return images and labels, (n, 28, 28) and (n,) for each split, written as MNIST or Fashion-MNIST."""
    folder = root / ("FashionMNIST" if zipped else "MNIST") / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays, table = [], {}
    for name, file in (idx.FASHION if zipped else idx.MNIST).items():
        array = random.integers(0, 10 if len(file.shape) == 1 else 256, (n, *file.shape[1:]), np.uint8)
        data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
        if zipped:
            data = gzip.compress(data)
        (folder / (name + ".gz" * zipped)).write_bytes(data)
        table[name] = replace(file, shape=array.shape, **{"zipped" if zipped else "plain": md5(data)})
        arrays.append(array)
    monkeypatch.setattr(idx, "FASHION" if zipped else "MNIST", table)
    return arrays


def pack_pixels(images):
    """Return images (n, 3, 32, 32) in the packed layout, computed pixel by pixel from its description."""
    x = images.astype(int)
    x = np.stack([x[:, 0] - x[:, 1], x[:, 1], x[:, 2] - x[:, 1]], 1)
    left = np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]
    x = x - left
    above = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    return ((x - above) % 256).astype(np.uint8)


def write_cifar(root, monkeypatch, *, zipped=False, n=12):
    """Return images (6 n, 3, 32, 32) and labels, of five batches and the test batch."""
    folder = root / ("cifar10" if zipped else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6 * n, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, 6 * n)
    table = {}
    for i, name in enumerate(PACKED if zipped else PICKLED):
        part = slice(i * n, (i + 1) * n)
        file = io.BytesIO()
        if zipped:
            np.savez(file, residual=pack_pixels(images[part]), labels=labels[part].astype(np.uint8))
        else:
            batch = {"batch_label": name, "labels": labels[part].tolist(), "data": images[part].reshape(n, -1)}
            file.write(pickle_as_python2(batch))
        (folder / name).write_bytes(file.getvalue())
        table[name] = (sha256 if zipped else md5)(file.getvalue())
    monkeypatch.setattr(cifar, "PACKED" if zipped else "PICKLED", table)
    return images, labels


class _Python2Pickler(pickle._Pickler):
    """Write bytes and names as Python 2 wrote its strings, in which CIFAR-10 was published."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def pickle_as_python2(batch):
    """Return a batch pickled as the published ones are, with the names that numpy had then."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_imdb(root, monkeypatch, *, unpacked=False):
    """Return texts and labels, the same for both splits."""
    rows = [(int(2 * i >= len(TEXTS)), i, 9 if 2 * i >= len(TEXTS) else 2, text) for i, text in enumerate(TEXTS)]
    data = imdb.encode_csv(rows)
    monkeypatch.setattr(imdb, "CONTENTS", dict.fromkeys(FILES, sha256(data)))
    if unpacked:
        for split in FILES:
            for label, number, rating, text in rows:
                folder = root / "aclImdb" / split / ("pos" if label else "neg")
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number}_{rating}.txt").write_bytes(text.encode())
    else:
        import lzma

        (root / "imdb").mkdir(parents=True)
        for split in FILES:
            (root / "imdb" / f"{split}.csv.xz").write_bytes(lzma.compress(data))
        monkeypatch.setattr(imdb, "FILES", dict.fromkeys(FILES, sha256(lzma.compress(data))))
    return [row[3] for row in rows], [row[0] for row in rows]
