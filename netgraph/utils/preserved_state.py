"""Traces of a run in a network, in functions and in random generators, and their removal.

A forward pass stores counters and caches in its modules, results in functions under ``functools.lru_cache``, and it advances
random generators. A recording leaves tensors without numbers in such places, and the network itself would fail on them later.
Every run of netgraph therefore stands in a block that restores these places, and cached tensors are emptied before it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from netgraph.environment.torch_internals import read_version

MAPPINGS = frozenset({dict, OrderedDict, defaultdict})
CONTAINERS = MAPPINGS | {list, set, deque}  # containers that a module may fill in place
LIBRARIES = (
    frozenset({"torch", "numpy"}) | sys.stdlib_module_names
)  # whose cached functions hold no tensors of a network
LRU_CACHE = type(functools.lru_cache(lambda: None))
GENERATORS = frozenset({random.Random, np.random.Generator, np.random.RandomState, torch.Generator})
PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size})
CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, functools.partial)
SLOTS = frozenset({"_parameters", "_buffers", "_modules"})  # what they hold is not looked into
DEPTH = 3  # how deep containers and objects are followed from a module


@contextlib.contextmanager
def preserve_attributes(model: nn.Module) -> Iterator[Snapshot]:
    """Empty the caches of a network in a block, and restore caches, attributes and random generators afterwards.

    Parameters
    ----------
    model : torch.nn.Module
        The attributes of all its modules are restored, with the contents of containers and plain objects in them. Cached
        results of functions that hold tensors are emptied, because they are computed again when they are needed.

    Yields
    ------
    Snapshot
        What was there before.
    """
    snapshot = Snapshot(model)
    snapshot.empty_caches()
    try:
        yield snapshot
    finally:
        snapshot.restore()


class Snapshot:
    """The attributes of all modules of a network, their values, and the states of random generators, at one moment.

    Parameters
    ----------
    model : torch.nn.Module

    Attributes
    ----------
    generators : list of (generator, state)
        The random generators that a run may draw from: those of PyTorch, Python and NumPy, those that modules hold, and those
        in the source files of their classes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []  # of modules and of plain objects
        self.generators: list[tuple[Any, Any]] = []
        self._contents: list[tuple[Any, Any]] = []  # containers and copies of them
        self._tensors: list[tuple[Tensor, int | None, Tensor]] = []  # plain tensors, their version and a copy
        self._caches: list[dict[Any, Any]] = []
        self._seen: set[int] = set()
        modules = list(model.modules())
        self._sources = _list_sources(modules)
        for generator in (random, np.random, torch.default_generator, *_find_global_generators(self._sources)):
            self._visit_generator(generator)
        for module in modules:
            self._visit_attributes(vars(module), 0)

    def _visit_attributes(self, attributes: dict[str, Any], depth: int) -> None:
        self.attributes.append((attributes, dict(attributes)))
        for name, value in attributes.items():
            kind = type(value)
            if kind in PLAIN:
                continue
            if kind in CONTAINERS:
                self._visit_container(value, DEPTH if name in SLOTS else depth)
                if value and kind in MAPPINGS and "cache" in name.lower():
                    self._caches.append(value)
            else:
                self._visit(value, depth)

    def _visit(self, value: Any, depth: int) -> None:
        """Note the value of an attribute or of a part of a container."""
        kind = type(value)
        if kind in CONTAINERS:
            self._visit_container(value, depth)
        elif kind is Tensor:
            self._visit_tensor(value)
        elif kind in GENERATORS:
            self._visit_generator(value)
        elif kind is LRU_CACHE:
            empty_cached_tensors(value)
        elif depth < DEPTH and not isinstance(value, (nn.Module, Tensor, *CODE)):
            inner = getattr(value, "__dict__", None)
            if type(inner) is dict and id(inner) not in self._seen:
                self._seen.add(id(inner))
                self._visit_attributes(inner, depth + 1)

    def _visit_container(self, value: Any, depth: int) -> None:
        """Copy a container, and note its parts."""
        if not value:
            self._contents.append((value, ()))
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        parts = list(value.values()) if isinstance(value, dict) else list(value)
        self._contents.append((value, dict(value) if isinstance(value, dict) else parts))
        for part in parts if depth < DEPTH else ():
            if type(part) not in PLAIN:
                self._visit(part, depth + 1)

    def _visit_tensor(self, tensor: Tensor) -> None:
        """Keep the numbers of a plain tensor, because a run may write to it."""
        if id(tensor) not in self._seen and tensor.device.type != "meta":
            self._seen.add(id(tensor))
            self._tensors.append((tensor, read_version(tensor), tensor.detach().clone()))

    def _visit_generator(self, generator: Any) -> None:
        if id(generator) not in self._seen:
            self._seen.add(id(generator))
            self.generators.append((generator, read_generator(generator)))

    def empty_caches(self) -> None:
        """Empty the caches that hold tensors. Tensors of an earlier run would be taken for constants."""
        for cache in self._caches:
            if _holds_tensors(list(cache.values())):
                cache.clear()
        for function in _find_cached_functions(self._sources):
            empty_cached_tensors(function)

    def restore(self) -> None:
        """Set everything back."""
        for attributes, before in self.attributes:
            attributes.clear()
            attributes.update(before)
        for value, contents in self._contents:
            if value or contents:
                value.clear()
                (value.extend if isinstance(value, (list, deque)) else value.update)(contents)
        for tensor, version, numbers in self._tensors:
            if version is None or read_version(tensor) != version:
                with torch.no_grad():
                    tensor.copy_(numbers)
        for generator, state in self.generators:
            write_generator(generator, state)
        for function in _find_cached_functions(self._sources):
            empty_cached_tensors(function)


