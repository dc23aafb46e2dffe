"""Write a hierarchy in the format that a file's suffix names, through the entry points ``netgraph.exporters``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netgraph import plugins
from netgraph.coarsen.hierarchy import Hierarchy
from netgraph.errors import NetgraphError, PluginError

GROUP = "netgraph.exporters"


def exporter(path: str | Path) -> Callable[[Hierarchy, Path], Any]:
    """Return what writes files of this suffix.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    NetgraphError
        The folder does not exist.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in plugins.names(GROUP):
        known = ", ".join(f".{name}" for name in sorted(plugins.names(GROUP)))
        raise PluginError(f"{path} ends in {path.suffix or 'nothing'}, which no exporter writes. Installed: {known}")
    if not path.absolute().parent.is_dir():
        raise NetgraphError(f"{path}: the folder {path.absolute().parent} does not exist; make it first")
    write: Callable[[Hierarchy, Path], Any] = plugins.load(GROUP, suffix)
    return write


def export(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write a hierarchy; the suffix of ``path`` chooses the exporter.

    Words before it choose further: ``net.level1.graphml`` is the graph of level 1, ``net.R.mtx`` the restriction,
    ``net.dendrogram.svg`` one figure.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    NetgraphError
        The folder does not exist, or the hierarchy lacks what the name asks for.
    """
    exporter(path)(hierarchy, Path(path))
