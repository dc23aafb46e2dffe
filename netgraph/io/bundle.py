"""netgraph's file format: tensors and a JSON document in one ``.safetensors`` file, with sha256 sums and without pickle."""

from __future__ import annotations

import contextlib
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
    """Write tensors and a document to a file, completely or not at all.

    The file is written under a temporary name, flushed to disk and renamed. Then the folder is flushed.

    Parameters
    ----------
    path : str or path
        File to write. Its folder must exist.
    tensors : mapping of str to Tensor
        A tensor under two names is stored once, and read back as one tensor.
    document : mapping
        Data that JSON can hold.

    Raises
    ------
    LoadError
        The document is too long to be read again, or the file cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from netgraph.io import read_bundle, write_bundle
    >>> path = f"{tempfile.mkdtemp()}/network.safetensors"
    >>> write_bundle(path, {"weight": torch.ones(2)}, {"format": 1})
    >>> read_bundle(path)
    ({'weight': tensor([1., 1.])}, {'format': 1})
    """
    path = Path(path)
    text = json.dumps(document, sort_keys=True)
    if len(text) > DOCUMENT_LIMIT:
        raise LoadError(
            f"{path}: a document of {len(text):,} bytes is too long, at most {DOCUMENT_LIMIT:,} can be read"
        )
    aliases = _find_aliases(tensors)
    plain = {n: t.detach().to("cpu").contiguous().clone() for n, t in tensors.items() if n not in aliases}
    metadata = {"netgraph": text}
    if aliases:
        metadata["aliases"] = json.dumps(aliases, sort_keys=True)
    _replace_file(path, plain, {**metadata, "sha256": _hash_contents(plain, metadata)})


def _find_aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the first name of every tensor that has several names, by its other names."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, t in tensors.items():
        place = (t.device, t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else (name,)
        if first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return aliases


def _replace_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file under a temporary name and rename it. Nothing remains of a failed attempt."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.touch()
        mode = aside.stat().st_mode
        save_file(tensors, aside, metadata=metadata)
        aside.chmod(mode)  # safetensors makes files that only their owner can read
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
        _flush_folder(path.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise LoadError(f"{path} cannot be written ({error}). Give a folder that exists and has space.") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a rename to disk. Systems that cannot open folders do this by themselves."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def read_bundle(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the document of a file that `write_bundle` wrote.

    Parameters
    ----------
    path : str or path
        File to read.

    Returns
    -------
    tensors : dict of str to Tensor
    document : dict

    Raises
    ------
    LoadError
        The file is damaged, or was not written by netgraph.

    Examples
    --------
    >>> import tempfile, torch
    >>> from netgraph.io import read_bundle, write_bundle
    >>> path = f"{tempfile.mkdtemp()}/network.safetensors"
    >>> write_bundle(path, {"weight": torch.ones(2)}, {"format": 1})
    >>> read_bundle(path)[1]
    {'format': 1}
    """
    metadata = read_metadata(path)
    if "netgraph" not in metadata or "sha256" not in metadata:
        raise LoadError(f"{path} was not written by netgraph. Give --arch to read it as a state dict.")
    text = metadata["netgraph"]
    if len(text) > DOCUMENT_LIMIT:
        raise LoadError(f"{path} has a document of {len(text):,} bytes, at most {DOCUMENT_LIMIT:,} are read")
    try:
        tensors = load_file(str(path))
        fits = _hash_contents(tensors, metadata) == metadata["sha256"]
        document, aliases = json.loads(text), json.loads(metadata.get("aliases", "{}"))
        tensors |= {name: tensors[first] for name, first in aliases.items()}
    except Exception as error:  # wrong contents may raise any error in the reader
        raise LoadError(f"{path} is damaged ({type(error).__name__}: {error}). Download or save it again.") from error
    if not fits or not isinstance(document, dict):
        raise LoadError(f"{path} is damaged: its contents do not fit its sha256. Download or save it again.")
    return tensors, document


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, empty if it has none.

    Raises
    ------
    LoadError
        The file is not a complete safetensors file.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except Exception as error:  # errors of safetensors for headers have no common class
        raise LoadError(
            f"{path} is not a complete safetensors file ({error}). It is truncated or damaged. Download or save it again."
        ) from error


def _hash_contents(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the sha256 of the document and of all tensors."""
    digest = hashlib.sha256((metadata["netgraph"] + metadata.get("aliases", "")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
