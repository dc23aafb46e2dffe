"""netgraph's own file: tensors and a JSON document in one ``.safetensors`` file, with sha256 sums of both. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from netgraph.errors import LoadError

DOCUMENT_LIMIT = 64 * 2**20


def write_bundle(path: str | Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write tensors and a document, whole or not at all.

    Parameters
    ----------
    path : path
        Written aside, flushed to disk, then renamed.
    tensors : dict of str to Tensor
    document : dict
        Anything JSON can hold.
    """
    path = Path(path)
    plain = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    text = json.dumps(document, sort_keys=True)
    metadata = {"netgraph": text, "sha256": _digest(plain, text)}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(plain, aside, metadata=metadata)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_bundle(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_bundle` wrote.

    Raises
    ------
    LoadError
        The file is damaged, or not netgraph's.
    """
    metadata = read_metadata(path)
    if "netgraph" not in metadata or "sha256" not in metadata:
        raise LoadError(f"{path} was not written by netgraph; give --arch to read it as a state dict")
    text = metadata["netgraph"]
    if len(text) > DOCUMENT_LIMIT:
        raise LoadError(f"{path} has a document of {len(text):,} bytes; at most {DOCUMENT_LIMIT:,} are read")
    tensors = load_file(str(path))
    if _digest(tensors, text) != metadata["sha256"]:
        raise LoadError(f"{path} is damaged: its contents do not fit its sha256; fetch or save it again")
    return tensors, json.loads(text)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, empty where it has none.

    Raises
    ------
    LoadError
        The file is no whole safetensors file.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except Exception as error:  # the library's errors for headers have no common class
        raise LoadError(f"{path} is no whole safetensors file ({error}); it is truncated or damaged") from error


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
