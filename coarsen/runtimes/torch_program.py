"""Files ``.pt2`` of PyTorch: an exported program, or with ``aot`` a library that AOTInductor compiles for this kind of machine.

``torch.export.load(path).module()`` opens the first, and ``torch._inductor.aoti_load_package(path)`` the second. Both need PyTorch alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph import __version__
from netgraph.coarsen.runtimes.program import Program, quiet_torch
from netgraph.coarsen.runtimes.result_names import flatten_tensors
from netgraph.errors import NetgraphError, describe_error
from netgraph.utils.pytree import unflatten_tree

COMPILERS = ("c++", "g++", "clang++", "cl")
NOTE = "netgraph.json"  # in the archive: versions, and the names of inputs and outputs


def write_program(program: Program, path: Path) -> dict[str, Any]:
    """Write an exported program, with a note of its names and versions."""
    note = {"netgraph": __version__, "torch": torch.__version__, "inputs": program.inputs, "outputs": program.outputs}
    with quiet_torch():
        torch.export.save(program.exported, str(path), extra_files={NOTE: json.dumps(note)})
    return {}


def open_program(path: Path, program: Program) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Open an exported program as a function of its tensors."""
    with quiet_torch():
        return _call_nested(torch.export.load(str(path)).module(), program)


def write_aot(program: Program, path: Path) -> dict[str, Any]:
    """Compile a program ahead of time, and write the package.

    Raises
    ------
    NetgraphError
        There is no C++ compiler, or it refuses.
    """
    if not any(map(shutil.which, COMPILERS)):
        raise NetgraphError(
            "--aot compiles the network, and this machine has no C++ compiler. Install one, or leave --aot out."
        )
    try:
        with quiet_torch(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(program.exported, package_path=str(path))
    except Exception as error:  # a compiler may fail in any way
        raise NetgraphError(
            f"AOTInductor does not compile the network ({describe_error(error)}). Leave --aot out."
        ) from error
    return {}


def open_aot(path: Path, program: Program) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Open a compiled package as a function of its tensors."""
    with quiet_torch():
        return _call_nested(torch._inductor.aoti_load_package(str(path)), program)


def _call_nested(run: Callable[..., Any], program: Program) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return a function of tensors that calls a function of nested arguments."""

    def call(tensors: Sequence[Tensor]) -> list[Tensor]:
        order = flatten_tensors(program.call.arguments)
        numbers = {id(t): i for i, t in enumerate(order)}
        args, kwargs = unflatten_tree(program.call.structure, [tensors[numbers[id(t)]] for t in program.call.tensors])
        with torch.no_grad():
            return flatten_tensors(run(*args, **kwargs))

    return call
