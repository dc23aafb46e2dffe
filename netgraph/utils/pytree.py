"""Nesting of tensors in arguments and results of a call, as plain data for JSON.

A structure is ``{"tensor": i}``, ``{"value": v}``, ``{"list": [...]}``, ``{"tuple": [...]}``, ``{"dict": {...}}``, or
``{"items": [[key, structure], ...]}`` for a dict with keys other than text. Keys are structures too. In memory a structure may also
hold the ``class`` of its value, such as an output of transformers. A file holds the name of that class, as ``was``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from netgraph.errors import TraceError
from netgraph.utils.container_classes import (
    PLAIN,
    is_graph,
    list_items,
    make_container,
    read_class_name,
    write_class_name,
)
from netgraph.utils.text import read_literal

Structure = dict[str, Any]
_SCALARS = (int, float, str, bool, type(None))


def build_structure(value: Any, leaves: list[Any], *, drop_unknown: bool = False) -> Structure:
    """Return the structure of a nested value and append its tensors to ``leaves``.

    Parameters
    ----------
    value : object
        Tensors and plain values in lists, tuples, dicts, named tuples, dataclasses, namespaces and graphs of PyTorch Geometric.
    leaves : list
        Extended by the tensors of ``value``.
    drop_unknown : bool, default=False
        Replace leaves of other types by None, such as the cache in the output of a language model. The structure names their
        class under ``dropped``.

    Returns
    -------
    dict

    Raises
    ------
    TraceError
        A leaf is neither a tensor nor a plain value and ``drop_unknown`` is False, or a class or a key cannot be made again.

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
    if isinstance(value, _SCALARS):
        return {"value": value}
    items, kind = list_items(value), type(value)
    if items is not None:
        structure = _build_items(items, leaves, drop_unknown)
    elif isinstance(value, (list, tuple)):
        parts = [build_structure(part, leaves, drop_unknown=drop_unknown) for part in value]
        structure = {"list" if isinstance(value, list) else "tuple": parts}
    elif drop_unknown:  # for example a cache, which a coarse network does not return
        return {"value": None, "dropped": kind.__name__}
    else:
        raise TraceError(
            f"the example holds a {kind.__name__}. Only tensors, numbers, strings, lists, dicts, dataclasses and named tuples can "
            "be traced."
        )
    if kind not in PLAIN:
        structure["class"] = kind
        _check_class(structure, leaves)
    return structure


def _build_items(items: Mapping[Any, Any], leaves: list[Any], drop_unknown: bool) -> Structure:
    """Return the structure of a dict. Text stays the key of a JSON object, and other keys become structures."""
    parts = [(key, build_structure(part, leaves, drop_unknown=drop_unknown)) for key, part in items.items()]
    if all(type(key) is str for key, _ in parts):
        return {"dict": dict(parts)}
    return {"items": [[_build_key(key), part] for key, part in parts]}


def _build_key(key: Any) -> Structure:
    """Return the structure of a key of a dict."""
    if isinstance(key, _SCALARS):  # a member of an enumeration of numbers equals its number
        return {"value": key}
    if type(key) is tuple:
        return {"tuple": [_build_key(part) for part in key]}
    if type(key) in (bytes, complex):
        return {"literal": repr(key)}
    if type(key) is frozenset:
        return {"frozenset": [_build_key(part) for part in sorted(key, key=repr)]}
    raise TraceError(
        f"a dict has the key {key!r}, a {type(key).__name__}. Keys may be text, numbers, None, and tuples of them. Use such a key."
    )


def _read_key(key: Structure) -> Any:
    """Return a key of a dict from its structure."""
    ((kind, content),) = key.items()
    if kind == "value":
        return content
    if kind == "literal":
        return read_literal(content)
    parts = [_read_key(part) for part in content]
    return tuple(parts) if kind == "tuple" else frozenset(parts)


def list_parts(structure: Structure) -> list[tuple[Any, Structure]]:
    """Return the keys of a dict and the structures of its parts, or indices and structures of a list or tuple. Leaves have none."""
    if "dict" in structure:
        return list(structure["dict"].items())
    if "items" in structure:
        return [(_read_key(key), part) for key, part in structure["items"]]
    parts: list[Structure] = structure.get("list") or structure.get("tuple") or []
    return list(enumerate(parts))


