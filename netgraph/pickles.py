"""Look into a ``.pt`` file without unpickling it: only tensors, only known names, no size beyond the file's own.

`torch.load(weights_only=True)` runs no stranger's code, but it does take the memory a file asks for. This scan
replays the pickle with inert stand-ins first.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from netgraph.errors import LoadError, UntrustedError

_ALLOWED = {
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter", "torch.Size", "torch.device", "torch.storage.UntypedStorage", "torch.storage.TypedStorage",
    "_codecs.encode", "builtins.set", "builtins.dict", "builtins.int", "builtins.list",
}  # fmt: skip
_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1, "Float8_e4m3fn": 1, "Float8_e5m2": 1,
}  # fmt: skip
MEMORY = 64 * 2**20  # largest pickle (names and shapes, no numbers) that is looked at


class _Stub:
    """Stands in for whatever the pickle would build."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, value: Any) -> None: ...
    def update(self, *args: Any) -> None: ...
    def add(self, value: Any) -> None: ...


class _Scanner(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path, limit: int) -> None:
        super().__init__(io.BytesIO(data))
        self.path, self.limit = path, limit
        self.total, self.seen = 0, set[str]()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        known = full in _ALLOWED or (module == "torch" and (name.endswith("Storage") or name in _DTYPES))
        if not known:
            raise UntrustedError(
                f"{self.path} holds {full}, which is more than weights, and opening it can run code that came with it; "
                "save a state dict and give --arch, or say --trust if you made the file"
            )
        return type(name, (_Stub,), {})

    def persistent_load(self, pid: Any) -> Any:
        kind, key, numel = getattr(pid[1], "__name__", "UntypedStorage"), str(pid[2]), pid[4]
        size = _BYTES.get(kind.removesuffix("Storage"), 1) * int(numel)
        if key not in self.seen:
            self.seen.add(key)
            self.total += size
        if size < 0 or self.total > self.limit:
            raise LoadError(
                f"{self.path} asks for {self.total:,} bytes of tensors and has {self.limit:,}; it is damaged or crafted"
            )
        return _Stub()


_DTYPES = {f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)} | {
    "bfloat16", "half", "float", "double", "long", "bool", "complex64", "complex128", "strided", "float8_e4m3fn", "float8_e5m2",
}  # fmt: skip


def scan(path: Path) -> None:
    """Refuse a ``.pt`` file that is damaged, holds more than weights, or asks for more memory than it has bytes.

    Raises
    ------
    LoadError
    UntrustedError
    """
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            _scan_zip(path, size)
        else:
            _scan_legacy(path, size)
    except (LoadError, MemoryError):
        raise
    except Exception as error:  # whatever a broken pickle does to its reader
        raise LoadError(
            f"{path} cannot be read as a PyTorch file ({type(error).__name__}); it is truncated or not one"
        ) from error


def _scan_zip(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = sum(e.file_size for e in entries)
        if stored > size or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
            raise LoadError(
                f"{path} unpacks to {stored:,} bytes from {size:,}; PyTorch stores files plainly: it is crafted"
            )
        pickles = [e for e in entries if e.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise LoadError(
                f"{path} is a zip file but not one that PyTorch wrote (no data.pkl); give a .pt or .safetensors file"
            )
        if pickles[0].file_size > MEMORY:
            raise LoadError(
                f"{path} has a table of contents of {pickles[0].file_size:,} bytes; at most {MEMORY:,} are read"
            )
        damaged = archive.testzip()
        if damaged is not None:
            raise LoadError(f"{path} is damaged: the checksum of {damaged} does not fit; fetch or save it again")
        scanner = _Scanner(archive.read(pickles[0]), path, size)
        _refuse_bombs(archive.read(pickles[0]), path)
        scanner.load()


def _scan_legacy(path: Path, size: int) -> None:
    """Files from before PyTorch 1.6: several pickles in a row, then the numbers."""
    with path.open("rb") as file:
        head = file.read(min(size, MEMORY))
    if not head[:1] == b"\x80":
        raise LoadError(
            f"{path} is no PyTorch file; give a .pt state dict, a .safetensors file, or a name like torchvision:resnet50"
        )
    _refuse_bombs(head, path, first=5)
    scanner = _Scanner(head, path, size)
    first = scanner.load()
    if first == 0x1950A86A20F9469CFC6C:  # PyTorch's magic number; protocol, system and the object follow
        for _ in range(3):
            first = scanner.load()


def _refuse_bombs(data: bytes, path: Path, first: int = 1) -> None:
    """Refuse pickles whose opcodes make large objects out of few bytes."""
    import pickletools

    stream = io.BytesIO(data)
    for _ in range(first):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if (
                    opcode.name in ("LONG1", "LONG4", "INT", "BININT")
                    and isinstance(argument, int)
                    and argument.bit_length() > 96
                ):
                    raise LoadError(f"{path} holds an integer of {argument.bit_length()} bits; it is crafted")
        except ValueError:
            return
