"""The memory that a run of a graph needs, worked out on shapes alone before anything is made.

A file may hold any graph of known operators. Sizes that it computes from its inputs, repeated rows and products of all pairs can ask
for any amount. So the steps are worked out on meta tensors first, and the sum of the results that live at one time is compared with
the free memory. Where a size depends on numbers, the steps after it are compared one by one while they run.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.environment.memory import check_memory
from netgraph.environment.torch_internals import (
    OpOverload,
    identify_storage,
    inside_transform,
    read_schema,
    set_gradients,
    without_modes,
)
from netgraph.errors import LoadError
from netgraph.recording.forward.autocast import OPERATORS as AUTOCAST
from netgraph.recording.forward.cumulative_norm import cumulative_factor
from netgraph.recording.meta_shapes import META, infer_result
from netgraph.recording.operators.guards import check_decision
from netgraph.recording.operators.lookups import plain_lookups

ATEN = torch.ops.aten
PLAIN = (Tensor, nn.Parameter)
WITHOUT_RESULT = {check_decision, set_gradients, *AUTOCAST.values()}
ARITHMETIC = (operator.add, operator.mul, operator.floordiv)
PART = 512  # bytes of the object of a tensor
LARGEST = 2**62  # of a size that a graph computes. Larger ones mean "to the end".
OVERFLOW = "overflow"  # in the message of PyTorch for a size beyond 64 bits


def find_unknown_step(steps: Sequence[Any], slots: Sequence[Any], resolve: Callable[[Any, list[Any]], Any]) -> int:
    """Compare what a run needs with the free memory.

    Parameters
    ----------
    steps : list of `netgraph.recording.interpreter.Step`
    slots : list
        Values before the first step.
    resolve : callable ``(argument, slots) -> value``
        Puts values in the place of references.

    Returns
    -------
    int
        The number of the first step whose sizes depend on numbers, or the number of all steps.

    Raises
    ------
    LoadError
        The results that live at one time need more memory than is free.
    """
    if inside_transform() or torch.compiler.is_compiling() or not all(_is_plain(value) for value in slots):
        return len(steps)
    shadows = [_to_shapes(value) for value in slots]
    ledger = _Ledger(shadows)
    with torch.no_grad(), without_modes(), plain_lookups():
        for number, step in enumerate(steps):
            args = [resolve(value, shadows) for value in step.args]
            kwargs = {name: resolve(value, shadows) for name, value in step.kwargs}
            try:
                shadows[step.index] = _infer(step.function, args, kwargs)
            except (
                RuntimeError,
                TypeError,
                IndexError,
                AttributeError,
            ) as error:  # it needs numbers, or fails in a run too
                _refuse_overflow(step.function, error)
                return number
            ledger.add(shadows[step.index], step.function)
            for index in step.freed:
                ledger.remove(shadows[index])
                shadows[index] = None
    return len(steps)


def check_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Compare the result of one call, on its arguments in a run, with the free memory.

    Raises
    ------
    LoadError
    """
    if inside_transform() or torch.compiler.is_compiling() or not all(map(_is_plain, (*args, *kwargs.values()))):
        return
    check_memory(_measure_counted(function, args, kwargs), _name(function))
    with torch.no_grad(), without_modes(), plain_lookups():
        shapes = [_to_shapes(value) for value in args]
        try:
            result = _infer(function, shapes, {name: _to_shapes(value) for name, value in kwargs.items()})
        except (RuntimeError, TypeError, IndexError, AttributeError) as error:
            _refuse_overflow(function, error)
            return
    _Ledger(shapes).add(result, function)


def check_operands(function: Callable[..., Any], operands: Sequence[Any]) -> None:
    """Refuse arithmetic of a graph on anything but tensors and sizes. Lists repeat, and numbers grow without bound.

    Raises
    ------
    LoadError
    """
    for operand in operands:
        if isinstance(operand, (list, tuple, str)) or (type(operand) is int and abs(operand) > LARGEST):
            found = f"a {type(operand).__name__}" if not isinstance(operand, int) else "a number of more than 62 bits"
            raise LoadError(f"{_name(function)} gets {found}. The file is refused.")


