"""Export of a hierarchy or a network: the suffix of the file chooses the writer.

Writers of hierarchies are plug-ins (group ``netgraph.exporters``). Files that a runtime runs hold one network (`netgraph.coarsen.runtimes`).
"""

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
from netgraph.coarsen.hierarchy.serialize import build_example
from netgraph.coarsen.runtimes.formats import FORMATS, find_format, is_runtime_file
from netgraph.coarsen.runtimes.write_network import TOLERANCE, RuntimeReport, write_network
from netgraph.errors import NetgraphError, PluginError, describe_error
from netgraph.io.example_inputs import guess_input, make_random_like
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.io.files.output_files import check_output_file
from netgraph.viz.formats.flat_graph import parse_level

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
        The folder of the file does not exist or cannot be written to, or a package of a runtime is missing.
    """
    path = Path(path)
    suffix = path.suffix.removeprefix(".").lower()
    if is_runtime_file(path):
        find_format(path)
        return _write_for_runtime
    if suffix not in plugins.list_plugins(GROUP):
        known = ", ".join(f".{name}" for name in sorted({*plugins.list_plugins(GROUP), *FORMATS}))
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


def choose_level(hierarchy: Hierarchy, path: Path, level: int | None = None) -> tuple[nn.Module, Any]:
    """Return the network of the level that a file for a runtime holds, and an example of its inputs.

    Parameters
    ----------
    hierarchy : Hierarchy
    path : Path
        A word such as ``.level1`` before the suffix may name the level.
    level : int, optional
        By default that of the name, else the coarsest.

    Raises
    ------
    NetgraphError
        There is no such level, or the name of the file names another one.
    """
    named = parse_level(hierarchy, path)
    if level is not None and named not in (None, level):
        raise NetgraphError(f"{path.name} names level {named}, and level {level} is asked for. Name one.")
    last = len(hierarchy.levels) - 1
    number = next((n for n in (level, named) if n is not None), last)
    if not 0 <= number <= last:
        raise NetgraphError(f"level {number} is asked for, but the hierarchy has levels 0 to {last}. Name one of them.")
    chosen = hierarchy.levels[number]
    if chosen.pool > 1 or not hierarchy.example:  # a coarser resolution than that of the example
        return chosen.model, guess_input(chosen.model)[0]
    return chosen.model, make_random_like(build_example(hierarchy.example))


def _write_for_runtime(
    source: Hierarchy | nn.Module, path: Path, *, example: Any = None, **options: Any
) -> RuntimeReport:
    """Write a network, or a level of a hierarchy, for a runtime. Options are those of `write_network`."""
    find_format(path, aot=options.get("aot", False))
    network, usual = choose_level(source, path) if isinstance(source, Hierarchy) else (source, None)
    if example is None:
        example = guess_input(network)[0] if usual is None else usual
    return write_network(network, path, example, **options)


def export(
    source: Hierarchy | nn.Module,
    path: str | Path,
    *,
    example: Any = None,
    batch: int | None = None,
    data: Any = None,
    tolerance: float = TOLERANCE,
    aot: bool = False,
) -> RuntimeReport | None:
    """Write a hierarchy, or a network for a runtime, to a file. The suffix of the file chooses the format.

    Words before the suffix choose further: ``net.level1.graphml`` is the graph of level 1, ``net.R.mtx`` the restriction,
    and ``net.dendrogram.svg`` one of the figures.

    Files that a runtime runs hold one network, in evaluation mode: ``.onnx`` (ONNX), ``.pt2`` (an exported program of PyTorch), ``.pte``
    (ExecuTorch) and ``.xml`` (OpenVINO). Of a hierarchy that is the coarsest level, or the one in the name, as in ``net.level1.onnx``. The
    runtime runs the file before it stays, and its answers must be those of the network.

    Parameters
    ----------
    source : Hierarchy or torch.nn.Module
        What to write. Only files of runtimes hold a network.
    path : str or Path
        File to write, for example ``net.html``, ``net.graphml``, ``net.dot``, ``net.P.npz``, ``net.svg`` or ``net.onnx``. The command
        ``netgraph plugins`` lists the formats of hierarchies.
    example : Tensor, tuple or dict, optional
        Inputs of the network, in the form in which `netgraph.trace` takes them. By default those of the hierarchy, or a guess. This and all
        further arguments are for files of runtimes.
    batch : int, optional
        Rows of every batch. By default their number is free. The report says where it cannot be, and why.
    data : Tensor, tuple or dict, optional
        Real inputs, nested like the example, on which the file is compared too.
    tolerance : float, default=1e-4
        Largest relative difference (2-norms) of an output. In half precision its roundoff passes too.
    aot : bool, default=False
        Compile a ``.pt2`` file for this kind of machine, by AOTInductor.

    Returns
    -------
    RuntimeReport or None
        For a file of a runtime: ``inputs`` and ``outputs`` with their names and shapes, ``batch``, ``fixed_by``, ``bytes``, ``details``, and how far
        the answers are from those of the network, in ``example`` and ``data``.

    Raises
    ------
    PluginError
        No exporter is installed for the suffix, or one of another distribution fails.
    NetgraphError
        The file cannot be written, the hierarchy has no such level, matrix or figure, or a runtime does not take the network.
    FileDiffersError
        The file answers otherwise than the network. It is not left behind.

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
    >>> report = ng.export(model, "net.pt2", example=torch.ones(2, 3))
    >>> report.inputs, report.example.relative < 1e-6
    ([{'name': 'input', 'dtype': 'float32', 'shape': ['batch', 3]}], True)
    """
    path = Path(path)
    options = {"example": example, "batch": batch, "data": data, "tolerance": tolerance, "aot": aot}
    if is_runtime_file(path):
        return _write_for_runtime(source, path, **options)
    if not isinstance(source, Hierarchy):
        raise NetgraphError(
            f"{path} shows a hierarchy, and this is a network ({type(source).__name__}). Build one with ng.build_hierarchy, or name a file "
            "for a runtime, such as net.onnx."
        )
    _reject_runtime_options(path, options)
    find_exporter(path)(source, path)
    return None


def _reject_runtime_options(path: Path, options: dict[str, Any]) -> None:
    """Refuse arguments that only files of runtimes use."""
    defaults = {"example": None, "batch": None, "data": None, "tolerance": TOLERANCE, "aot": False}
    idle = [name for name, value in options.items() if value is not defaults[name]]
    if idle:
        raise NetgraphError(
            f"{', '.join(idle)} would have no effect: {path} is no file for a runtime. Leave {'them' if len(idle) > 1 else 'it'} out."
        )
