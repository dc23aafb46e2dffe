"""MNIST and Fashion-MNIST from idx files, in the folders that torchvision uses.

LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86(11), 1998. Xiao, Rasul and Vollgraf, arXiv:1708.07747, 2017.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import DataError
from netgraph.models.data.readers.checksum import read_checked_bytes


@dataclass(frozen=True)
class IdxFile:
    """Shape and published digests of one idx file.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    zipped : str
        Published MD5 of the ``.gz`` file.
    plain : str, optional
        MD5 of the unzipped file, if it is published.
    """

    shape: tuple[int, ...]
    zipped: str
    plain: str | None = None


MNIST = {
    "train-images-idx3-ubyte": IdxFile(
        (60_000, 28, 28), "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"
    ),
    "train-labels-idx1-ubyte": IdxFile(
        (60_000,), "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        (10_000, 28, 28), "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        (10_000,), "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"
    ),
}
FASHION = {
    "train-images-idx3-ubyte": IdxFile((60_000, 28, 28), "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train-labels-idx1-ubyte": IdxFile((60_000,), "25c81989df183df01b3e8a0aad5dffbe"),
    "t10k-images-idx3-ubyte": IdxFile((10_000, 28, 28), "bef4ecab320f06d8554ea6380940ec79"),
    "t10k-labels-idx1-ubyte": IdxFile((10_000,), "bb300cfdad3c16e7a12a480ee83cd310"),
}


def read_idx(folder: Path, files: dict[str, IdxFile]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels of both splits, training first.

    Parameters
    ----------
    folder : path
    files : dict of str to IdxFile
        `MNIST` or `FASHION`.

    Returns
    -------
    images : uint8 Tensor of shape (60000, 1, 28, 28)
    labels : uint8 Tensor of shape (60000,)
    test_images : uint8 Tensor of shape (10000, 1, 28, 28)
    test_labels : uint8 Tensor of shape (10000,)

    Raises
    ------
    DataError
        A file is missing, or is not the published one.
    """
    train, train_labels, test, test_labels = (_read_array(folder / name, file) for name, file in files.items())
    return train[:, None], train_labels, test[:, None], test_labels


def _read_array(path: Path, file: IdxFile) -> Tensor:
    """Return the array of a file."""
    data = _read_contents(path, file)
    start = 4 + 4 * len(file.shape)  # a magic number and the big-endian sizes come first
    sizes = tuple(np.frombuffer(data, ">i4", len(file.shape), 4)) if len(data) >= start else ()
    if sizes != file.shape or len(data) != start + int(np.prod(file.shape)):
        raise DataError(
            f"{path} holds {len(data):,} bytes that are not an idx array of shape {file.shape}. Fetch it again."
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(file.shape).copy())


def _read_contents(path: Path, file: IdxFile) -> bytes:
    """Return the unzipped contents: from the plain file if its digest is published, otherwise from the ``.gz`` file."""
    zipped = path.with_name(path.name + ".gz")
    if file.plain is not None and path.exists():
        return read_checked_bytes(path, file.plain)
    if not zipped.exists() and path.exists():
        raise DataError(f"{path} has no published digest. Also fetch {zipped.name}, which has one.")
    return gzip.decompress(read_checked_bytes(zipped, file.zipped))
