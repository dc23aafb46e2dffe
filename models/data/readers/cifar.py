"""CIFAR-10, from the official batches or from a packed form.

The official batches are pickles. Their published MD5 is checked on the bytes that are then unpickled, and the pickles may
name only numpy's array.

Krizhevsky, "Learning multiple layers of features from tiny images", technical report, University of Toronto, 2009.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netgraph.errors import DataError
from netgraph.models.data.readers.checksum import read_checked_bytes

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICKLED = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
PACKED = {
    "data_batch_1.npz": "1bde580e5a7a593642179de17af44f354629e709124417e9f6cc0c7aa3512daf",
    "data_batch_2.npz": "c0521b584d26cd52463aeef520cfd3f25dc1c811b09cf2bed53e760f7f156241",
    "data_batch_3.npz": "764dbb89d8b2e90088e920b040d895e6157608016178de8f515dd9cc5c3109c1",
    "data_batch_4.npz": "fc9b073e298ae2f1d50ab3b38978a885d8ad7b53be555c774a683aa09cb2422f",
    "data_batch_5.npz": "aaf829df5e2af10b42237c089a17ef0a495288538207ae5ffcbae37d1af942b9",
    "test_batch.npz": "05c8174fe900f6c55b9dbb55b38b6fc5a34e6e04f5162db2bd7d0ddaaa861dbf",
}
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # the function that pickled arrays name
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read_batches(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels of both splits, training first, in official order.

    Parameters
    ----------
    folder : path
        Folder with ``data_batch_1`` (or ``data_batch_1.npz``) and the other batches.

    Returns
    -------
    images : uint8 Tensor of shape (50000, 3, 32, 32)
    labels : uint8 Tensor of shape (50000,)
    test_images : uint8 Tensor of shape (10000, 3, 32, 32)
    test_labels : uint8 Tensor of shape (10000,)

    Raises
    ------
    DataError
        A file is missing, or is not the published one.
    """
    if (folder / "data_batch_1.npz").exists():
        batches = [
            unpack_batch(read_checked_bytes(folder / n, d, algorithm="sha256"), folder / n) for n, d in PACKED.items()
        ]
    else:
        batches = [unpickle_batch(read_checked_bytes(folder / n, d), folder / n) for n, d in PICKLED.items()]
    images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*batches[:-1], strict=True))
    test, test_labels = (torch.from_numpy(array) for array in batches[-1])
    return images, labels, test, test_labels


def unpack_batch(data: bytes, path: Path) -> Batch:
    """Return images and labels of a packed batch.

    The array ``residual`` holds red and blue minus green, then differences to the left and to the upper pixel, modulo 256.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        residual, labels = arrays["residual"], arrays["labels"]
    images = residual.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
    images[:, 0] += images[:, 1]
    images[:, 2] += images[:, 1]
    return _check_batch(images, labels, path)


def unpickle_batch(data: bytes, path: Path) -> Batch:
    """Return images and labels of an official batch."""
    batch = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32)
    return _check_batch(images.copy(), np.asarray(batch["labels"], np.uint8), path)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle arrays, lists and dicts, and refuse any other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise DataError(f"the batch names {module}.{name}, which is not an array. Fetch CIFAR-10 again.")
        return _ARRAYS[module, name]


def _check_batch(images: NDArray[np.uint8], labels: NDArray[np.uint8], path: Path) -> Batch:
    """Return images and labels, or raise an error if their shapes do not fit."""
    if images.shape[1:] != (3, 32, 32) or labels.shape != images.shape[:1]:
        raise DataError(f"{path} holds images {images.shape} and labels {labels.shape}. Fetch CIFAR-10 again.")
    return images, labels
