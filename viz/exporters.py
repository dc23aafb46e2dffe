"""Write a hierarchy in the format that a file's suffix names, through the entry points ``netgraph.exporters``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from netgraph import plugins
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import PluginError
from netgraph.io.output_files import check_output_file, write_atomically

GROUP = "netgraph.exporters"


def find_exporter(path: str | Path) -> Callable[[Hierarchy, Path], Any]:
    """Return what writes files of this suffix.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    NetgraphError
        No file can be written there.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in plugins.list_plugins(GROUP):
        known = ", ".join(f".{name}" for name in sorted(plugins.list_plugins(GROUP)))
        raise PluginError(f"{path} ends in {path.suffix or 'nothing'}, which no exporter writes. Installed: {known}")
    check_output_file(path)
    write: Callable[[Hierarchy, Path], Any] = plugins.load_plugin(GROUP, suffix)
    return lambda hierarchy, place: write_atomically(partial(write, hierarchy), place)


def export(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write a hierarchy; the suffix of ``path`` chooses the exporter.

    Words before it choose further: ``net.level1.graphml`` is the graph of level 1, ``net.R.mtx`` the restriction,
    ``net.dendrogram.svg`` one figure.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    NetgraphError
        No file can be written there, or the hierarchy lacks what the name asks for.
    """
    find_exporter(path)(hierarchy, Path(path))
