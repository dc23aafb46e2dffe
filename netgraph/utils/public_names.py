"""Public names of a package, loaded on first use.

A package lists its names and the modules that hold them. Python calls a module's ``__getattr__`` for a name that the
module lacks (PEP 562), so a name costs its import only where it is used, and ``netgraph --help`` need not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def load_on_first_use(
    package: str, homes: Mapping[str, str], *, needs: Mapping[str, str] | None = None, packages: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` for the facade of a package.

    Parameters
    ----------
    package : str
        Full name of the package, its ``__name__``.
    homes : mapping of str to str
        For each public name the module that holds it, relative to the package.
    needs : mapping of str to str, optional
        For names that need an optional library, its module. Where the library is not installed the name is not listed, for
        ``help`` and ``import *`` load every name that is. Asking for the name itself still says what is missing.
    packages : collection of str, default ()
        Packages inside this one that are imported when they are asked for, as in ``ng.coarsen.ward``. ``import *`` leaves them out.

    Returns
    -------
    getattr_, dir_ : callable
    all_ : list of str
        The public names, sorted.

    Examples
    --------
    >>> load, names, public = load_on_first_use("netgraph", {"NetgraphError": "errors"})
    >>> public
    ['NetgraphError']
    >>> load("NetgraphError")
    <class 'netgraph.errors.NetgraphError'>
    """

    def load(name: str) -> Any:
        if name in packages:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    missing = {name for name, library in (needs or {}).items() if find_spec(library) is None}
    public = sorted(homes.keys() - missing)

    def names() -> list[str]:
        return sorted({*public, *packages, *vars(sys.modules[package])})

    return load, names, public
