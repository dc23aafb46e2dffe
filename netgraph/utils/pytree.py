"""Nesting of tensors in arguments and results of a call, as plain data for JSON.

A structure is ``{"tensor": i}``, ``{"value": v}``, ``{"list": [...]}``, ``{"tuple": [...]}`` or ``{"dict": {...}}``. In memory
only, a dict also holds the class that the network returned, such as the outputs of Hugging Face networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from netgraph.errors import TraceError

Structure = dict[str, Any]
_PLAIN = (int, float, str, bool, type(None))


def build_structure(value: Any, leaves: list[Any], *, drop_unknown: bool = False) -> Structure:
    """Return the structure of a nested value and append its tensors to ``leaves``.

    Parameters
    ----------
    value : object
    leaves : list
        Extended by the tensors of ``value``.
    drop_unknown : bool, default=False
        Replace leaves of other types by None, such as the cache in the output of a language model.

    Returns
    -------
    dict

    Raises
    ------
    TraceError
        A leaf is neither a tensor nor a plain value, and ``drop_unknown`` is False.

    Examples
    --------
    >>> import torch
    >>> from netgraph.utils.pytree import build_structure
    >>> leaves = []
    >>> build_structure([torch.ones(2), 3], leaves)
    {'list': [{'tensor': 0}, {'value': 3}]}
    >>> len(leaves)
    1
    """
    if isinstance(value, Tensor):
        leaves.append(value)
        return {"tensor": len(leaves) - 1}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if isinstance(value, Mapping):
        items = {str(k): build_structure(v, leaves, drop_unknown=drop_unknown) for k, v in value.items()}
        return {"dict": items} if type(value) is dict else {"dict": items, "class": type(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        items = {
            k: build_structure(v, leaves, drop_unknown=drop_unknown) for k, v in zip(value._fields, value, strict=True)
        }
        return {"dict": items, "class": type(value)}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [build_structure(v, leaves, drop_unknown=drop_unknown) for v in value]}
    if is_dataclass(value) and drop_unknown:
        items = {f.name: build_structure(getattr(value, f.name), leaves, drop_unknown=True) for f in fields(value)}
        return {"dict": items, "class": type(value)}
    if drop_unknown:  # for example a cache, which a coarse network does not return
        return {"value": None}
    raise TraceError(
        f"the example holds a {type(value).__name__}. Only tensors, numbers, strings, lists and dicts can be traced."
    )


def unflatten_tree(structure: Structure, leaves: Sequence[Any]) -> Any:
    """Return the value of a structure, with ``leaves`` in the places of its tensors."""
    if "tensor" in structure:
        return leaves[structure["tensor"]]
    if "value" in structure:
        return structure["value"]
    if "dict" in structure:
        items = {k: unflatten_tree(v, leaves) for k, v in structure["dict"].items()}
        return structure["class"](**items) if structure.get("class") else items
    kind = "list" if "list" in structure else "tuple"
    parts = [unflatten_tree(v, leaves) for v in structure[kind]]
    return parts if kind == "list" else tuple(parts)


def flatten_tree(structure: Structure, value: Any) -> list[Any]:
    """Return the tensors of a value in the order of a structure.

    Raises
    ------
    TraceError
        The value is not nested like the traced example.
    """
    leaves: list[Any] = []
    _collect_leaves(structure, value, leaves, "input")
    return leaves


def _collect_leaves(structure: Structure, value: Any, leaves: list[Any], path: str) -> None:
    """Append the tensors of a value to ``leaves``. ``path`` names the place of a misfit."""
    if "tensor" in structure:
        if not isinstance(value, Tensor):
            raise TraceError(f"{path} is a {type(value).__name__}, but the network was traced with a tensor there")
        leaves.append(value)
    elif "dict" in structure:
        if not isinstance(value, Mapping) or set(value) != set(structure["dict"]):
            names = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise TraceError(
                f"{path} is {names}, but the network was traced with the names {sorted(structure['dict'])}"
            )
        for key, part in structure["dict"].items():
            _collect_leaves(part, value[key], leaves, f"{path}[{key!r}]")
    elif "value" in structure:
        if value != structure["value"]:
            raise TraceError(f"{path} is {value!r}, but the network was traced with {structure['value']!r} there")
    else:
        parts = structure["list" if "list" in structure else "tuple"]
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            raise TraceError(f"{path} does not have {len(parts)} parts, as in the traced example")
        for i, (part, item) in enumerate(zip(parts, value, strict=True)):
            _collect_leaves(part, item, leaves, f"{path}[{i}]")


def drop_classes(structure: Structure) -> Structure:
    """Return a structure that JSON can hold: outputs of other classes become plain dicts."""
    if "dict" in structure:
        return {"dict": {k: drop_classes(v) for k, v in structure["dict"].items()}}
    for kind in ("list", "tuple"):
        if kind in structure:
            return {kind: [drop_classes(v) for v in structure[kind]]}
    return structure


def normalize_example(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an example as positional and keyword arguments."""
    if isinstance(example, Mapping) or (hasattr(example, "items") and not isinstance(example, Tensor)):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


def describe_example(example: Any) -> dict[str, Any]:
    """Return structure, shapes and dtypes of an example as data for JSON."""
    leaves: list[Tensor] = []
    structure = drop_classes(build_structure(normalize_example(example), leaves))
    return {"structure": structure, "tensors": [[list(t.shape), str(t.dtype).removeprefix("torch.")] for t in leaves]}