def _check_class(structure: Structure, leaves: list[Any]) -> None:
    """Raise `TraceError` unless the class makes a value with the same parts again."""
    kind, keys = structure["class"], [key for key, _ in list_parts(structure)]
    try:
        made = unflatten_tree(structure, leaves)
        items = list_items(made)
        filled = {key for key, part in list_parts(structure) if part.get("value", ()) is not None}
        same = (
            len(made) == len(keys) if items is None else filled <= set(items) <= set(keys)
        )  # some classes leave out None
        why = "" if same and (isinstance(made, kind) or is_graph(kind)) else "its parts differ"
    except Exception as error:  # a class may ask for anything
        why = f"{type(error).__name__}: {error}"
    if why:
        raise TraceError(
            f"the network uses a {kind.__name__}, which cannot be made again from its parts ({why}). Use a dict, a tuple, a dataclass "
            "or a named tuple in its place."
        )


def unflatten_tree(structure: Structure, leaves: list[Any]) -> Any:
    """Return the value of a structure, with ``leaves`` in the places of its tensors."""
    if "tensor" in structure:
        return leaves[structure["tensor"]]
    if "value" in structure:
        return structure["value"]
    pairs = [(key, unflatten_tree(part, leaves)) for key, part in list_parts(structure)]
    named = "dict" in structure or "items" in structure
    parts: Any = dict(pairs) if named else [part for _, part in pairs]
    if structure.get("class"):
        return make_container(structure["class"], parts)
    return tuple(parts) if "tuple" in structure else parts


def flatten_tree(structure: Structure, value: Any, path: str = "input") -> list[Any]:
    """Return the tensors of a value in the order of a structure.

    Parameters
    ----------
    structure : dict
    value : object
    path : str, default "input"
        Name of the value in messages.

    Raises
    ------
    TraceError
        The value is not nested like the traced example.
    """
    leaves: list[Any] = []
    _collect_leaves(structure, value, leaves, path)
    return leaves


def _collect_leaves(structure: Structure, value: Any, leaves: list[Any], path: str) -> None:
    """Append the tensors of a value to ``leaves``. ``path`` names the place of a misfit."""
    if "tensor" in structure:
        if not isinstance(value, Tensor):
            raise TraceError(f"{path} is a {type(value).__name__}, but the network was traced with a tensor there")
        leaves.append(value)
    elif "value" in structure:
        if not is_same_value(value, structure["value"]):
            raise TraceError(
                f"{path} is {_describe_value(value)}, but the network was traced with {structure['value']!r} there. "
                "Trace it again with the other value."
            )
    elif "dict" in structure or "items" in structure:
        parts = dict(list_parts(structure))
        items = list_items(value)
        if items is None or set(items) != set(parts):
            names = sorted(items, key=repr) if items is not None else type(value).__name__
            raise TraceError(f"{path} is {names}, but the network was traced with the names {sorted(parts, key=repr)}")
        for key, part in parts.items():
            _collect_leaves(part, items[key], leaves, f"{path}[{key!r}]")
    else:
        if not isinstance(value, (list, tuple)) or len(value) != len(list_parts(structure)):
            raise TraceError(f"{path} does not have {len(list_parts(structure))} parts, as in the traced example")
        for i, part in list_parts(structure):
            _collect_leaves(part, value[i], leaves, f"{path}[{i}]")


def is_same_value(value: Any, recorded: Any) -> bool:
    """Return True if a plain value is the recorded one. NaN equals NaN here, and True is not 1."""
    if not isinstance(value, _SCALARS) or isinstance(value, bool) is not isinstance(recorded, bool):
        return False
    return bool(value == recorded or (value != value and recorded != recorded))


def _describe_value(value: Any) -> str:
    """Return a plain value as Python writes it, and the class of any other value."""
    return repr(value) if isinstance(value, _SCALARS) else f"a {type(value).__name__}"


def list_tensors(structure: Structure) -> list[int]:
    """Return the numbers of the tensors in a structure, in its order."""
    own = [structure["tensor"]] if "tensor" in structure else []
    return own + [number for _, part in list_parts(structure) for number in list_tensors(part)]


