"""Export of a hierarchy: the suffix of the file chooses the writer (plug-in group ``netgraph.exporters``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from netgraph import plugins
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.errors import PluginError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file

GROUP = "netgraph.exporters"


def find_exporter(path: str | Path) -> Callable[[Hierarchy, Path], Any]:
    """Find the exporter for the suffix of a file.

    Parameters
    ----------
    path : str or Path
        File that will be written.

    Returns
    -------
    callable ``(hierarchy, path) -> None``
        Writes the whole file, or leaves an older one as it was.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    NetgraphError
        The folder of the file does not exist or cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in plugins.list_plugins(GROUP):
        known = ", ".join(f".{name}" for name in sorted(plugins.list_plugins(GROUP)))
        raise PluginError(f"{path} ends in {path.suffix or 'nothing'}, which no exporter writes. Installed: {known}.")
    check_output_file(path)
    write: Callable[[Hierarchy, Path], Any] = plugins.load_plugin(GROUP, suffix)
    return lambda hierarchy, place: write_atomically(partial(write, hierarchy), place)


def export(hierarchy: Hierarchy, path: str | Path) -> None:
    """Write a hierarchy to a file. The suffix of the file chooses the format.

    Words before the suffix choose further: ``net.level1.graphml`` is the graph of level 1, ``net.R.mtx`` the restriction,
    and ``net.dendrogram.svg`` one of the figures.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy to write.
    path : str or Path
        File to write, for example ``net.html``, ``net.graphml``, ``net.dot``, ``net.P.npz`` or ``net.svg``. The command
        ``netgraph plugins`` lists the formats.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix.
    NetgraphError
        The file cannot be written, or the hierarchy has no such level, matrix or figure.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> hierarchy = ng.build_hierarchy(model, torch.ones(1, 3))
    >>> ng.export(hierarchy, "net.level1.graphml")
    >>> ng.export(hierarchy, "net.level9.graphml")
    Traceback (most recent call last):
        ...
    netgraph.errors.NetgraphError: net.level9.graphml asks for level 9, but the hierarchy has levels 0 to 1. Name one ...
    """
    find_exporter(path)(hierarchy, Path(path))
