"""Run a network on other parameters than its own, and give it back its own.

`torch.func.functional_call` leaves its stand-ins behind in modules that are registered under two names; here each
module's slot is visited once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def swap_state(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Put tensors in the place of parameters and buffers by first name; ties follow.

    Parameters
    ----------
    model : torch.nn.Module
    state : dict of str to Tensor
        As `netgraph.recording.recorder.named_state` names them.
    """
    stand_in = {id(tensor): state[name] for name, tensor in _named_tensors(model) if name in state}
    taken: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in model.modules():
            for slots in (module._parameters, module._buffers):
                for key, own in list(slots.items()):
                    if own is not None and id(own) in stand_in:
                        taken.append((slots, key, own))
                        slots[key] = stand_in[id(own)]  # type: ignore[assignment]
        yield model
    finally:
        for slots, key, own in taken:
            slots[key] = own


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def set_training_mode(model: nn.Module, *, training: bool) -> None:
    """Put a network in training or evaluation mode; an exported program has one mode and stays in it."""
    with contextlib.suppress(NotImplementedError):
        model.train(training)
