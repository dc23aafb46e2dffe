"""Stop the construction of a network that grows beyond the free memory, while it grows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from netgraph.environment import memory
from netgraph.errors import LoadError

MOST_TENSORS = 2**15  # of a network by name. The largest networks in use have some thousands.


@contextmanager
def limit_size(source: str, *, most: int | None = None, on_meta: bool = False) -> Iterator[None]:
    """Refuse a network in a block once its tensors need more memory than was free before.

    A new tensor has its memory, and PyTorch has not written to it yet when a module registers it. So none is taken from the machine.

    Parameters
    ----------
    source : str
        What asks for the network, as the subject of the message.
    most : int, optional
        Largest number of tensors.
    on_meta : bool, default=False
        Count the tensors without memory, in the place of those with some.

    Raises
    ------
    LoadError
    """
    free, n_bytes, n_tensors, taken = memory.measure_free_memory(), 0, 0, set[int]()

    def measure(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal n_bytes, n_tensors
        if tensor is not None and tensor.is_meta != on_meta:
            return
        n_tensors += 1
        if tensor is not None and id(tensor) not in taken:
            taken.add(id(tensor))
            n_bytes += tensor.numel() * tensor.element_size()
            memory.check_memory(n_bytes, source, free=free)
        if most is not None and n_tensors > most:
            raise LoadError(
                f"{source} asks for a network of more than {most:,} tensors. Give smaller numbers for its parts."
            )

    hooks: list[Any] = [
        register_module_parameter_registration_hook(measure),
        register_module_buffer_registration_hook(measure),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
