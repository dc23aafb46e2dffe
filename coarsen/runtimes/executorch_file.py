"""Files ``.pte`` of ExecuTorch, for phones and small devices: the portable operators, and XNNPACK where it takes a part.

https://docs.pytorch.org/executorch. Its memory is planned ahead, so the batch is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph.coarsen.runtimes.program import Program, quiet_torch
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError, describe_error


def write_executorch(program: Program, path: Path) -> dict[str, Any]:
    """Write a program of a fixed batch for ExecuTorch.

    Raises
    ------
    NetgraphError
        ExecuTorch does not take an operator.
    """
    lower = import_package("executorch.exir", path.name).to_edge_transform_and_lower
    xnnpack = import_package("executorch.backends.xnnpack.partition.xnnpack_partitioner", path.name)
    try:
        with quiet_torch(), torch.no_grad():
            made = lower(program.exported, partitioner=[xnnpack.XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # its classes have no common one
        raise NetgraphError(
            f"ExecuTorch does not take the network ({describe_error(error)}). Write an .onnx or a .pt2 file."
        ) from error
    path.write_bytes(made.buffer)
    return {}


def open_executorch(path: Path, program: Program) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Open a file in the runtime of ExecuTorch as a function of its tensors."""
    runtime = import_package("executorch.runtime", "the check of a .pte file").Runtime.get()
    loaded = runtime.load_program(str(path))
    method = loaded.load_method("forward")

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [
            value.clone() for value in method.execute([t.contiguous() for t in tensors]) if isinstance(value, Tensor)
        ]

    return run
