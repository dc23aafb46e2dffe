"""Inspect a ``.pt`` file without unpickling it: it may hold only tensors, known names and sizes within the file.

`torch.load(weights_only=True)` runs no code of a file, but takes all the memory and time that the file asks for. Here the
archive is measured first, then the opcodes (`netgraph.io.pickle_opcodes`). Finally the pickle is replayed with inert
stand-ins for its objects.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from netgraph.environment.memory import check_memory
from netgraph.environment.torch_internals import STORAGE_DTYPES, read_archive
from netgraph.errors import LoadError, UntrustedError
from netgraph.io.metadata_stand_ins import MAPPINGS, OBJECTS, SettingsStandIn
from netgraph.io.pickle_opcodes import check_opcodes

MEMORY = 64 * 2**20  # largest pickle that is scanned. It holds names and shapes, no numbers.
REPEATED = (
    16  # times the size of the file: bytes of its tensors together, which may share storages. Usual files have 1 to 2.
)
MAGIC = 0x1950A86A20F9469CFC6C  # first value of a file from before PyTorch 1.6
_CONTAINERS = {"collections.OrderedDict", "collections.Counter"}
_VALUES = {
    "torch.Size", "torch.device", "builtins.set", "builtins.complex", "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
}  # fmt: skip
_TENSORS = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}


def scan_pickle(path: Path) -> None:
    """Refuse a ``.pt`` file that is damaged, holds more than weights, or asks for more memory than its size.

    Parameters
    ----------
    path : path
        File to scan.

    Raises
    ------
    LoadError
        The file is damaged or crafted, or not a PyTorch file.
    UntrustedError
        The file holds more than weights. The message names the first such object.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from netgraph.io import scan_pickle
    >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
    >>> torch.save({"weight": torch.ones(2)}, path)
    >>> scan_pickle(path)  # passes
    """
    if not path.is_file():
        raise LoadError(f"{path} is no file. Give a .pt, .pth, .bin or .ckpt file.")
    size = path.stat().st_size
    try:
        if is_archive(path):
            _scan_archive(path, size)
        else:
            _scan_legacy(path, size)
    except LoadError:
        raise
    except Exception as error:  # a broken pickle may raise any error in its reader
        reason = f"{type(error).__name__}: {error}"[:120]
        raise LoadError(
            f"{path} cannot be read as a PyTorch file ({reason}). It is truncated or of another type. Download or save it again."
        ) from error


def is_archive(path: Path) -> bool:
    """Return True if a file starts like a zip file, as `torch.load` checks. `zipfile.is_zipfile` looks at the end."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _scan_archive(path: Path, size: int) -> None:
    """Scan a zip file of `torch.save`: entries, checksums, opcodes, objects, protocol."""
    with zipfile.ZipFile(path) as archive:
        _check_entries(archive, path, size)
        damaged = archive.testzip()
    if damaged is not None:
        raise LoadError(f"{path} is damaged: the checksum of {damaged} does not fit. Download or save it again.")
    records, data = _read_records(path)
    check_opcodes(io.BytesIO(data), path)
    _Scanner(io.BytesIO(data), path, lambda key, n: n <= records.get(f"data/{key}", -1)).load()
    _check_protocol(data, path)


