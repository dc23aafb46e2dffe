"""Names that PyTorch keeps private. Each is looked up here, and here stands its replacement where a version lacks it.

No other file of netgraph uses them (`tests/test_architecture.py` holds that). PyTorch may rename or drop a private name in any
version, and the mend is then in this file alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph.errors import NetgraphError

TESTED = "2.9 to 2.14"


def find_private(path: str, instead: Any = None) -> Any:
    """Return the object behind a dotted name of PyTorch, or ``instead`` where this version lacks it.

    Parameters
    ----------
    path : str
        Module and name, as in ``"torch._C._set_grad_enabled"``.
    instead : object
        What takes its place.

    Examples
    --------
    >>> find_private("torch.relu") is torch.relu
    True
    >>> find_private("torch._no_such_module.name", 3)
    3
    """
    module, _, name = path.rpartition(".")
    with contextlib.suppress(ImportError, AttributeError):
        return getattr(import_module(module), name)
    return instead


def require_attribute(value: Any, name: str) -> None:
    """Refuse a version of PyTorch without an attribute that nothing can replace."""
    if not hasattr(value, name):
        raise NetgraphError(
            f"torch {torch.__version__} has no {type(value).__name__}.{name}, which netgraph reads. Netgraph is tested with "
            f"torch {TESTED}. Install one of these versions."
        )


def _name_cache_folder() -> None:
    """Name a folder for PyTorch's compiler where there is no temporary one.

    Recording imports the compiler, which asks for the folder on import and stops where there is none. It writes nothing then, so
    any folder will do.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.sep))


_name_cache_folder()

# Operators ---------------------------------------------------------------------------------------------------------------

OpOverload: Any = type(torch.ops.aten.add.Tensor)  # the class has no public name
require_attribute(torch.ops.aten.add.Tensor, "_schema")


def read_schema(overload: Any) -> Any:
    """Return the schema of an operator: its name, its arguments, and whether it writes to them."""
    return overload._schema


def find_overloads(overload: Any) -> list[Any]:
    """Return an operator, and the overloads of the operator of which it is the version in place."""
    packet_name = read_schema(overload).name.split("::")[1]
    base = getattr(getattr(torch.ops, overload.namespace), packet_name.rstrip("_"), None)
    return [overload, *(getattr(base, name) for name in (base.overloads() if base is not None else ()))]


# Switches of gradients and autocast --------------------------------------------------------------------------------------


def _switch_gradients(mode: bool) -> None:
    """Switch gradients on or off, as the private function does."""
    torch.set_grad_enabled(mode)


set_gradients: Callable[[bool], Any] = find_private("torch._C._set_grad_enabled", _switch_gradients)
below_autograd: Any = find_private("torch._C._AutoDispatchBelowAutograd", torch.no_grad)
enter_autocast: Any = find_private("torch.amp.autocast_mode._enter_autocast")
AUTOCAST_SWITCHES = frozenset({enter_autocast, find_private("torch.amp.autocast_mode._exit_autocast")} - {None})


# Recording ---------------------------------------------------------------------------------------------------------------

enable_python_dispatcher: Any = find_private("torch._dispatch.python.enable_python_dispatcher", contextlib.nullcontext)
no_python_dispatcher: Any = find_private("torch._dispatch.python.no_python_dispatcher", contextlib.nullcontext)
FunctionMode: Any = find_private("torch.fx.experimental.proxy_tensor.PreDispatchTorchFunctionMode", object)
DispatchMode: Any = find_private("torch.fx.experimental.proxy_tensor.ProxyTorchDispatchMode", object)
_PREDISPATCH: Any = find_private("torch._functorch.predispatch")
PREDISPATCH_FUNCTIONS = (  # begin and end a transform; up to torch 2.11 every function mode sees them, and must let them run
    frozenset(f for f in vars(_PREDISPATCH).values() if callable(f)) if _PREDISPATCH else frozenset()
)
RECORDS_ON_META = object not in (FunctionMode, DispatchMode)  # else the slower ways of recording are taken


_DISPATCH: Any = find_private("torch._library.utils")


@contextlib.contextmanager
def quick_dispatch(kind: Any) -> Iterator[None]:
    """Hand operators to modes of one class at once in a block, without the list of tensor classes that such a mode does not read."""
    original = getattr(_DISPATCH, "handle_dispatch_mode", None)
    if original is None:  # PyTorch then makes the list
        yield
        return

    def hand_over(mode: Any, operator: Any, *args: Any, **kwargs: Any) -> Any:
        if type(mode) is kind:
            return mode.__torch_dispatch__(operator, (), args, kwargs)
        return original(mode, operator, *args, **kwargs)

    _DISPATCH.handle_dispatch_mode = hand_over
    try:
        yield
    finally:
        _DISPATCH.handle_dispatch_mode = original


inner_transform: Callable[[], Any] = find_private("torch._C._functorch.peek_interpreter_stack", lambda: None)


def inside_transform() -> bool:
    """Return True within a map or a gradient of ``torch.func``."""
    return inner_transform() is not None


_MAPS: Any = find_private("torch._functorch.apis")


