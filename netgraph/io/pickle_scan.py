"""Look into a ``.pt`` file without unpickling it: only tensors, only known names, no size beyond the file's own.

`torch.load(weights_only=True)` runs no stranger's code, but it takes the memory and the time that a file asks for.
Here the archive is measured, then the opcodes (`netgraph.io.pickle_opcodes`), and then the pickle is replayed with inert stand-ins.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from netgraph.errors import LoadError, UntrustedError
from netgraph.io.pickle_opcodes import check_opcodes

MEMORY = 64 * 2**20  # largest pickle (names and shapes, no numbers) that is looked at
MAGIC = 0x1950A86A20F9469CFC6C  # opens a file from before PyTorch 1.6
_CONTAINERS = {"collections.OrderedDict", "collections.Counter"}
_VALUES = {
    "torch.Size", "torch.device", "builtins.set", "builtins.complex", "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
}  # fmt: skip
_TENSORS = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}


def scan_pickle(path: Path) -> None:
    """Refuse a ``.pt`` file that is damaged, holds more than weights, or asks for more memory than it has bytes.

    Raises
    ------
    LoadError
        The file is damaged or crafted, or no PyTorch file.
    UntrustedError
        It holds more than weights; the sentence names what.
    """
    size = path.stat().st_size
    try:
        if is_archive(path):
            _scan_archive(path, size)
        else:
            _scan_legacy(path, size)
    except LoadError:
        raise
    except Exception as error:  # whatever a broken pickle does to its reader
        reason = f"{type(error).__name__}: {error}"[:120]
        raise LoadError(
            f"{path} cannot be read as a PyTorch file ({reason}); it is truncated or not one: fetch or save it again"
        ) from error


def is_archive(path: Path) -> bool:
    """Tell a zip file as `torch.load` does, by its first bytes; `zipfile.is_zipfile` looks at the last ones."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _scan_archive(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_entries(archive, path, size)
        damaged = archive.testzip()
    if damaged is not None:
        raise LoadError(f"{path} is damaged: the checksum of {damaged} does not fit; fetch or save it again")
    records, data = _read_records(path)
    check_opcodes(io.BytesIO(data), path)
    _Scanner(io.BytesIO(data), path, lambda key, n: n <= records.get(f"data/{key}", -1)).load()
    _check_protocol(data, path)