def _check_entries(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    """Check the entries of an archive: plainly stored, without duplicates, of a total size within the file."""
    entries = archive.infolist()
    inside = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in inside:
        raise UntrustedError(f"{path} is a TorchScript program, not weights. Save a state dict, or give --trust.")
    if "data.pkl" not in inside:
        raise LoadError(
            f"{path} is a zip file that PyTorch did not write (no data.pkl). Give a .pt or .safetensors file."
        )
    stored = sum(entry.file_size for entry in entries)
    if stored > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise LoadError(
            f"{path} unpacks to {stored:,} bytes from {size:,}. PyTorch does not compress files. Save it again with torch.save."
        )
    duplicates = len({entry.filename.lower() for entry in entries}) < len(entries)  # PyTorch ignores case
    if duplicates or archive.comment or min(entry.header_offset for entry in entries):
        raise LoadError(f"{path} is a zip file that PyTorch did not write. Save it again with torch.save.")
    contents = archive.getinfo(entries[inside.index("data.pkl")].filename).file_size
    if contents > MEMORY:
        raise LoadError(f"{path} has a table of contents of {contents:,} bytes, at most {MEMORY:,} are read")


def _read_records(path: Path) -> tuple[dict[str, int], bytes]:
    """Return the size of every record and the pickle, as the reader inside `torch.load` finds them."""
    records, read_record = read_archive(path)
    with zipfile.ZipFile(path) as archive:
        measured = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
    if records != measured:  # two directories in one file: PyTorch would read other sizes than were measured
        raise LoadError(f"{path} is a zip file with two contradicting directories. Save it again with torch.save.")
    return records, read_record("data.pkl")


def _check_protocol(data: bytes, path: Path) -> None:
    """Refuse pickle protocols that PyTorch opens only with ``weights_only=False``."""
    if data[:1] == b"\x80" and data[1] > 3:
        raise LoadError(
            f"{path} is pickled by protocol {data[1]}, which PyTorch opens only as code. Save it again without pickle_protocol."
        )


def _scan_legacy(path: Path, size: int) -> None:
    """Scan a file from before PyTorch 1.6, which is several pickles followed by the numbers."""
    with path.open("rb") as file:
        head = file.read(min(size, MEMORY))
    if head[:1] != b"\x80":
        raise LoadError(
            f"{path} is not a PyTorch file. Give a .pt state dict, a .safetensors file, or a name like torchvision:resnet50."
        )
    check_opcodes(io.BytesIO(head), path)
    scanner = _Scanner(io.BytesIO(head), path, _StorageClaims(size))
    if scanner.load() == MAGIC:  # then follow protocol, system, the object and the keys of its storages
        check_opcodes(io.BytesIO(head), path, n_pickles=5)
        for _ in range(4):
            scanner.load()
    _check_protocol(head, path)


class _StorageClaims:
    """Storage sizes that a legacy file asks for. PyTorch allocates each by its first mention."""

    def __init__(self, limit: int) -> None:
        self.left, self.first = limit, dict[str, int]()

    def __call__(self, key: str, nbytes: int) -> bool:
        if key not in self.first:
            self.first[key] = nbytes
            self.left -= nbytes
        return nbytes <= self.first[key] and self.left >= 0


class _StandIn:
    """Inert stand-in for any object that a pickle creates or calls."""

    def __call__(self, *args: Any) -> _StandIn:
        return _StandIn()

    def __setstate__(self, state: Any) -> NoReturn:  # a state would put a tensor on other memory
        raise pickle.UnpicklingError("only containers have a state")


class _DictStandIn(_StandIn):
    """Stand-in for a dict. It accepts items and attributes and keeps none."""

    def __call__(self, *args: Any) -> _DictStandIn:
        return _DictStandIn()

    def __setitem__(self, key: Any, value: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...  # type: ignore[override]


class _DtypeStandIn(_StandIn):
    """Stand-in for a dtype or a storage class. Calling a storage class would allocate memory."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize

    def __call__(self, *args: Any) -> NoReturn:
        raise pickle.UnpicklingError("a storage comes from the file")


class _StorageStandIn(_StandIn):
    """Stand-in for a storage. It knows its size in bytes and the size of an item."""

    def __init__(self, nbytes: int, itemsize: int) -> None:
        self.nbytes, self.itemsize = nbytes, itemsize


class _EncodeStandIn(_StandIn):
    """Stand-in for ``_codecs.encode``, which old pickles use for bytes."""

    def __call__(self, *args: Any) -> _StandIn:
        if args[1:] != ("latin1",):
            raise pickle.UnpicklingError("bytes are latin1")
        return _StandIn()


class _TensorStandIn(_StandIn):
    """Stand-in for functions that make a tensor on a storage. It checks that the tensor ends within the storage.

    Parameters
    ----------
    claim : callable ``(nbytes)``
        Called with the bytes of all entries, those that share their memory included.
    """

    def __init__(self, claim: Callable[[int], None]) -> None:
        self.claim = claim

    def __call__(self, *args: Any) -> _StandIn:
        storage, offset, sizes, strides = args[:4]
        kind = args[6] if len(args) > 6 and isinstance(args[6], _DtypeStandIn) else storage
        if not _fits_storage(storage.nbytes // kind.itemsize, offset, sizes, strides):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        n_bytes = math.prod(sizes) * kind.itemsize
        if n_bytes > storage.nbytes:  # its entries share places, and a copy's do not
            check_memory(n_bytes, f"a tensor of {' x '.join(map(str, sizes))} in a file")
        self.claim(n_bytes)
        return _StandIn()


def _fits_storage(numel: int, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return True if a view lies within a storage of ``numel`` entries."""
    if not all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides)):
        return False
    if 0 in sizes:
        return True
    return offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) < numel