@contextlib.contextmanager
def replace_map(instead: Callable[..., Any]) -> Iterator[None]:
    """Call ``instead(original, function, in_dims, out_dims, randomness, chunk_size, *args)`` for each map of ``torch.vmap`` in a block."""
    original = getattr(_MAPS, "vmap_impl", None)
    if original is None:  # maps are then recorded by the slower way
        yield
        return

    def replaced(*args: Any, **kwargs: Any) -> Any:
        return instead(original, *args, **kwargs)

    _MAPS.vmap_impl = replaced
    try:
        yield
    finally:
        _MAPS.vmap_impl = original


def find_decompositions() -> dict[Any, Callable[..., Any]]:
    """Return PyTorch's table of operators that are made of others."""
    return dict(find_private("torch._decomp.decomposition_table", {}))


class _NoFakeTensor:
    """The class of no tensor, for versions of PyTorch without fake tensors."""


class _RealTensorMode(contextlib.nullcontext[Any]):
    """Takes the place of the mode of fake tensors: the run is on copies of the tensors themselves."""

    def __init__(self, **_: Any) -> None:
        super().__init__(self)

    def from_tensor(self, tensor: Any) -> Any:
        """Return a copy of a tensor. Any other value is returned as it is."""
        return tensor.detach().clone() if isinstance(tensor, Tensor) else tensor


class _MissingMode:
    """Takes the place of a mode that nothing replaces. It cannot be entered."""

    def __enter__(self) -> None:
        raise NetgraphError(
            f"torch {torch.__version__} lacks a mode in which netgraph sees every operator. Netgraph is tested with torch {TESTED}. "
            "Install one of these versions."
        )

    def __exit__(self, *_: object) -> None:
        """Leave nothing, because nothing was entered."""


FakeTensor: Any = find_private("torch._subclasses.fake_tensor.FakeTensor", _NoFakeTensor)
FakeTensorMode: Any = find_private("torch._subclasses.fake_tensor.FakeTensorMode", _RealTensorMode)
TensorMode: Any = find_private("torch.utils._python_dispatch.TorchDispatchMode", _MissingMode)
_WithoutFunctionModes: Any = find_private("torch._C.DisableTorchFunction", _MissingMode)
_without_dispatch_modes: Any = find_private("torch.utils._python_dispatch._disable_current_modes", _MissingMode)


@contextlib.contextmanager
def without_dispatch_modes() -> Iterator[None]:
    """Run a block that no mode of operators sees. Modes of functions see it."""
    with _without_dispatch_modes():
        yield


@contextlib.contextmanager
def without_modes() -> Iterator[None]:
    """Run a block that no mode sees."""
    with _WithoutFunctionModes(), _without_dispatch_modes():
        yield


def identify_storage(tensor: Tensor) -> int:
    """Return a number that two living tensors share if they have one storage, on any device, meta included."""
    storage = tensor.untyped_storage()
    return int(getattr(storage, "_cdata", id(storage)))


def read_version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to, or None where PyTorch does not say."""
    return getattr(tensor, "_version", None)


# Many tensors in one call ------------------------------------------------------------------------------------------------


def _subtract_each(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _write_each(operation: str) -> Callable[..., None]:
    """Return a function that calls one method in place on each tensor of a list."""

    def write(tensors: Iterable[Tensor], *others: Iterable[Tensor]) -> None:
        for tensor, *other in zip(tensors, *others, strict=True):
            getattr(tensor, operation)(*other)

    return write


subtract_each: Callable[..., Sequence[Tensor]] = find_private("torch._foreach_sub", _subtract_each)
subtract_each_: Callable[..., None] = find_private("torch._foreach_sub_", _write_each("sub_"))
add_each_: Callable[..., None] = find_private("torch._foreach_add_", _write_each("add_"))
negate_each_: Callable[..., None] = find_private("torch._foreach_neg_", _write_each("neg_"))
copy_each_: Callable[..., None] = find_private("torch._foreach_copy_", _write_each("copy_"))


# Files -------------------------------------------------------------------------------------------------------------------

STORAGE_DTYPES = {  # the names that files of weights hold
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "QUInt8Storage": torch.quint8, "QInt8Storage": torch.qint8,
    "QInt32Storage": torch.qint32, "QUInt4x2Storage": torch.quint4x2, "QUInt2x4Storage": torch.quint2x4,
}  # fmt: skip


def read_archive(path: Path) -> tuple[dict[str, int], Callable[[str], bytes]]:
    """Return the sizes of the records of an archive, and a function that reads one, as `torch.load` finds them.

    Versions of PyTorch that give no sizes read each record once. A version without this reader is judged by `zipfile` alone.
    """
    reader_class = find_private("torch._C.PyTorchFileReader")
    if reader_class is None:
        with zipfile.ZipFile(path) as archive:
            prefix = archive.namelist()[0].partition("/")[0]
            sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
            return sizes, lambda name: _read_entry(path, f"{prefix}/{name}")
    reader = reader_class(str(path))
    measure = getattr(reader, "get_record_size", lambda name: len(reader.get_record(name)))
    return {name: measure(name) for name in reader.get_all_records()}, reader.get_record


def _read_entry(path: Path, name: str) -> bytes:
    """Return one entry of a zip file."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)
