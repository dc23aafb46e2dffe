"""Run a network on other parameters than its own, and restore its own afterwards.

`torch.func.functional_call` leaves replaced tensors behind in modules that are registered under two names. Here each slot
of a module is visited once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 3  # of containers in attributes that are searched for tensors
MANY = 1000  # entries of a container that is searched. Vocabularies have more.


@contextlib.contextmanager
def swap_state(
    model: nn.Module, state: Mapping[str, Tensor], named: Mapping[str, Tensor] | None = None
) -> Iterator[nn.Module]:
    """Replace parameters and buffers in a block. Tied tensors follow.

    Parameters
    ----------
    model : torch.nn.Module
    state : mapping of str to Tensor
        Tensors by the first name of a parameter or buffer, as in `netgraph.recording.recorder.named_state`.
    named : mapping of str to Tensor, optional
        The network's own parameters and buffers by these names, where the caller has them.
    """
    pairs = _named_tensors(model) if named is None else named.items()
    replacements = {id(tensor): state[name] for name, tensor in pairs if name in state}
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


def list_held_tensors(model: nn.Module) -> dict[str, tuple[Any, Any, Tensor]]:
    """Return the tensors that modules hold as plain attributes, or in lists, tuples, dicts and records of these.

    Returns
    -------
    dict of str to tuple
        By a name such as ``embeddings.table`` or ``tables[0]``: the container, the key in it, and the tensor.
    """
    held: dict[str, tuple[Any, Any, Tensor]] = {}
    for prefix, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in ("_parameters", "_buffers", "_modules"):
                name = f"{prefix}.{attribute}" if prefix else attribute
                held.update(_walk_held(name, vars(module), attribute, value, DEPTH))
    return held


def _walk_held(
    name: str, container: Any, key: Any, value: Any, depth: int
) -> Iterator[tuple[str, tuple[Any, Any, Tensor]]]:
    """Yield the tensors in a value, with their names, their containers and their keys in these."""
    if isinstance(value, Tensor):
        yield name, (container, key, value)
    elif depth and type(value) in (list, tuple, dict) and len(value) <= MANY:
        inside = TupleEntries(container, key) if type(value) is tuple else value
        for entry, part in list(value.items() if type(value) is dict else enumerate(value)):
            yield from _walk_held(f"{name}[{entry!r}]", inside, entry, part, depth - 1)
    elif depth and (type(value) is SimpleNamespace or (is_dataclass(value) and not isinstance(value, type))):
        for entry, part in list(getattr(value, "__dict__", {}).items()):
            yield from _walk_held(f"{name}.{entry}", vars(value), entry, part, depth - 1)


class TupleEntries:
    """The entries of a tuple that a container holds under a key. To set one replaces the tuple."""

    def __init__(self, container: Any, key: Any) -> None:
        self.container, self.key = container, key

    def __setitem__(self, index: int, value: Any) -> None:
        entries = list(self.container[self.key])
        entries[index] = value
        self.container[self.key] = tuple(entries)


def find_place(tensor: Tensor) -> tuple[Any, ...]:
    """Return where the numbers of a tensor lie in memory, and how."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and tensor.device.type != "meta"
    if not plain or not tensor.numel():
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


@contextlib.contextmanager
def swap_held_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Replace tensors that modules hold as plain attributes in a block, by the names of `list_held_tensors`.

    A tensor that is held in several places is replaced in all of them.
    """
    replaced = replace_held_tensors(model, tensors)
    try:
        yield model
    finally:
        for container, key, old in replaced:
            container[key] = old


def replace_held_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[Any, Any, Tensor]]:
    """Swap tensors as `swap_held_tensors` does, for good. Return the places with their former contents."""
    held = list_held_tensors(model) if tensors else {}
    places = {find_place(held[name][2]): tensor for name, tensor in tensors.items() if name in held}
    slots = [slot for slot in held.values() if find_place(slot[2]) in places]
    for container, key, old in slots:
        container[key] = places[find_place(old)]
    return slots


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


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a network in training or evaluation mode, and every module back in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    set_training_mode(model, training=training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