class _Scanner(pickle.Unpickler):
    """Replay a pickle with stand-ins.

    Parameters
    ----------
    file : binary file
    path : path
        Name of the file, for error messages.
    fits : callable ``(key, nbytes) -> bool``
        Returns True if the file has such a storage.
    """

    def __init__(self, file: io.BytesIO, path: Path, fits: Callable[[str, int], bool]) -> None:
        super().__init__(file, encoding="latin1")
        self.path, self.fits = path, fits
        self.claimed, self.most = 0, max(REPEATED * path.stat().st_size, MEMORY)

    def claim(self, nbytes: int) -> None:
        """Count the bytes of a tensor. One number can be repeated without end, and any use of such a tensor takes the memory."""
        self.claimed += nbytes
        if self.claimed > self.most:
            raise LoadError(
                f"{self.path} asks for tensors of {self.claimed:,} bytes on the numbers that it has, which repeat in them. Save clones of "
                "its tensors."
            )

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _find_stand_in(module, name, self.claim)
        if stand_in is None:
            raise UntrustedError(
                f"{self.path} holds {module}.{name}, which is more than weights, and opening it can run code that came with it. "
                "Save a state dict and give --arch, or give --trust if you made the file."
            )
        return stand_in

    def persistent_load(self, pid: Any) -> _StorageStandIn:
        tag, kind, key, _, numel, *view = pid
        if tag != "storage" or type(key) is not str or type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError("a storage has a name and a size")
        nbytes = numel * kind.itemsize
        if not self.fits(key, nbytes):
            raise LoadError(
                f"{self.path} asks for {nbytes:,} bytes for tensor storage {key[:20]!r}, more than it has. It is damaged or "
                "crafted. Save it again."
            )
        if view and view[0] is not None:
            _, offset, length = view[0]
            if not _fits_storage(numel, offset, (length,), (1,)):
                raise pickle.UnpicklingError("a view reaches beyond its storage")
            nbytes = length * kind.itemsize
        return _StorageStandIn(nbytes, kind.itemsize)


def _find_stand_in(module: str, name: str, claim: Callable[[int], None]) -> Any:
    """Return the stand-in of a global name, or None for a name that files of weights do not hold."""
    module = {"__builtin__": "builtins"}.get(module, module)  # protocol 2 writes names of Python 2
    full = f"{module}.{name}"
    if full.replace(".long", ".int") in OBJECTS or full in MAPPINGS:
        return SettingsStandIn
    if full in _TENSORS:
        return _TensorStandIn(claim)
    for names, stand_in in ((_CONTAINERS, _DictStandIn), (_VALUES, _StandIn)):
        if full in names:
            return stand_in()
    if full == "_codecs.encode":
        return _EncodeStandIn()
    if full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return _DtypeStandIn(1)
    return _find_dtype(name) if module == "torch" else None


def _find_dtype(name: str) -> _DtypeStandIn | None:
    """Return the stand-in of ``torch.float32`` or ``torch.FloatStorage``."""
    if name.endswith("Storage"):
        return _DtypeStandIn(STORAGE_DTYPES[name].itemsize) if name in STORAGE_DTYPES else None
    dtype = getattr(torch, name, None)
    return _DtypeStandIn(dtype.itemsize) if isinstance(dtype, torch.dtype) else None
