"""Results of operators on meta tensors, remembered by shapes, strides, dtypes and plain arguments.

A network calls the same operators on the same shapes again and again: in equal layers, in both modes, and in the second recording.
PyTorch works out many shapes in Python, which takes up to a thousand times as long as a look into a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from netgraph.environment.torch_internals import identify_storage, read_schema

META = torch.device("meta")
PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout})
LARGEST = 20_000  # results that are remembered
_known: dict[Any, Any] = {}


class _UnknownKindError(Exception):
    """An argument is of a kind that no table is looked up by."""


def run_remembered(function: Any, args: Any, kwargs: dict[str, Any], run: Callable[[], Any]) -> Any:
    """Return the result of an operator on meta tensors, from the table where it is there.

    Parameters
    ----------
    function : operator
    args, kwargs : sequence and dict
        Arguments of the call. Tensors among them are on the meta device.
    run : callable
        Runs the operator.
    """
    if not _makes_new_tensors(function):
        return run()
    try:
        key = (
            function,
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            *_list_traits(args),
            *_list_traits(kwargs.items()),
        )
    except _UnknownKindError:
        return run()
    known = _known.get(key)
    if known is not None:
        return _make_result(known)
    result = run()
    if _is_new(result, (*args, *kwargs.values())):
        if len(_known) >= LARGEST:
            _known.clear()
        _known[key] = _describe_result(result)
    return result


@cache
def _makes_new_tensors(function: Any) -> bool:
    """Return True unless an operator writes to its operands or returns views of them, as far as its schema says."""
    schema = read_schema(function)
    return not schema.is_mutable and all(result.alias_info is None for result in schema.returns)


def _list_traits(values: Any) -> list[Any]:
    """Return the arguments on which the shape of a result may depend."""
    return [_describe_tensor(v) if isinstance(v, Tensor) else _describe_value(v) for v in values]


def _describe_tensor(tensor: Tensor) -> Any:
    if tensor.device != META or tensor.layout is not torch.strided or tensor.is_complex():  # conjugates are lazy
        raise _UnknownKindError
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad


def _describe_value(value: Any) -> Any:
    """Return an argument with its kind, because 1, 1.0 and True are equal."""
    kind = type(value)
    if kind in PLAIN:
        return kind, value
    if kind is list or kind is tuple:
        return (list, *_list_traits(value))
    raise _UnknownKindError


def _is_new(result: Any, arguments: Sequence[Any]) -> bool:
    """Return True if a result is a meta tensor, or a tuple of them, that shares no storage with an argument."""
    parts = result if type(result) is tuple else (result,)
    if not all(type(part) is Tensor and part.device == META and not part.is_complex() for part in parts):
        return False
    storages = {identify_storage(tensor) for tensor in _list_tensors(arguments)}
    made = [identify_storage(part) for part in parts]
    return storages.isdisjoint(made) and len(set(made)) == len(made)


def _list_tensors(values: Sequence[Any]) -> list[Tensor]:
    listed: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            listed.append(value)
        elif isinstance(value, (list, tuple)):
            listed.extend(_list_tensors(value))
    return listed


def _describe_result(result: Any) -> Any:
    if type(result) is tuple:
        return tuple(_describe_result(part) for part in result)
    return [tuple(result.shape), result.stride(), result.dtype, result.requires_grad]


def _make_result(known: Any) -> Any:
    """Return new meta tensors of a description."""
    if type(known) is tuple:
        return tuple(_make_result(part) for part in known)
    shape, strides, dtype, needs_gradient = known
    made = torch.empty_strided(shape, strides, dtype=dtype, device=META)
    return made.requires_grad_() if needs_gradient else made
