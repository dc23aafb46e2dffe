"""netgraph's file format: tensors and a JSON document in one ``.safetensors`` file, with sha256 sums and without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from netgraph import __version__
from netgraph.environment.memory import check_json
from netgraph.errors import LoadError, describe_error
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_path

DOCUMENT_LIMIT = 64 * 2**20


def write_bundle(path: str | Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write tensors and a document to a file, completely or not at all.

    The file is written in a temporary folder beside its place, flushed to disk and renamed. Then its folder is flushed. Equal
    contents give equal bytes.

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
        The document is too long to be read again or no data for JSON, a tensor is not dense, or the file cannot be written.

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
    check_path(path, LoadError)
    text = _encode_document(document, path)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
            raise LoadError(
                f"{path}: the tensor {name!r} is {tensor.dtype} in layout {tensor.layout} on {tensor.device}, and only dense tensors with "
                "numbers can be written. Convert it first."
            )
    if len(text) > DOCUMENT_LIMIT:
        raise LoadError(
            f"{path}: a document of {len(text):,} bytes is too long, at most {DOCUMENT_LIMIT:,} can be read"
        )
    aliases = _find_aliases(tensors)
    plain = {n: t.detach().to("cpu").contiguous().clone() for n, t in tensors.items() if n not in aliases}
    metadata = {"netgraph": text}
    if pairs := [name for name, t in plain.items() if t.dtype == torch.complex128]:  # which safetensors lacks
        plain |= {name: torch.view_as_real(plain[name].resolve_conj()) for name in pairs}
        metadata["pairs"] = json.dumps(sorted(pairs))
    if aliases:
        metadata["aliases"] = json.dumps(aliases, sort_keys=True)
    metadata["sha256"] = _hash_contents(plain, metadata)
    write_atomically(partial(_save_tensors, plain, metadata), path, LoadError)


def _encode_document(document: Mapping[str, Any], path: Path) -> str:
    """Return a document as JSON."""
    try:
        return json.dumps(document, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise LoadError(
            f"{path}: the document is no data for JSON ({error}). Give numbers, texts, lists and dicts."
        ) from error


def _find_aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the first name of every tensor that has several names, by its other names."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, t in tensors.items():
        place = (t.device, t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else (name,)
        if first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return aliases


def _save_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file. Its bytes depend on its contents alone."""
    try:
        save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error
    _sort_header(path)


def _sort_header(path: Path) -> None:
    """Bring the metadata of a safetensors file into the order of its names. The library writes it in an order drawn at random.

    The first eight bytes are the length of a header in JSON, which may end in spaces. So the header keeps its length.
    """
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, "the header is written as the library writes it, in another order"
        file.seek(8)
        file.write(text.ljust(length))


def read_bundle(path: str | Path, *, newest: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the document of a file that `write_bundle` wrote.

    Parameters
    ----------
    path : str or path
        File to read.
    newest : int, optional
        The newest number under ``"format"`` of the document that the caller can read.

    Returns
    -------
    tensors : dict of str to Tensor
    document : dict

    Raises
    ------
    LoadError
        The file is damaged, was not written by netgraph, or has a newer format.

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
    for key in ("netgraph", "aliases", "pairs"):
        check_json(metadata.get(key, ""), f"{path}: its document")
    try:
        tensors = load_file(str(path))
        fits = _hash_contents(tensors, metadata) == metadata["sha256"]
        document, aliases = json.loads(text), json.loads(metadata.get("aliases", "{}"))
        tensors |= {name: torch.view_as_complex(tensors[name]) for name in json.loads(metadata.get("pairs", "[]"))}
        tensors |= {name: tensors[first] for name, first in aliases.items()}
    except Exception as error:  # wrong contents may raise any error in the reader
        raise LoadError(f"{path} is damaged ({type(error).__name__}: {error}). Download or save it again.") from error
    if not fits or not isinstance(document, dict):
        raise LoadError(f"{path} is damaged: its contents do not fit its sha256. Download or save it again.")
    if newest is not None and (problem := describe_unknown_format(path, document, newest)):
        raise LoadError(problem)
    return tensors, document


def describe_unknown_format(path: str | Path, document: Mapping[str, Any], newest: int) -> str:
    """Return the sentence for a document of a format that this version does not know, empty if it knows it."""
    number, version = document.get("format"), document.get("version")
    if type(number) is int and 1 <= number <= newest:
        return ""
    writer = f"netgraph {version}" if isinstance(version, str) else "another version of netgraph"
    return (
        f"{path} has format {number!r:.40} of {writer:.60}, and this is netgraph {__version__}, which reads formats up to "
        f"{newest}. Open it with the version that wrote it, or a newer one."
    )


def read_document(path: str | Path) -> dict[str, Any]:
    """Return the document of a file of netgraph without reading its tensors. Its digest is not checked.

    Raises
    ------
    LoadError
        The file is not complete, or was not written by netgraph.
    """
    metadata = read_metadata(path)
    if "netgraph" not in metadata or len(metadata["netgraph"]) > DOCUMENT_LIMIT:
        raise LoadError(f"{path} was not written by netgraph.")
    check_json(metadata["netgraph"], f"{path}: its document")
    try:
        document = json.loads(metadata["netgraph"])
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is damaged ({describe_error(error)}). Download or save it again.") from error
    return document if isinstance(document, dict) else {}


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


def read_digest(path: str | Path) -> str:
    """Return the sha256 of the contents that a file of netgraph gives, without reading its tensors.

    Raises
    ------
    LoadError
        The file is not complete, or was not written by netgraph.
    """
    metadata = read_metadata(path)
    if "sha256" not in metadata:
        raise LoadError(f"{path} was not written by netgraph.")
    return metadata["sha256"]


def _hash_contents(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the sha256 of the document and of all tensors."""
    return hash_tensors(tensors, metadata["netgraph"] + metadata.get("aliases", "") + metadata.get("pairs", ""))


def hash_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the sha256 of a text and of tensors with their names, dtypes and shapes.

    Examples
    --------
    >>> import torch
    >>> from netgraph.io.bundle import hash_tensors
    >>> hash_tensors({"x": torch.zeros(2)}) == hash_tensors({"x": torch.zeros(1, 2)})
    False
    """
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
