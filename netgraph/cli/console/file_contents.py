"""The contents of a file or folder, and if it is whole, without opening the network in it."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netgraph.errors import LoadError, NetgraphError, UntrustedError
from netgraph.io.bundle import describe_unknown_format, read_bundle, read_digest, read_metadata
from netgraph.io.files.output_files import check_path
from netgraph.io.hub.folder_kind import describe_kind, find_kind
from netgraph.io.load import PICKLES
from netgraph.io.pickle_scan import is_archive, scan_pickle
from netgraph.io.weight_files import read_safetensors

KINDS = {  # by a key of the document that no other kind has
    "graphs": "a network of netgraph",
    "transfers": "the index of a hierarchy",
    "run": "a checkpoint of a run",
}


@dataclass
class Contents:
    """What a file or folder holds.

    Parameters
    ----------
    path : str
    kind : str
        What it is, in words.
    problem : str, default ""
        Why it is not whole, empty if it is.
    format : int or None, default None
        Number of the format of a file of netgraph.
    version : str or None, default None
        The version of netgraph that wrote it.
    tensors, parameters, bytes : int, default 0
        Number of tensors, of the numbers in them, and size on disk.
    dtypes : dict of str to int, default empty
        Number of tensors of each type.
    trust : str, default ""
        Why opening it needs trust, empty if it does not.
    parts : list of Contents, default empty
        The files of a folder.
    """

    path: str
    kind: str
    problem: str = ""
    format: int | None = None
    version: str | None = None
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    trust: str = ""
    parts: list[Contents] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """True if nothing is missing or damaged, in the parts too."""
        return not self.problem and all(part.is_whole for part in self.parts)

    def to_plain(self) -> dict[str, Any]:
        """Return the contents as data for JSON."""
        return {**asdict(self), "whole": self.is_whole, "parts": [part.to_plain() for part in self.parts]}


def read_contents(path: Path) -> Contents:
    """Read what a file or folder holds. All of its bytes are read, and no network is built.

    Parameters
    ----------
    path : path

    Returns
    -------
    Contents

    Raises
    ------
    NetgraphError
        There is nothing, or nothing that netgraph knows.
    """
    check_path(path, LoadError)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise LoadError(f"{path} does not exist. Give a file, or the folder of a hierarchy or of checkpoints.")
    if path.suffix == ".safetensors":
        return _guard(path, "a safetensors file", _read_safetensors)
    if path.suffix in PICKLES:
        return _guard(path, "a pickle of PyTorch", _read_pickle)
    if path.suffix == ".pt2":
        return _guard(path, "an exported program", _read_archive)
    raise LoadError(f"{path} is no file that netgraph opens. Give a .safetensors, .pt, .pth, .bin, .ckpt or .pt2 file.")


def _guard(path: Path, kind: str, read: Callable[[Path], Contents]) -> Contents:
    """Return the contents of a file, or its problem if it is damaged."""
    try:
        contents = read(path)
    except NetgraphError as error:
        contents = Contents(str(path), kind, problem=str(error))
    contents.bytes = path.stat().st_size
    return contents


def _read_folder(path: Path) -> Contents:
    """Return the contents of a hierarchy, of a network with its config, or of a folder of checkpoints."""
    from netgraph.coarsen.hierarchy.serialize import INDEX
    from netgraph.fas.checkpoint.checkpoint import list_checkpoints

    if (path / INDEX).is_file():
        return _read_hierarchy(path, path / INDEX)
    if find_kind(path):
        return _read_network_folder(path)
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise LoadError(f"{path} is no hierarchy and no network, and holds no checkpoints. Give one of its files.")
    return Contents(str(path), "checkpoints of a run", parts=[read_contents(one) for one in checkpoints])


def _read_network_folder(path: Path) -> Contents:
    """Return the contents of a folder with a config.json: its files of weights."""
    files = [file for pattern in ("*.safetensors", "*.bin") for file in sorted(path.glob(pattern))]
    contents = Contents(str(path), describe_kind(path), parts=[read_contents(file) for file in files])
    contents.bytes = sum(part.bytes for part in contents.parts)
    if not files:
        contents.problem = "it has no file of weights"
    return contents


def _read_hierarchy(path: Path, index: Path) -> Contents:
    """Return the contents of a hierarchy: its index, and every level that the index names."""
    from netgraph.coarsen.hierarchy.serialize import level_file, list_level_digests

    parts = [read_contents(index)]
    contents = Contents(str(path), "a hierarchy", format=parts[0].format, version=parts[0].version, parts=parts)
    if parts[0].problem:
        return contents
    _, document = read_bundle(index)
    try:
        digests = list_level_digests(path, document)
    except LoadError as error:
        contents.problem = parts[0].problem = str(error)
        return contents
    n_levels = len(digests)
    for i in range(n_levels):
        file = level_file(path, i)
        part = (
            read_contents(file)
            if file.is_file()
            else Contents(str(file), "a network of netgraph", problem="it is missing")
        )
        if not part.problem and digests[i] is not None and read_digest(file) != digests[i]:
            part.problem = "it belongs to another hierarchy: its digest is not the one of the index"
        parts.append(part)
    contents.kind = f"a hierarchy of {n_levels} levels"
    contents.bytes = sum(part.bytes for part in parts)
    return contents


def _read_safetensors(path: Path) -> Contents:
    """Return the contents of a file of netgraph or of another library."""
    if "netgraph" not in read_metadata(path):
        return _count(Contents(str(path), "weights without an architecture"), read_safetensors(path))
    tensors, document = read_bundle(path)
    key = next((key for key in KINDS if key in document), None)
    kind = KINDS[key] if key is not None else "a document of netgraph"
    number, version = document.get("format"), document.get("version")
    contents = Contents(str(path), kind)
    contents.format = number if isinstance(number, int) else None
    contents.version = version if isinstance(version, str) else None
    if key is not None:
        contents.problem = describe_unknown_format(path, document, _find_newest_format(key))
    return _count(contents, tensors)


def _find_newest_format(key: str) -> int:
    """Return the newest format that this version reads, of the kind of documents that have a key of `KINDS`."""
    from netgraph.coarsen.hierarchy import serialize
    from netgraph.fas.checkpoint import checkpoint
    from netgraph.recording.graph_module import NEWEST_FORMAT

    return {"graphs": NEWEST_FORMAT, "transfers": serialize.FORMAT, "run": checkpoint.FORMAT}[key]


def _count(contents: Contents, tensors: Mapping[str, Any]) -> Contents:
    """Add the numbers of tensors."""
    contents.tensors, contents.parameters = len(tensors), sum(tensor.numel() for tensor in tensors.values())
    contents.dtypes = dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()))
    return contents


def _read_pickle(path: Path) -> Contents:
    """Return the contents of a pickle, which is scanned and not opened."""
    if is_archive(path):
        _check_sums(path)
    try:
        scan_pickle(path)
    except UntrustedError as error:
        return Contents(str(path), "a pickle of more than weights", trust=str(error))
    return Contents(str(path), "a pickle of weights")


def _read_archive(path: Path) -> Contents:
    """Return the contents of an exported program."""
    if not zipfile.is_zipfile(path):
        raise LoadError("it is no archive")
    _check_sums(path)
    return Contents(str(path), "an exported program", trust="an exported program can run code when it is opened")


def _check_sums(path: Path) -> None:
    """Refuse an archive with a damaged member."""
    try:
        with zipfile.ZipFile(path) as archive:
            stored = sum(entry.file_size for entry in archive.infolist())
            if stored > path.stat().st_size:  # PyTorch compresses nothing
                raise LoadError(f"its archive unpacks to {stored:,} bytes, more than the file has. Save it again.")
            damaged = archive.testzip()
    except LoadError:
        raise
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:  # compression, encryption
        raise LoadError(f"its archive cannot be read ({error})") from error
    if damaged is not None:
        raise LoadError(f"its member {damaged} is damaged")
