"""Files of tensors, opened without running code, and read only when rows are taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.errors import DataError, NetgraphError
from netgraph.io.weight_files import read_pickle

ENDINGS = (".npy", ".pt", ".pth", ".safetensors")


def read_tensors(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return the inputs of a file, and its targets if it has some. Numbers stay on disk until rows are taken.

    Parameters
    ----------
    path : path
        A ``.npy`` array, or a ``.pt`` or ``.safetensors`` file with one tensor or with ``inputs`` and ``targets``.

    Returns
    -------
    inputs : Tensor
    targets : Tensor or None

    Raises
    ------
    NetgraphError
        The file is damaged, or holds anything else.
    """
    try:
        value = _open_file(path)
    except NetgraphError:
        raise
    except Exception as error:  # three libraries raise errors of many types
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise DataError(
            f"{path} cannot be read ({reason}). It is damaged or of another type. Save it again."
        ) from error
    inputs, targets = _split_pair(value, path)
    if targets is not None and (targets.ndim == 0 or inputs.ndim == 0 or len(targets) != len(inputs)):
        raise DataError(
            f"{path} holds inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}. Give one target for each input."
        )
    return inputs, targets


def _open_file(path: Path) -> Any:
    """Return the contents of a file of tensors."""
    if path.suffix == ".npy":
        return _open_numpy(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return read_pickle(path, trust=False)


def _open_numpy(path: Path) -> Tensor:
    """Return a ``.npy`` array as a tensor that is mapped into memory."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)  # "c": torch needs writable memory
    except MemoryError as error:  # of Python's parser, which reads the header: nothing was allocated
        raise DataError(f"{path} has a header with too many brackets inside one another. Save it again.") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is a .npz archive with the suffix .npy. Save one array with numpy.save.")
    if not array.dtype.isnative:
        raise DataError(
            f"{path} holds {array.dtype} numbers of the other byte order. Save them in the byte order of this machine."
        )
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise DataError(f"{path} holds {array.dtype} entries, which torch does not have. Save numbers.") from error


def _split_pair(value: Any, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return inputs and targets of the contents of a file."""
    if isinstance(value, Tensor):
        return _check_plain(value, path), None
    if isinstance(value, (tuple, list)):
        value = dict(zip(("inputs", "targets", *map(str, range(2, len(value)))), value, strict=False))
    if isinstance(value, Mapping) and all(isinstance(v, Tensor) for v in value.values()):
        if set(value) == {"inputs", "targets"}:
            return _check_plain(value["inputs"], path), _check_plain(value["targets"], path)
        if len(value) == 1:
            return _check_plain(next(iter(value.values())), path), None
    names = sorted(map(str, value))[:5] if isinstance(value, Mapping) else type(value).__name__
    raise DataError(f"{path} holds {names}. Save one tensor, or tensors inputs and targets.")


def _check_plain(tensor: Tensor, path: Path) -> Tensor:
    """Return a tensor, or raise an error if it is sparse, quantized or without numbers."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise DataError(f"{path} holds a tensor that is {tensor.layout} on {tensor.device}. Save a plain tensor.")
    return tensor.detach()
