"""Plug-ins by entry point: coarseners, affinities, rules and exporters, ours and everyone's in one list."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from netgraph.errors import PluginError

GROUPS = ("netgraph.coarseners", "netgraph.affinities", "netgraph.rules", "netgraph.exporters")


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def names(group: str) -> list[str]:
    """Return the names that are installed in a group, without importing any."""
    return list(_points(group))


def distribution(group: str, name: str) -> str:
    """Return the name of the distribution that brings a plug-in."""
    point = _points(group)[name]
    return point.dist.name if point.dist is not None else "unknown"


@cache
def load(group: str, name: str) -> Any:
    """Return the object behind an entry point.

    Parameters
    ----------
    group : str
        One of `GROUPS`.
    name : str

    Raises
    ------
    PluginError
        No plug-in has that name, or its import fails.
    """
    point = _points(group).get(name)
    if point is None:
        kind = {"coarseners": "coarsener", "affinities": "affinity", "rules": "rule", "exporters": "exporter"}
        what = kind.get(group.rpartition(".")[2], group)
        raise PluginError(f"no {what} named {name!r}. Installed: {', '.join(sorted(_points(group))) or 'none'}")
    try:
        return point.load()
    except Exception as error:  # a stranger's module may fail in any way; it is named and the others go on
        raise PluginError(
            f"plug-in {name!r} of {distribution(group, name)} does not import: {type(error).__name__}: {error}; "
            "mend or uninstall that distribution"
        ) from error
