"""Write a hierarchy in the format that a file's suffix names, through the entry points ``netgraph.exporters``."""

from __future__ import annotations

from pathlib import Path

from netgraph import plugins
from netgraph.coarsen.hierarchy import Hierarchy


def export(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write a hierarchy; the suffix of ``path`` chooses the exporter.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    """
    path = Path(path)
    plugins.load("netgraph.exporters", path.suffix.removeprefix("."))(hierarchy, path)