class _Ledger:
    """The storages that live at one time, apart from those of inputs and parameters, which are there already."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = [t for t in given if isinstance(t, Tensor)]  # kept alive, as their numbers may not be used again
        self.own = {identify_storage(t) for t in self.given}
        self.readers: dict[int, int] = {}
        self.n_bytes = 0

    def add(self, result: Any, function: Callable[..., Any]) -> None:
        """Count the storages of a result, and compare their sum with the free memory."""
        for tensor in _list_tensors(result):
            place, n_bytes = identify_storage(tensor), tensor.untyped_storage().nbytes()
            if place not in self.own:
                self.n_bytes += 0 if self.readers.get(place) else n_bytes
                self.readers[place] = self.readers.get(place, 0) + 1
            check_memory(max(self.n_bytes, tensor.numel() * tensor.element_size()), _name(function))

    def remove(self, result: Any) -> None:
        """Count the storages of a result no longer, unless another result has them too."""
        for tensor in _list_tensors(result):
            place = identify_storage(tensor)
            if place in self.readers:
                self.readers[place] -= 1
                self.n_bytes -= 0 if self.readers[place] else tensor.untyped_storage().nbytes()


def _infer(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return the result of a call on meta tensors, or None for a call that only checks or switches."""
    if function in WITHOUT_RESULT:
        return None
    if function is cumulative_factor:
        return 1.0
    if function in ARITHMETIC:
        check_operands(function, args)
    if not isinstance(function, OpOverload):
        return function(*args, **kwargs)
    check_memory(_count_parts(function, args, kwargs) * PART, _name(function))
    result = infer_result(function, args, kwargs)
    if result is not None:
        return result
    for place, name in _find_devices(function):
        if place < len(args):
            args = [*args[:place], META, *args[place + 1 :]]
        else:
            kwargs = {**kwargs, name: META}
    return function(*args, **kwargs)


def _count_parts(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the number of tensors in the list that an operator returns."""
    name = function.overloadpacket.__name__
    if name not in (
        "unbind",
        "split",
        "unsafe_split",
        "chunk",
        "unsafe_chunk",
        "tensor_split",
        "hsplit",
        "vsplit",
        "dsplit",
    ):
        return 0
    given = {**{a.name: v for a, v in zip(read_schema(function).arguments, args, strict=False)}, **kwargs}
    tensor, dim = next(iter(given.values())), given.get("dim", 0)
    size = tensor.shape[dim] if tensor.ndim else 1
    if name == "unbind":
        return size
    number = given.get("split_size", next((v for k, v in given.items() if k in ("chunks", "sections")), 1))
    if not isinstance(number, int):
        return 0  # a list, which is as long as it is in the file
    return -(-size // max(number, 1)) if "split_size" in given else number


def _measure_counted(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the bytes of a result whose size is one of the numbers of an argument."""
    numbers = args[1] if function is ATEN.repeat_interleave.self_Tensor else args[0] if args else None
    if not isinstance(numbers, Tensor) or not numbers.numel():
        return 0
    if function is ATEN.repeat_interleave.Tensor:
        return 8 * int(numbers.sum())
    if function is ATEN.repeat_interleave.self_Tensor:
        dim = args[2] if len(args) > 2 else kwargs.get("dim")
        n_rows = args[0].numel() if dim is None else args[0].shape[dim]
        return int(args[0].nbytes * int(numbers.sum()) // max(n_rows, 1))
    if function is ATEN.bincount.default:
        return 8 * int(numbers.max())
    if function is ATEN.one_hot.default and (args[1:] or [kwargs.get("num_classes", -1)])[0] == -1:
        return 8 * numbers.numel() * int(numbers.max())
    return 0


@cache
def _find_devices(function: Any) -> tuple[tuple[int, str], ...]:
    """Return place and name of the arguments of an operator that are devices."""
    return tuple((i, a.name) for i, a in enumerate(read_schema(function).arguments) if a.name == "device")


def _is_plain(value: Any) -> bool:
    """Return True if a value has no tensors, or tensors whose numbers are in the memory of this machine."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    if not isinstance(value, Tensor):
        return True
    return (
        type(value) in PLAIN and value.device.type == "cpu" and value.layout == torch.strided and not value.is_quantized
    )


def _to_shapes(value: Any) -> Any:
    """Return a value with meta tensors in the place of tensors, and the meta device in that of devices."""
    if isinstance(value, (list, tuple)):
        return [_to_shapes(part) for part in value]
    if isinstance(value, torch.device):
        return META
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=META)


def _list_tensors(result: Any) -> list[Tensor]:
    """Return the tensors of a result."""
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _list_tensors(part)] if isinstance(result, (list, tuple)) else []


def _refuse_overflow(function: Callable[..., Any], error: Exception) -> None:
    """Refuse a call whose result has more bytes than 64 bits can tell."""
    if OVERFLOW in str(error):
        raise LoadError(f"{_name(function)} asks for more than {2**63:,} bytes. Give smaller sizes.") from error


def _name(function: Callable[..., Any]) -> str:
    """Return an operator as the subject of a message."""
    return f"{function if isinstance(function, OpOverload) else function.__name__} of the graph"