# Random generators


def _find_global_generators(sources: list[ModuleType]) -> list[Any]:
    """Return the random generators in the source files of a network's classes."""
    return [value for source in sources for value in vars(source).values() if type(value) in GENERATORS]


def read_generator(generator: Any) -> Any:
    """Return the state of a random generator."""
    if generator is random or type(generator) is random.Random:
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def write_generator(generator: Any, state: Any) -> None:
    """Set the state of a random generator."""
    if generator is random or type(generator) is random.Random:
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def is_in_state(generator: Any, state: Any) -> bool:
    """Return True if a random generator is in a state that `read_generator` returned."""
    now = read_generator(generator)
    if isinstance(state, Tensor):
        return torch.equal(now, state)
    if isinstance(state, dict):  # NumPy nests plain dicts and arrays
        return repr(now) == repr(state)
    return all(np.array_equal(a, b) for a, b in zip(now, state, strict=True))


def seed_generator(generator: Any, seed: int) -> None:
    """Give a random generator another state."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    else:
        generator.seed(seed)


# Functions under lru_cache


# Functions whose results hold no tensors, and how often each had been called when that was found. Until its next call nothing changes.
_without_tensors: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def empty_cached_tensors(function: Any) -> None:
    """Empty a function under ``lru_cache`` if a cached result holds tensors."""
    calls = function.cache_info()
    if not calls.currsize or _without_tensors.get(function) == calls:
        return
    if _holds_tensors(gc.get_referents(function)):
        function.cache_clear()
    else:
        _without_tensors[function] = calls


def _list_sources(modules: list[nn.Module]) -> list[ModuleType]:
    """Return the loaded Python modules that define the classes of a network's modules."""
    names = {kind.__module__ for kind in {type(module) for module in modules}}
    return [sys.modules[name] for name in names if name in sys.modules and not name.startswith("torch.")]


def _find_cached_functions(sources: list[ModuleType]) -> list[Any]:
    """Return the functions under ``lru_cache`` in the packages that define the classes of a network."""
    packages = {source.__name__.partition(".")[0] for source in sources} - {"torch", "netgraph"}
    return [function for package in packages for function in _search_package(package, len(sys.modules))]


@functools.lru_cache(maxsize=64)
def _search_package(package: str, n_loaded: int) -> tuple[Any, ...]:
    """Return the functions under ``lru_cache`` in the loaded modules of a package, and in the classes of these.

    The second argument makes the search begin again when more modules are loaded.
    """
    inside = f"{package}."
    names = [name for name in list(sys.modules) if name == package or name.startswith(inside)]
    sources = [source for name in names if isinstance(source := sys.modules.get(name), ModuleType)]
    found = {id(cached): cached for source in sources for cached in _search_source(source, package, len(vars(source)))}
    return tuple(found.values())


@functools.lru_cache(maxsize=10_000)
def _search_source(source: ModuleType, package: str, n_names: int) -> tuple[Any, ...]:
    """Return the functions under ``lru_cache`` of one module. The last argument makes the search begin again when it has more names."""
    found: list[Any] = []
    for value in list(vars(source).values()):
        inner = (
            vars(value).values()
            if isinstance(value, type) and not _is_searched_elsewhere(value, source, package)
            else ()
        )
        for function in (value, *inner):
            if isinstance(function, (staticmethod, classmethod)):  # other objects may fail or import when asked
                function = function.__func__
            if type(function) in (LRU_CACHE, FunctionType):
                found.extend(_list_cached(function))
    return tuple(found)


def _is_searched_elsewhere(kind: type, source: ModuleType, package: str) -> bool:
    """Return True for a class that another module of the same package defines, and for those of PyTorch and of Python."""
    home = vars(kind).get("__module__")
    if home == source.__name__ or not isinstance(home, str):
        return False
    root = home.partition(".")[0]
    return root == package or root in LIBRARIES


def _list_cached(function: Any, depth: int = 3) -> Iterator[Any]:
    """Yield a function under ``lru_cache``, or those that a wrapper of a decorator holds in its closure."""
    if type(function) is LRU_CACHE:
        yield function
    elif type(function) is FunctionType and depth > 0:
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                yield from _list_cached(cell.cell_contents, depth - 1)


def _holds_tensors(values: list[Any], depth: int = 4) -> bool:
    """Return True if a tensor is among some values, or inside containers among them."""
    return any(
        isinstance(value, Tensor)
        or (depth > 0 and isinstance(value, (list, tuple, dict)) and _holds_tensors(gc.get_referents(value), depth - 1))
        for value in values
    )
