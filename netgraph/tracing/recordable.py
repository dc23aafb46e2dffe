"""Networks that no recording can follow, told at the door and by their true name.

A network on the meta device has no numbers, a quantised one has integer weights packed out of sight, and TorchScript has no
modules in Python. The network inside a ``torch.compile`` is taken in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import TraceError
from netgraph.utils.pytree import build_structure, normalize_example

QUANTIZED_MODULES = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
OBSERVER_MODULES = (
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.qat",
    "torchao.quantization.pt2e",
)
QUANTIZED_DTYPES = tuple(
    getattr(torch, name) for name in ("qint8", "quint8", "qint32", "quint4x2", "quint2x4") if hasattr(torch, name)
)


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile(network)``, or the network itself."""
    inner = vars(model).get("_modules", {}).get("_orig_mod") if _is_compiled(model) else None
    return model if inner is None else inner


def _is_compiled(model: nn.Module) -> bool:
    return type(model).__module__.startswith("torch._dynamo")


def check_recordable(model: nn.Module) -> None:
    """Refuse a network that cannot be recorded, whatever its example is.

    Raises
    ------
    TraceError
        It is no module, TorchScript, an exported program without modules, quantised or prepared for that, or without numbers.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"the network is of type {type(model).__name__}, and not a torch.nn.Module. Give a module: make the class, open a state "
            "dict by netgraph.load_model with its architecture, and put a function into the forward of a module."
        )
    for name, module in model.named_modules():
        place = f"the network's {name}" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{place} is TorchScript, whose operators stay hidden in its own code. Give the network as it was before "
                "torch.jit: build its class and load the state_dict() of the file."
            )
        if type(module).__module__.startswith(QUANTIZED_MODULES):
            raise TraceError(
                f"{place} is quantised ({type(module).__name__}), and integer weights cannot merge. Coarsen the network first, "
                "and quantise the coarse one."
            )
        if type(module).__module__.startswith(OBSERVER_MODULES):
            raise TraceError(
                f"{place} is prepared for quantisation ({type(module).__name__}), and what it observes of activations is no part of "
                "a recording. Coarsen the network first, and prepare the coarse one."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _check_tensor(name, tensor)


def check_input_tensors(example: Any, *, numbers: bool = True) -> None:
    """Refuse inputs that no recording takes.

    Parameters
    ----------
    example : Tensor, tuple or dict
    numbers : bool, default True
        The network will run on them, so that inputs on the meta device are refused too.

    Raises
    ------
    TraceError
        An input is nested, sparse, quantised, or without numbers.
    """
    leaves: list[Tensor] = []
    build_structure(normalize_example(example), leaves)
    for i, leaf in enumerate(leaves):
        if leaf.is_nested:
            raise TraceError(
                f"input {i} of the example is a nested tensor, whose rows have lengths of their own, and a recording has one size for each "
                "dimension. Give a padded tensor, as from torch.nested.to_padded_tensor, and a mask if the network takes one."
            )
        if leaf.layout != torch.strided:
            raise TraceError(
                f"input {i} of the example is sparse ({leaf.layout}). Give a dense tensor, as from to_dense()."
            )
        if leaf.is_quantized:
            raise TraceError(f"input {i} of the example is quantised ({leaf.dtype}). Give its dequantize().")
        if numbers and leaf.device.type == "meta":
            raise TraceError(
                f"input {i} of the example has no numbers: it is on the meta device, and the network is run on it. Give a tensor with numbers, "
                "such as torch.randn of its shape."
            )


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a parameter or buffer without numbers of its own."""
    if torch.nn.parameter.is_lazy(tensor):
        raise TraceError(
            f"{name} has no shape yet, because its layer is lazy. Run the network once on the example, and then coarsen it."
        )
    if tensor.device.type == "meta":
        raise TraceError(
            f"{name} has no numbers: it is on the meta device. Load the weights first, for example without device_map, or "
            "fill the network by to_empty() and load_state_dict()."
        )
    if tensor.is_quantized or tensor.dtype in QUANTIZED_DTYPES:
        raise TraceError(
            f"{name} is quantised ({tensor.dtype}), and integer weights cannot merge. Coarsen the network first, and quantise "
            "the coarse one."
        )
