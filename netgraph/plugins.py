"""Plug-ins by entry point: coarseners, affinities, rules and exporters of this and of other distributions in one list.

Only installed distributions count. Metadata in the user's folder, beside a network for instance, is not read.

Some plug-ins of this distribution need an optional library. It is imported when the plug-in runs.
"""

from __future__ import annotations

import inspect
import logging
import sys
from functools import cache, partial, reduce
from importlib.metadata import EntryPoint, entry_points
from types import MethodType
from typing import Any

from netgraph.environment.import_path import search_installed_packages
from netgraph.errors import PluginError, describe_error
from netgraph.installation import warn_of_conflict

KINDS = {
    "netgraph.coarseners": "coarsener",
    "netgraph.affinities": "affinity",
    "netgraph.rules": "rule",
    "netgraph.exporters": "exporter",
}
GROUPS = tuple(KINDS)
DISTRIBUTION = "netgraph-coarsening"  # of netgraph itself
logger = logging.getLogger("netgraph.plugins")


@cache
def _find_entry_points(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    if group not in KINDS:
        raise PluginError(f"no group of plug-ins named {group!r}. Groups: {', '.join(GROUPS)}")
    warn_of_conflict()
    with search_installed_packages():
        return {point.name: point for point in entry_points(group=group)}


def list_plugins(group: str) -> list[str]:
    """Return the names of the installed plug-ins of a group, without importing any."""
    return list(_find_entry_points(group))


@cache
def find_distribution(group: str, name: str) -> str:
    """Return the name of the distribution that provides a plug-in."""
    point = _find_entry_points(group)[name]
    return point.dist.name if point.dist is not None else "unknown"


def name_function(value: Any) -> str:
    """Return the name of a function, a method or a class, of the function in a partial, or else of the class of an object.

    It has no address of the memory, so that equal calls in two processes have equal names.

    Examples
    --------
    >>> from functools import partial
    >>> from netgraph.plugins import name_function
    >>> name_function(partial(print, sep=""))
    'print'
    """
    name = getattr(value, "__name__", None)
    if isinstance(name, str):
        return name
    return name_function(value.func) if isinstance(value, partial) else type(value).__name__


def takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    """Return True if a function can be called with these arguments, or if it does not tell."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a compiled function has no signature
        return True
    return True


def check_callable(group: str, value: Any) -> None:
    """Refuse an option that is neither a name nor a function.

    Raises
    ------
    PluginError
        It cannot be called.
    """
    if not callable(value):
        raise PluginError(
            f"{KINDS[group]} is {str(value)[:60]!r}. Give a name that `netgraph plugins` lists, or a function."
        )


def describe_plugin(group: str, value: Any) -> str:
    """Return an object that a plug-in or the user gives in words: its kind, its name and its distribution.

    Examples
    --------
    >>> from netgraph.affinity import cosine
    >>> from netgraph.plugins import describe_plugin
    >>> describe_plugin("netgraph.affinities", cosine)
    "affinity 'cosine' of netgraph-coarsening"
    >>> describe_plugin("netgraph.affinities", lambda units, *, seed: None)
    "affinity '<lambda>'"
    """
    for name, point in _find_entry_points(group).items():
        if _is_behind(point, value):
            return f"{KINDS[group]} {name!r} of {find_distribution(group, name)}"
    return f"{KINDS[group]} {name_function(value)!r}"


def _is_behind(point: EntryPoint, value: Any) -> bool:
    """Return True if an object is the one of an entry point whose module is imported. A function that wraps it has its name alone."""
    try:
        found = reduce(getattr, point.attr.split("."), sys.modules.get(point.module))
    except AttributeError:
        return False
    return found is value or (isinstance(found, MethodType) and bool(found == value))  # a method is made at each access


def log_interruption(described: str, task: str) -> None:
    """Tell which plug-in was at work when the user stopped the process. One that hangs is found this way."""
    logger.warning("stopped while %s %s", described, task)


@cache
def load_plugin(group: str, name: str) -> Any:
    """Return the object behind an entry point.

    Parameters
    ----------
    group : str
        One of `GROUPS`.
    name : str
        Name of the plug-in.

    Raises
    ------
    PluginError
        No plug-in has that name, two distributions provide one, or its import fails.

    Examples
    --------
    >>> from netgraph.plugins import load_plugin
    >>> load_plugin("netgraph.affinities", "cosine").__name__
    'cosine'
    """
    point = _find_entry_points(group).get(name)
    if point is None:
        installed = ", ".join(sorted(_find_entry_points(group))) or "none"
        raise PluginError(f"no {KINDS[group]} named {name!r}. Installed: {installed}")
    with search_installed_packages():
        rivals = sorted({p.dist.name for p in entry_points(group=group, name=name) if p.dist is not None})
    if len(rivals) > 1:
        raise PluginError(f"{' and '.join(rivals)} each bring a {KINDS[group]} named {name!r}. Uninstall all but one.")
    try:
        with search_installed_packages():
            return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a foreign module may fail in any way, and the other plug-ins still work
        raise PluginError(
            f"plug-in {name!r} of {find_distribution(group, name)} does not import: {describe_error(error)}. "
            "Repair or uninstall that distribution."
        ) from error
