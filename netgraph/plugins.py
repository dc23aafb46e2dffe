"""Plug-ins by entry point: coarseners, affinities, rules and exporters, ours and everyone's in one list.

Some of ours need a library that is an optional extra; it is imported when they are used.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from netgraph.errors import PluginError

KINDS = {
    "netgraph.coarseners": "coarsener",
    "netgraph.affinities": "affinity",
    "netgraph.rules": "rule",
    "netgraph.exporters": "exporter",
}
GROUPS = tuple(KINDS)


@cache
def _find_entry_points(group: str) -> dict[str, EntryPoint]:
    if group not in KINDS:
        raise PluginError(f"no group of plug-ins is called {group!r}. Groups: {', '.join(GROUPS)}")
    return {point.name: point for point in entry_points(group=group)}


def list_plugins(group: str) -> list[str]:
    """Return the names that are installed in a group, without importing any."""
    return list(_find_entry_points(group))


def find_distribution(group: str, name: str) -> str:
    """Return the name of the distribution that brings a plug-in."""
    point = _find_entry_points(group)[name]
    return point.dist.name if point.dist is not None else "unknown"


@cache
def load_plugin(group: str, name: str) -> Any:
    """Return the object behind an entry point.

    Parameters
    ----------
    group : str
        One of `GROUPS`.
    name : str

    Raises
    ------
    PluginError
        No plug-in has that name, two distributions bring one, or its import fails.
    """
    point = _find_entry_points(group).get(name)
    if point is None:
        installed = ", ".join(sorted(_find_entry_points(group))) or "none"
        raise PluginError(f"no {KINDS[group]} named {name!r}. Installed: {installed}")
    rivals = sorted({p.dist.name for p in entry_points(group=group, name=name) if p.dist is not None})
    if len(rivals) > 1:
        raise PluginError(f"{' and '.join(rivals)} each bring a {KINDS[group]} named {name!r}; uninstall all but one")
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # a stranger's module may fail in any way; the others go on
        raise PluginError(
            f"plug-in {name!r} of {find_distribution(group, name)} does not import: {type(error).__name__}: {error}; "
            "mend or uninstall that distribution"
        ) from error


def import_library(module: str, *, called: str, plugin: str) -> Any:
    """Return the library that a plug-in of ours needs; the extra that brings it has the name of its module.

    Raises
    ------
    PluginError
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise PluginError(
            f"{plugin} needs {called}, which is not installed; pip install 'netgraph-coarsening[{module}]'"
        ) from error
