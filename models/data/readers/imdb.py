"""The Large Movie Review Dataset (IMDB): 25,000 reviews a split, half of them positive.

It is read from ``train.csv.xz`` and ``test.csv.xz`` (columns id, label, rating, text), or from the published folder
``aclImdb``. Single reviews have no published digest. Both forms are checked by the digest of a whole split, written as csv.
The published archive can be fetched. It is unpacked only if its size and digest are the published ones.

Maas et al., "Learning word vectors for sentiment analysis", ACL-HLT 2011.
"""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from netgraph.errors import DataError
from netgraph.models.data.readers.checksum import read_checked_bytes
from netgraph.utils.text import is_index

COLUMNS = ("id", "label", "rating", "text")
FILES = {
    "train": "ea87818adeedb2bfdf381e1c734e0fa14803e9ff85d3e4611327f7232b9a069c",
    "test": "aca6ce62c8fefff4a7bcba78a956114f0a84a4cd4a2776a1427b99a753179144",
}
CONTENTS = {
    "train": "2ab83a7792c8c9787ba2c7797d12a58110f547ebe806344be0c0573803b3aef5",
    "test": "6d7a3f968abfd888ef6de41909638c482f2e305ecb17f8996a846068d8b31e31",
}
LONGEST = 2**20  # bytes of a review. The longest has 14,106.
Reviews = tuple[list[str], list[int]]
Row = tuple[int, int, int, str]  # label, id, rating, text. Rows of the csv are sorted in this order.


def read_csv(folder: Path, split: str) -> Reviews:
    """Return texts and labels of a split from its ``.csv.xz``. The label 1 is positive.

    Raises
    ------
    DataError
        The file is missing, or is not the known one.
    """
    path = folder / f"{split}.csv.xz"
    text = lzma.decompress(read_checked_bytes(path, FILES[split], algorithm="sha256"))
    _check_contents(text, split, path)
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    return [row["text"] for row in rows], [int(row["label"]) for row in rows]


def read_folder(folder: Path, split: str) -> Reviews:
    """Return texts and labels of a split from ``aclImdb/SPLIT/pos`` and ``neg``, in the order of the csv.

    Raises
    ------
    DataError
        A review is missing, damaged or added.
    """
    rows = [row for label, kind in enumerate(("neg", "pos")) for row in _read_rows(folder / split / kind, label)]
    rows.sort()
    _check_contents(encode_csv(rows), split, folder / split)
    return [row[3] for row in rows], [row[0] for row in rows]


def _read_rows(folder: Path, label: int) -> list[Row]:
    """Return the reviews of one folder."""
    rows = []
    for path in folder.glob("*.txt"):
        number, _, rating = path.stem.partition("_")
        if not (is_index(number) and is_index(rating)) or path.stat().st_size > LONGEST:
            raise DataError(f"{path} is not a review of this data set (ID_RATING.txt). Fetch aclImdb again.")
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is damaged: it is not UTF-8 text ({error.reason}). Fetch aclImdb again."
            ) from error
        rows.append((label, int(number), int(rating), text))
    return rows


def encode_csv(rows: list[Row]) -> bytes:
    """Return reviews as the csv file that has the known digest."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((number, label, rating, text) for label, number, rating, text in rows)
    return out.getvalue().encode()


def _check_contents(text: bytes, split: str, path: Path) -> None:
    """Raise an error if the reviews of a split have another digest."""
    digest = hashlib.sha256(text).hexdigest()
    if digest != CONTENTS[split]:
        raise DataError(
            f"{path} is damaged: the SHA-256 of its reviews, {len(text):,} bytes as csv, is {digest}, not {CONTENTS[split]}. "
            "Fetch it again."
        )


URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SIZE = 84_125_825  # bytes
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
CHUNK, WAIT = 2**20, 60  # bytes at a time, seconds without any
KINDS = ("train/neg", "train/pos", "test/neg", "test/pos")  # reviews with a rating; the archive has more


def fetch_imdb(root: Path) -> None:
    """Download the archive and unpack its rated reviews to ``root/aclImdb``. A failed attempt leaves nothing behind.

    Parameters
    ----------
    root : path
        Folder of data sets, created if needed.

    Raises
    ------
    DataError
        The archive cannot be fetched or unpacked, or is not the published one.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".aclImdb") as aside:
            archive = Path(aside) / "aclImdb_v1.tar.gz"
            _check_archive(archive, _download_archive(archive))
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(aside, filter=_select_member)
            shutil.move(Path(aside) / "aclImdb", root)
    except (OSError, EOFError, tarfile.TarError, shutil.Error) as error:  # of the network, of the disk, of the archive
        raise DataError(
            f"imdb cannot be fetched from {URL} to {root} ({type(error).__name__}: {error}). Try again, or unpack "
            f"{URL.rpartition('/')[2]} there."
        ) from error


def _download_archive(archive: Path) -> str:
    """Write the archive and return its digest. Downloads stop soon after the published size."""
    digest, seen = hashlib.sha256(), 0
    with urllib.request.urlopen(URL, timeout=WAIT) as answer, archive.open("wb") as file:
        while seen <= SIZE and (chunk := answer.read(CHUNK)):
            digest.update(chunk)
            seen += file.write(chunk)
    return digest.hexdigest()


def _check_archive(archive: Path, digest: str) -> None:
    """Raise an error if the archive has another size or digest than published."""
    size = archive.stat().st_size
    if (size, digest) != (SIZE, SHA256):
        more = " or more" * (size > SIZE)
        raise DataError(
            f"{URL} is not the published file: of {size:,} bytes{more} and SHA-256 {digest}, not {SIZE:,} and {SHA256}. "
            "Try again later."
        )


def _select_member(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Return rated reviews only. Links, and paths outside of the folder, are refused."""
    folder, name = os.path.split(member.name)
    wanted = member.isreg() and name.endswith(".txt") and folder in {f"aclImdb/{kind}" for kind in KINDS}
    return tarfile.data_filter(member, path) if wanted else None