def list_dropped(structure: Structure, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place and the class of each part that was replaced by None."""
    if "dropped" in structure:
        yield path, structure["dropped"]
    for key, part in list_parts(structure):
        yield from list_dropped(part, f"{path}.{key}" if path else str(key))


def have_equal_rows(leaves: Sequence[Tensor]) -> bool:
    """Return True if all inputs have equally many rows, so that a row may be a sample.

    Nodes and edges of a graph differ in number. An edge names its nodes by their rows, so none of them can be left out.
    """
    return len({leaf.shape[:1] for leaf in leaves}) == 1 and leaves[0].ndim > 0


def split_rows(data: Any, size: int) -> list[Any]:
    """Split a batch, nested as a network takes it, into parts of some rows.

    A batch without tensors, or without rows in common, stays whole.
    """
    leaves: list[Tensor] = []
    structure = build_structure(normalize_example(data), leaves)
    if not leaves:
        return [data]
    parts = [leaf.split(size) if have_equal_rows(leaves) else (leaf,) for leaf in leaves]
    pieces = zip(*parts, strict=True)
    nested = [unflatten_tree(structure, list(piece)) for piece in pieces]
    return [kwargs if kwargs else args for args, kwargs in nested]


def count_common_rows(data: Any) -> int | None:
    """Return the rows of inputs, None where they have none in common, as the nodes and edges of a graph."""
    leaves: list[Tensor] = []
    build_structure(normalize_example(data), leaves)
    return len(leaves[0]) if leaves and have_equal_rows(leaves) else None


def drop_classes(structure: Structure) -> Structure:
    """Return a structure that JSON can hold, with the names of classes in the place of the classes."""
    if "tensor" in structure or "value" in structure:
        return structure
    name = write_class_name(structure["class"]) if structure.get("class") else structure.get("was")
    was = {"was": name} if name else {}
    if "dict" in structure:
        keys = list(structure["dict"])
        order = {"order": keys} if keys != sorted(keys) else {}  # a file sorts its names
        return {"dict": {key: drop_classes(part) for key, part in structure["dict"].items()}, **was, **order}
    if "items" in structure:
        return {"items": [[key, drop_classes(part)] for key, part in structure["items"]], **was}
    kind = "list" if "list" in structure else "tuple"
    return {kind: [drop_classes(part) for part in structure[kind]], **was}


def restore_classes(structure: Structure) -> Structure:
    """Return a structure from a file with the classes that may be made from their names."""
    if "tensor" in structure or "value" in structure:
        return structure
    full = dict(structure)
    if "dict" in structure:
        order = full.pop("order", structure["dict"])
        full["dict"] = {key: restore_classes(structure["dict"][key]) for key in order}
    elif "items" in structure:
        full["items"] = [[key, restore_classes(part)] for key, part in structure["items"]]
    else:
        kind = "list" if "list" in structure else "tuple"
        full[kind] = [restore_classes(part) for part in structure[kind]]
    if "was" in structure:
        full["class"] = read_class_name(str(structure["was"]), full.get("dict", full.get("items", ())))
    return full


def find_lost_classes(structure: Structure) -> list[str]:
    """Return the names of the classes that a file names and that are not made again."""
    own = [structure["was"]] if structure.get("was") and not structure.get("class") else []
    return own + [name for _, part in list_parts(structure) for name in find_lost_classes(part)]


def has_new_keys(structure: Structure) -> bool:
    """Return True if a dict in a structure has keys other than text, which older versions cannot read."""
    return "items" in structure or any(has_new_keys(part) for _, part in list_parts(structure))


def normalize_example(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return an example as positional and keyword arguments. A dict with keys other than text is one argument."""
    if is_graph(type(example)):
        return (example,), {}
    if isinstance(example, Mapping) or (hasattr(example, "items") and not isinstance(example, Tensor)):
        return ((), dict(example)) if all(isinstance(key, str) for key in example) else ((example,), {})
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def describe_example(example: Any) -> dict[str, Any]:
    """Return structure, shapes and dtypes of an example as data for JSON."""
    leaves: list[Tensor] = []
    structure = drop_classes(build_structure(normalize_example(example), leaves))
    return {"structure": structure, "tensors": [[list(t.shape), str(t.dtype).removeprefix("torch.")] for t in leaves]}
