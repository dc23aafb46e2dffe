"""Files of OpenVINO: ``NAME.xml`` with the operators, and ``NAME.bin`` with the weights beside it.

https://docs.openvino.ai.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph import __version__
from netgraph.coarsen.runtimes.program import Program, quiet_torch
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError, describe_error


def write_openvino(program: Program, path: Path) -> dict[str, Any]:
    """Write a program for OpenVINO, in the precision of the network.

    Raises
    ------
    NetgraphError
        OpenVINO does not take an operator.
    """
    openvino = import_package("openvino", path.name)
    try:
        with quiet_torch(), torch.no_grad():
            model = openvino.convert_model(program.exported)
    except Exception as error:  # its classes have no common one
        raise NetgraphError(
            f"OpenVINO does not take the network ({describe_error(error)}). Write an .onnx or a .pt2 file."
        ) from error
    for ports, names in ((model.inputs, program.inputs), (model.outputs, program.outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    model.set_rt_info(__version__, "netgraph")
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return {}


def open_openvino(path: Path, program: Program) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Compile a file for this processor as a function of its tensors, in the precision of the file."""
    core = import_package("openvino", "the check of an .xml file").Core()
    run_compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        answer = run_compiled([t.detach().numpy() for t in tensors])
        return [torch.from_numpy(answer[i].copy()) for i in range(len(program.outputs))]

    return run
