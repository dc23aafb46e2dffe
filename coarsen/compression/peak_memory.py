"""The peak of the memory that the tensors of a forward pass hold, parameters included.

On a GPU the allocator counts. On a CPU every storage that an operator returns is followed until it is freed. Scratch memory inside
an operator is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from netgraph.environment.torch_internals import TensorMode
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.pytree import normalize_example


class StorageTracker(TensorMode):  # type: ignore[misc]  # a private class of torch
    """Counts the bytes of live storages that operators return, while it is entered as a context."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()
        self.finalizers: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.follow(tensor)
        return result

    def follow(self, tensor: Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        size = storage.nbytes()
        self.known.add(storage)
        self.finalizers.append(weakref.finalize(storage, self._free, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def forget(self) -> None:
        """Follow no storage any more: those of parameters live longer than a measurement."""
        for finalizer in self.finalizers:
            finalizer.detach()

    def _free(self, size: int) -> None:
        self.live -= size


def measure_peak_memory(network: nn.Module, example: Any) -> int:
    """Return the most bytes that tensors hold during a forward pass in evaluation mode, without gradients.

    Parameters
    ----------
    network : torch.nn.Module
    example : Tensor, tuple or dict

    Returns
    -------
    int
        Bytes of parameters, buffers, inputs and living results.
    """
    args, kwargs = normalize_example(example)
    training = network.training
    set_training_mode(network, training=False)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                network(*args, **kwargs)
                return int(torch.cuda.max_memory_allocated(device))
            tracker = StorageTracker()
            for tensor in _pytree.tree_leaves((args, kwargs, list(network.parameters()), list(network.buffers()))):
                if isinstance(tensor, Tensor):
                    tracker.follow(tensor)
            try:
                with tracker:
                    network(*args, **kwargs)
            finally:
                tracker.forget()
            return tracker.peak
    finally:
        set_training_mode(network, training=training)


def count_bytes(network: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of a network, shared ones once: those of a file with its weights."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in [*network.parameters(), *network.buffers()]
    }
    return sum(storages.values())