def _check_entries(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    entries = archive.infolist()
    inside = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in inside:
        raise UntrustedError(f"{path} is a TorchScript program, not weights; save a state dict, or say --trust")
    if "data.pkl" not in inside:
        raise LoadError(
            f"{path} is a zip file but not one that PyTorch wrote (no data.pkl); give a .pt or .safetensors file"
        )
    stored = sum(entry.file_size for entry in entries)
    if stored > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise LoadError(
            f"{path} unpacks to {stored:,} bytes from {size:,}; PyTorch stores files plainly: save it again with torch.save"
        )
    twins = len({entry.filename.lower() for entry in entries}) < len(entries)  # PyTorch's reader knows no case
    if twins or archive.comment or min(entry.header_offset for entry in entries):
        raise LoadError(f"{path} is a zip file that PyTorch did not write; save it again with torch.save")
    contents = archive.getinfo(entries[inside.index("data.pkl")].filename).file_size
    if contents > MEMORY:
        raise LoadError(f"{path} has a table of contents of {contents:,} bytes; at most {MEMORY:,} are read")


def _read_records(path: Path) -> tuple[dict[str, int], bytes]:
    """Return the size of every record and the pickle, as the reader inside `torch.load` finds them."""
    reader = torch._C.PyTorchFileReader(str(path))
    records = {name: reader.get_record_size(name) for name in reader.get_all_records()}
    with zipfile.ZipFile(path) as archive:
        measured = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
    if records != measured:  # two readers, two directories: what was measured is not what would be read
        raise LoadError(f"{path} is a zip file that reads in two ways; save it again with torch.save")
    return records, reader.get_record("data.pkl")


def _check_protocol(data: bytes, path: Path) -> None:
    if data[:1] == b"\x80" and data[1] > 3:
        raise LoadError(
            f"{path} is pickled by protocol {data[1]}, which PyTorch opens only as code; save it again without pickle_protocol"
        )


def _scan_legacy(path: Path, size: int) -> None:
    """Files from before PyTorch 1.6: several pickles in a row, then the numbers."""
    with path.open("rb") as file:
        head = file.read(min(size, MEMORY))
    if head[:1] != b"\x80":
        raise LoadError(
            f"{path} is no PyTorch file; give a .pt state dict, a .safetensors file, or a name like torchvision:resnet50"
        )
    check_opcodes(io.BytesIO(head), path)
    scanner = _Scanner(io.BytesIO(head), path, _StorageClaims(size))
    if scanner.load() == MAGIC:  # protocol, system, the object and its storages' keys follow
        check_opcodes(io.BytesIO(head), path, n_pickles=5)
        for _ in range(4):
            scanner.load()
    _check_protocol(head, path)


class _StorageClaims:
    """What the storages of a legacy file ask for; PyTorch makes each as large as its first mention says."""

    def __init__(self, limit: int) -> None:
        self.left, self.first = limit, dict[str, int]()

    def __call__(self, key: str, nbytes: int) -> bool:
        if key not in self.first:
            self.first[key] = nbytes
            self.left -= nbytes
        return nbytes <= self.first[key] and self.left >= 0


class _StandIn:
    """Stands in for what the pickle would make or call; nothing can be done to it."""

    def __call__(self, *args: Any) -> _StandIn:
        return _StandIn()

    def __setstate__(self, state: Any) -> NoReturn:  # of a tensor, this would put it on other memory
        raise pickle.UnpicklingError("only containers have a state")


class _DictStandIn(_StandIn):
    """Stands in for a dict: takes items and attributes, and keeps none."""

    def __call__(self, *args: Any) -> _DictStandIn:
        return _DictStandIn()

    def __setitem__(self, key: Any, value: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...  # type: ignore[override]


class _DtypeStandIn(_StandIn):
    """Stands in for a dtype or a class of storages; a call of it would take memory."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize

    def __call__(self, *args: Any) -> NoReturn:
        raise pickle.UnpicklingError("a storage comes from the file")


class _StorageStandIn(_StandIn):
    def __init__(self, nbytes: int, itemsize: int) -> None:
        self.nbytes, self.itemsize = nbytes, itemsize


class _EncodeStandIn(_StandIn):
    """Stands in for ``_codecs.encode``, by which old pickles hold bytes."""

    def __call__(self, *args: Any) -> _StandIn:
        if args[1:] != ("latin1",):
            raise pickle.UnpicklingError("bytes are latin1")
        return _StandIn()


class _TensorStandIn(_StandIn):
    """Stands in for the functions that lay a tensor on a storage, and holds them to its end."""

    def __call__(self, *args: Any) -> _StandIn:
        storage, offset, sizes, strides = args[:4]
        kind = args[6] if len(args) > 6 and isinstance(args[6], _DtypeStandIn) else storage
        if not _fits_storage(storage.nbytes // kind.itemsize, offset, sizes, strides):
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return _StandIn()


def _fits_storage(numel: int, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether a view of a storage of ``numel`` entries stays inside it."""
    if not all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides)):
        return False
    if 0 in sizes:
        return True
    return offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) < numel


class _Scanner(pickle.Unpickler):
    """Replay a pickle with stand-ins.

    ``fits(key, nbytes)`` says whether the file has the storage that is asked for.
    """

    def __init__(self, file: io.BytesIO, path: Path, fits: Callable[[str, int], bool]) -> None:
        super().__init__(file, encoding="latin1")
        self.path, self.fits = path, fits

    def find_class(self, module: str, name: str) -> Any:
        found = _find_stand_in(module, name)
        if found is None:
            raise UntrustedError(
                f"{self.path} holds {module}.{name}, which is more than weights, and opening it can run code that came with it; "
                "save a state dict and give --arch, or say --trust if you made the file"
            )
        return found

    def persistent_load(self, pid: Any) -> _StorageStandIn:
        what, kind, key, _, numel, *view = pid
        if what != "storage" or type(key) is not str or type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError("a storage has a name and a size")
        nbytes = numel * kind.itemsize
        if not self.fits(key, nbytes):
            raise LoadError(
                f"{self.path} asks for {nbytes:,} bytes for tensor storage {key[:20]!r}, more than it has; it is damaged or "
                "crafted: save it again"
            )
        if view and view[0] is not None:
            _, offset, length = view[0]
            if not _fits_storage(numel, offset, (length,), (1,)):
                raise pickle.UnpicklingError("a view reaches beyond its storage")
            nbytes = length * kind.itemsize
        return _StorageStandIn(nbytes, kind.itemsize)


def _find_stand_in(module: str, name: str) -> _StandIn | None:
    full = f"{module}.{name}"
    for names, stand_in in ((_TENSORS, _TensorStandIn), (_CONTAINERS, _DictStandIn), (_VALUES, _StandIn)):
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
        try:
            return _DtypeStandIn(torch.storage._get_dtype_from_pickle_storage_type(name).itemsize)
        except KeyError:
            return None
    found = getattr(torch, name, None)
    return _DtypeStandIn(found.itemsize) if isinstance(found, torch.dtype) else None
