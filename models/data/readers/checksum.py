"""Read a file with a published digest, and check the digest before anything is parsed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from netgraph.errors import DataError

LIMIT = 2**28  # bytes. No file of these data sets is larger.


def read_checked_bytes(path: Path, digest: str, *, algorithm: str = "md5") -> bytes:
    """Return the contents of a file with a known digest.

    Parameters
    ----------
    path : path
    digest : str
        Published digest, hexadecimal.
    algorithm : {"md5", "sha256"}, default="md5"

    Returns
    -------
    bytes

    Raises
    ------
    DataError
        The file is missing or too large, or has another digest.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist, but other files of the data set do. Fetch the data set again.")
    size = path.stat().st_size
    if size > LIMIT:
        raise DataError(f"{path} has {size:,} bytes, more than any file of this data set. Fetch it again.")
    data = path.read_bytes()
    actual = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if actual != digest:
        raise DataError(
            f"{path} is not the published file: the {algorithm.upper()} of its {len(data):,} bytes is {actual}, not {digest}. "
            "Delete it and fetch it again."
        )
    return data
