"""Classes of values that hold tensors by name: taken apart, made again, and written by name.

A network may answer a dict, a named tuple, a dataclass, an output of transformers, a namespace or a graph of PyTorch Geometric.
A file holds the name of the class. Only harmless classes are made from a name, because a file must not choose code that runs.
"""

from __future__ import annotations

import importlib
import types
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import torch

from netgraph.environment.import_path import search_installed_packages

PLAIN = (dict, list, tuple, torch.Size)  # classes that a structure makes without their name
BY_NAME = {"collections.OrderedDict": OrderedDict, "types.SimpleNamespace": types.SimpleNamespace}
GRAPHS = ("torch_geometric.data.data.Data", "torch_geometric.data.hetero_data.HeteroData")


def list_items(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a value by name, or None for a value without names.

    Parameters
    ----------
    value : object
        A mapping, a named tuple, a dataclass, a namespace, a graph of PyTorch Geometric or anything else.

    Returns
    -------
    dict or None

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from netgraph.utils.container_classes import list_items
    >>> list_items(SimpleNamespace(logits=3))
    {'logits': 3}
    >>> list_items([3]) is None
    True
    """
    if isinstance(value, type):
        return None
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, tuple):
        return dict(zip(value._fields, value, strict=True)) if hasattr(value, "_fields") else None
    if is_dataclass(value) or isinstance(value, types.SimpleNamespace):
        names = [f.name for f in fields(value)] if is_dataclass(value) else []
        made = vars(value) if hasattr(value, "__dict__") else {}  # attributes beside the fields
        return {name: getattr(value, name) for name in dict.fromkeys([*names, *made]) if hasattr(value, name)}
    return dict(value.to_dict()) if is_graph(type(value)) else None


def is_graph(kind: type) -> bool:
    """Return True for the graphs of PyTorch Geometric, which turn into a dict and back."""
    return hasattr(kind, "from_dict") and any(base.__module__.startswith("torch_geometric.") for base in kind.__mro__)


def make_container(kind: Any, parts: Any) -> Any:
    """Return a value of a class from its parts.

    Parameters
    ----------
    kind : type
    parts : dict or list
        As `list_items` returns them, or the items of a list or tuple.

    Returns
    -------
    object
        Dataclasses are made without their ``__init__``: fields that it computes are among the parts.
    """
    if not isinstance(parts, dict):
        return kind(parts)
    if issubclass(kind, tuple):
        return kind._make(parts.values())
    if issubclass(kind, Mapping):
        return _make_mapping(kind, parts)
    if is_graph(kind):
        return kind.from_dict(parts)
    value = kind.__new__(kind)
    for name, part in parts.items():
        object.__setattr__(value, name, part)  # a frozen dataclass has a __setattr__ that refuses
    return value


def _make_mapping(kind: Any, items: dict[Any, Any]) -> Any:
    """Return a mapping of a class. Output classes of transformers are dataclasses as well, and take their fields by name."""
    by_init = {f.name for f in fields(kind) if f.init} if is_dataclass(kind) else None
    if by_init is not None:
        value = kind(**{name: part for name, part in items.items() if name in by_init})
        for name in items.keys() - by_init:
            setattr(value, name, items[name])
        return value
    try:
        return kind(items)
    except TypeError:  # such as a defaultdict, whose first argument makes missing parts
        value = kind()
        value.update(items)
        return value


def write_class_name(kind: type) -> str:
    """Return the name of a class for a file."""
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return f"namedtuple {kind.__name__}"
    names = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]
    return next((name for name in names if name in GRAPHS), names[0])


def read_class_name(name: str, parts: Any) -> Any:
    """Return the class of a name from a file, or None where only the network's own code can give it.

    Parameters
    ----------
    name : str
        As `write_class_name` returns it.
    parts : dict or list
        The parts of the value. The fields of a named tuple are their names.

    Returns
    -------
    type or None
    """
    module, _, last = name.rpartition(".")
    if name.startswith("namedtuple ") and isinstance(parts, dict):
        word = name.removeprefix("namedtuple ")
        valid = all(n.isidentifier() and not n.startswith("_") for n in (word, *parts))
        return _make_namedtuple(word, tuple(parts)) if valid else None
    if module == "torch.return_types" and not isinstance(parts, dict):
        return getattr(torch.return_types, last, None)
    if name in GRAPHS:
        try:
            with search_installed_packages():
                return getattr(importlib.import_module(module), last)
        except ImportError:
            return None
    return BY_NAME.get(name)


@cache
def _make_namedtuple(name: str, names: tuple[str, ...]) -> Any:
    """Return a class of named tuples. Two equal ones are the same class."""
    return namedtuple(name, names)  # the names come from a file
