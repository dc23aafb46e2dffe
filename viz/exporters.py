"""Export of a hierarchy: the suffix of the file chooses the writer (plug-in group ``netgraph.exporters``)."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from netgraph import plugins
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy, build_hierarchy
from netgraph.errors import NetgraphError, PluginError, describe_error
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file

Exporter = Callable[[Hierarchy, Path], Any]
GROUP = "netgraph.exporters"
SYSTEM_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # the disk is full or read only


def find_exporter(path: str | Path) -> Exporter:
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
    write: Exporter = plugins.load_plugin(GROUP, suffix)
    plugins.check_callable(GROUP, write)
    return lambda hierarchy, place: write_atomically(partial(_run_exporter, write, hierarchy, place), place)


def _run_exporter(write: Exporter, hierarchy: Hierarchy, place: Path, path: Path) -> None:
    """Let an exporter write a file. One of another distribution may do anything, and is checked and named.

    Raises
    ------
    PluginError
        It fails, or does not write one file at the path that it is given.
    """
    described = plugins.describe_plugin(GROUP, write)
    if described.endswith(f" of {plugins.DISTRIBUTION}"):
        write(hierarchy, path)
        return
    try:
        write(hierarchy, path)
    except NetgraphError:
        raise
    except KeyboardInterrupt:
        plugins.log_interruption(described, f"wrote {place}")
        raise
    except BaseException as error:  # an exporter of the user may fail in any way
        if isinstance(error, OSError) and error.errno in SYSTEM_REFUSES:
            raise
        raise PluginError(f"{described} fails on {place} ({describe_error(error)}).") from error
    others = sorted(entry.name for entry in path.parent.iterdir() if entry != path) if path.parent.is_dir() else []
    if others:
        raise PluginError(f"{described} wrote {', '.join(others)} beside {place.name}. An exporter writes one file.")
    if path.is_symlink() or not path.is_file():
        raise PluginError(
            f"{described} wrote no file for {place}. An exporter writes a file at the path that it is given."
        )


def check_exporter(write: Exporter, suffix: str) -> None:
    """Check that a callable keeps the contract of an exporter.

    It writes small hierarchies: of a perceptron, of a convolutional network with three levels, and of a network of residual
    blocks that merge. Each time these rules must hold:

    - It writes one file at the path that it is given, and nothing beside it. It may refuse merged blocks by a `netgraph.NetgraphError`.
    - Two files of one hierarchy have equal bytes.
    - The hierarchy is unchanged.

    Parameters
    ----------
    write : callable ``(hierarchy, path) -> None``
        ``hierarchy`` is a `netgraph.Hierarchy` and ``path`` a `pathlib.Path`.
    suffix : str
        Name of the entry point, which is the suffix of the files, such as ``csv``.

    Raises
    ------
    PluginError
        A rule is broken. The message names the first one.

    Examples
    --------
    >>> import netgraph as ng
    >>> def write_table(hierarchy, path):
    ...     path.write_text(str(hierarchy.levels[0].n_units), encoding="utf-8")
    >>> ng.check_exporter(write_table, "txt")
    >>> ng.check_exporter(lambda hierarchy, path: None, "txt")
    Traceback (most recent call last):
        ...
    netgraph.errors.PluginError: exporter '<lambda>' wrote no file for trial0.txt. An exporter writes a file at the path ...
    """
    described = plugins.describe_plugin(GROUP, write)
    for i, hierarchy in enumerate(_make_trials()):
        place, before = Path(f"trial{i}.{suffix.removeprefix('.')}"), _copy_contents(hierarchy)
        try:
            first, second = (_export_bytes(write, hierarchy, place) for _ in range(2))
        except PluginError:
            raise
        except NetgraphError:
            if hierarchy.levels[1].chains:
                continue  # it refuses levels of merged blocks
            raise
        if first != second:
            raise PluginError(
                f"{described} wrote two files of other bytes for one hierarchy. Sort what has no order, and leave out dates and random "
                "numbers."
            )
        if not all(map(np.array_equal, before, _copy_contents(hierarchy))):
            raise PluginError(f"{described} changed the hierarchy. Work on a copy.")


def _export_bytes(write: Exporter, hierarchy: Hierarchy, place: Path) -> bytes:
    """Return the bytes that an exporter writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / place
        _run_exporter(write, hierarchy, place, path)
        return path.read_bytes()


def _make_trials() -> Iterator[Hierarchy]:
    """Yield small hierarchies."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        perceptron = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        convolution = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
        blocks = nn.Sequential(nn.Linear(4, 4), *(_Residual() for _ in range(4)), nn.Linear(4, 2))
    yield build_hierarchy(perceptron, torch.zeros(2, 5))
    yield build_hierarchy(convolution, torch.zeros(2, 3, 6, 6), n_levels=3)
    yield build_hierarchy(blocks, torch.zeros(2, 4), directions="depth")


class _Residual(nn.Module):
    """A residual block of four units."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the activations of the units."""
        added: torch.Tensor = x + self.inside(x)
        return added


def _copy_contents(hierarchy: Hierarchy) -> list[NDArray[Any]]:
    """Return copies of the weights and the aggregates of all levels."""
    contents = []
    for level in hierarchy.levels:
        contents += [tensor.detach().numpy().copy() for tensor in level.model.state_dict().values()]
        contents += [transfer.aggregates.copy() for transfer in level.transfers.values()]
    return contents


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
        No exporter is installed for the suffix, or one of another distribution fails.
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
