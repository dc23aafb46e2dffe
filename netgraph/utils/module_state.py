"""Run a network on other parameters than its own, and restore its own afterwards.

`torch.func.functional_call` leaves replaced tensors behind in modules that are registered under two names. Here each slot
of a module is visited once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def swap_state(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Replace parameters and buffers in a block. Tied tensors follow.

    Parameters
    ----------
    model : torch.nn.Module
    state : mapping of str to Tensor
        Tensors by the first name of a parameter or buffer, as in `netgraph.recording.recorder.named_state`.
    """
    replacements = {id(tensor): state[name] for name, tensor in _named_tensors(model) if name in state}
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in model.modules():
            for slots in (module._parameters, module._buffers):
                for key, tensor in list(slots.items()):
                    if tensor is not None and id(tensor) in replacements:
                        replaced.append((slots, key, tensor))
                        slots[key] = replacements[id(tensor)]  # type: ignore[assignment]
        yield model
    finally:
        for slots, key, tensor in replaced:
            slots[key] = tensor


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return parameters and buffers, each with its first name."""
    return [*model.named_parameters(), *model.named_buffers()]


def tie_shared_tensors(model: nn.Module) -> None:
    """Make one parameter, or one buffer, of those that hold the same numbers in memory.

    An exported program that is opened has a parameter for each name of a tied weight, over one storage.
    """
    first: dict[Any, Any] = {}
    for module in model.modules():
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                if tensor is not None and tensor.numel() and tensor.device.type != "meta":
                    place = (
                        tensor.data_ptr(),
                        tensor.device,
                        tensor.dtype,
                        tensor.shape,
                        tensor.stride(),
                        type(tensor),
                    )
                    slots[key] = first.setdefault(place, tensor)


def set_training_mode(model: nn.Module, *, training: bool) -> None:
    """Set a network to training or evaluation mode. An exported program has one fixed mode and keeps it."""
    with contextlib.suppress(NotImplementedError):
        model.train(training)
