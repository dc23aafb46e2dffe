"""The formats of runtimes, by the suffix of their files, and what is checked before a network is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from netgraph.coarsen.runtimes import executorch_file, onnx_file, openvino_file, torch_program
from netgraph.coarsen.runtimes.program import Program
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError
from netgraph.io.files.output_files import check_output_file

Run = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class RuntimeFormat:
    """A format of files that a runtime runs.

    Parameters
    ----------
    name : str
        The runtime that judges the file.
    write : callable ``(program, path) -> dict``
        Writes the file, and returns what is to be said of it.
    open : callable ``(path, program) -> run``
        Opens the file. ``run`` takes the tensors of a call, and returns those of the answer.
    packages : tuple of str
        Modules that both need.
    beside : tuple of str
        Suffixes of files that belong to the file.
    free_batch : bool
        Whether the number of rows may be free.
    """

    name: str
    write: Callable[[Program, Path], dict[str, Any]]
    open: Callable[[Path, Program], Run]
    packages: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    free_batch: bool = True


FORMATS = {
    "onnx": RuntimeFormat(
        "ONNX Runtime", onnx_file.write_onnx, onnx_file.open_onnx, packages=("onnx", "onnxscript", "onnxruntime")
    ),
    "pt2": RuntimeFormat("torch.export", torch_program.write_program, torch_program.open_program),
    "pte": RuntimeFormat(
        "ExecuTorch",
        executorch_file.write_executorch,
        executorch_file.open_executorch,
        packages=("executorch.exir", "executorch.runtime"),
        free_batch=False,
    ),
    "xml": RuntimeFormat(
        "OpenVINO",
        openvino_file.write_openvino,
        openvino_file.open_openvino,
        packages=("openvino",),
        beside=(".bin",),
    ),
}
AOT = RuntimeFormat("AOTInductor", torch_program.write_aot, torch_program.open_aot)


def is_runtime_file(path: Path) -> bool:
    """Return True if the suffix of a file is that of a runtime."""
    return path.suffix.removeprefix(".").lower() in FORMATS


def find_format(path: Path, *, aot: bool = False) -> RuntimeFormat:
    """Return the format of a file, after its packages and its place are checked.

    Raises
    ------
    NetgraphError
        A package is missing, the file cannot be written, or ``aot`` is asked for another format than ``.pt2``.
    """
    suffix = path.suffix.removeprefix(".").lower()
    if aot and suffix != "pt2":
        raise NetgraphError(
            f"--aot compiles a .pt2 file, and {path} ends in {path.suffix}. Leave it out, or name the file .pt2."
        )
    chosen = AOT if aot else FORMATS[suffix]
    for place in (path, *(path.with_suffix(ending) for ending in chosen.beside)):
        check_output_file(place)
    for module in chosen.packages:
        import_package(module, f"a .{suffix} file")
    return chosen
