"""IMDB from its authors: the archive is opened once its size and digest are the published ones, and unpacked into its folder alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from netgraph.errors import DataError

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SIZE = 84_125_825  # bytes
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
CHUNK, WAIT = 2**20, 60  # bytes at a time, seconds without any
KINDS = ("train/neg", "train/pos", "test/neg", "test/pos")  # reviews with a rating; the archive has more


def fetch_imdb(root: Path) -> None:
    """Fetch the archive and unpack its rated reviews as ``root/aclImdb``; a try that fails leaves nothing.

    Raises
    ------
    DataError
        It cannot be fetched or unpacked, or is not the published one.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".aclImdb") as aside:
            archive = Path(aside) / "aclImdb_v1.tar.gz"
            _check(archive, _fetched(archive))
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(aside, filter=_rated)
            shutil.move(Path(aside) / "aclImdb", root)
    except (OSError, EOFError, tarfile.TarError, shutil.Error) as error:  # of the network, of the disk, of the archive
        raise DataError(
            f"imdb cannot be fetched from {URL} to {root} ({type(error).__name__}: {error}); try again, or unpack "
            f"{URL.rpartition('/')[2]} there"
        ) from error


def _fetched(archive: Path) -> str:
    """Write the archive, no more of it than there is, and return its digest."""
    digest, seen = hashlib.sha256(), 0
    with urllib.request.urlopen(URL, timeout=WAIT) as answer, archive.open("wb") as file:
        while seen <= SIZE and (chunk := answer.read(CHUNK)):
            digest.update(chunk)
            seen += file.write(chunk)
    return digest.hexdigest()


def _check(archive: Path, digest: str) -> None:
    size = archive.stat().st_size
    if (size, digest) != (SIZE, SHA256):
        more = " or more" * (size > SIZE)
        raise DataError(
            f"{URL} is not the published file: of {size:,} bytes{more} and SHA-256 {digest}, not {SIZE:,} and {SHA256}; "
            "try again later"
        )


def _rated(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Leave out what is no rated review, and refuse links and what would leave the folder."""
    folder, name = os.path.split(member.name)
    wanted = member.isreg() and name.endswith(".txt") and folder in {f"aclImdb/{kind}" for kind in KINDS}
    return tarfile.data_filter(member, path) if wanted else None
