"""ONNX files, written by PyTorch's exporter and run by ONNX Runtime.

https://onnx.ai/onnx/repo-docs/IR.html is the format. Names and free sizes are those of the program, and the metadata are versions alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph import __version__
from netgraph.coarsen.runtimes.program import Program, quiet_torch
from netgraph.environment.optional_packages import import_package
from netgraph.errors import NetgraphError, describe_error

LARGEST = 2**31 - 2**24  # bytes of weights in one file: protobuf ends at 2 GiB
BFLOAT16 = 16  # in ``onnx.TensorProto.DataType``


def write_onnx(program: Program, path: Path) -> dict[str, Any]:
    """Write a program as an ONNX file, and return its opset.

    Raises
    ------
    NetgraphError
        ONNX lacks an operator of the program, or the weights do not fit into one file.
    """
    for module in ("onnx", "onnxscript"):
        import_package(module, f"{path.name}")
    size = sum(t.numel() * t.element_size() for t in program.exported.state_dict.values())
    if size > LARGEST:
        raise NetgraphError(
            f"{path} would hold {size / 2**30:.1f} GiB of weights, and an .onnx file ends at 2 GiB. Write a .pt2 file."
        )
    try:
        with quiet_torch(), torch.no_grad():
            made: Any = torch.onnx.export(
                program.exported, dynamo=True, verbose=False, dynamic_shapes=program.shapes,
                input_names=program.inputs, output_names=program.outputs,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise NetgraphError(_explain_refusal(program, error)) from error
    model = made.model
    model.producer_name, model.producer_version = "netgraph", __version__
    model.metadata_props.update({"netgraph": __version__, "torch": torch.__version__})
    for node in model.graph:
        node.metadata_props.clear()
    made.save(str(path), external_data=False)
    return {"opset": model.opset_imports[""]}


def _explain_refusal(program: Program, error: Exception) -> str:
    """Return the sentence for a network that ONNX does not express, with the operator."""
    texts: list[str] = []
    reason: BaseException | None = error
    while reason is not None:
        texts.append(str(reason))
        reason = reason.__cause__
    match = re.search(r"op='([\w:.]+)', overload='(\w+)'", "\n".join(texts)) or re.search(
        r"torch\.ops\.([\w.]+)\(", texts[-1]
    )
    if match is None:
        return f"the network cannot be written as ONNX ({describe_error(error)}). Write a .pt2 file, which has the operators of PyTorch."
    name = match[1].replace("::", ".")
    return f"ONNX has no operator for {name} of the network. Write a .pt2 file, which has the operators of PyTorch."


def open_onnx(path: Path, program: Program) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Open an ONNX file in ONNX Runtime, on the processor.

    Returns
    -------
    callable ``(tensors) -> tensors``

    Raises
    ------
    NetgraphError
        ONNX Runtime has no kernel for an operator in the precision of the network.
    """
    runtime = import_package("onnxruntime", "the check of an .onnx file")
    settings = runtime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common one
        reason = (
            re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .* failed:", "", str(error))
            .strip()
            .rstrip(".")
        )
        tensors = [*program.call.tensors, *program.exported.state_dict.values()]
        dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}) or [
            "whole numbers"
        ]
        raise NetgraphError(
            f"ONNX Runtime does not run this network in {' and '.join(dtypes)} ({describe_error(type(error)(reason))}). Cast the network to "
            "float32 first, or write a .pt2 file."
        ) from error

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        values = {name: _give(runtime, t) for name, t in zip(program.inputs, tensors, strict=True)}
        return [_take(value) for value in session.run_with_ort_values(None, values)]

    return run


def _give(runtime: Any, tensor: Tensor) -> Any:
    """Return a tensor as a value of ONNX Runtime. numpy has no bfloat16."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype is torch.bfloat16:
        return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(plain.view(torch.uint16).numpy(), BFLOAT16)
    return runtime.OrtValue.ortvalue_from_numpy(plain.numpy())


def _take(value: Any) -> Tensor:
    """Return a value of ONNX Runtime as a tensor."""
    return (
        torch.utils.dlpack.from_dlpack(value)
        if "bfloat16" in value.data_type()
        else torch.from_numpy(value.numpy().copy())
    )
