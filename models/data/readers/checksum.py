"""A file's bytes, once their digest is the published one: nothing damaged or exchanged is ever opened."""

from __future__ import annotations

import hashlib
from pathlib import Path

from netgraph.errors import DataError

LIMIT = 2**28  # no file of these data sets is larger; a larger one is not read to find that out


def read_checked_bytes(path: Path, digest: str, *, algorithm: str = "md5") -> bytes:
    """Return a file's contents.

    Parameters
    ----------
    path : path
    digest : str
        Hexadecimal, as published.
    algorithm : str
        ``md5`` or ``sha256``.

    Raises
    ------
    DataError
        The file is missing, too large, or has another digest.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist and its neighbours do; fetch the whole data set again")
    size = path.stat().st_size
    if size > LIMIT:
        raise DataError(f"{path} has {size:,} bytes, more than any file of this data set; fetch it again")
    data = path.read_bytes()
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != digest:
        raise DataError(
            f"{path} is not the published file: the {algorithm.upper()} of its {len(data):,} bytes is {found}, not {digest}; "
            "delete it and fetch it again"
        )
    return data
