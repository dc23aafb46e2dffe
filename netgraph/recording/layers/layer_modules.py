"""Layers of PyTorch for a recorded network: built for the tensors that it has, and put on their paths."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from netgraph.recording.layers.layer_operators import LayerUse

logger = logging.getLogger(__name__)


class NameGroup(nn.Module):
    """The tensors and layers whose names begin alike. No step of the graph calls it, so a hook on it never runs."""

    def _warn_of_hook(self) -> None:
        logger.warning(
            "a hook was registered on a module that only groups names of a recorded network (%s). Its graph calls layers and no groups, so the "
            "hook never runs. Register it on a layer, or on the whole network.",
            ", ".join([*self._modules, *self._parameters, *self._buffers][:3]) or "it is empty",
        )

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, and warn that it never runs."""
        self._warn_of_hook()
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, and warn that it never runs."""
        self._warn_of_hook()
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, and warn that it never runs."""
        self._warn_of_hook()
        return super().register_full_backward_hook(*args, **kwargs)

    def register_full_backward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, and warn that it never runs."""
        self._warn_of_hook()
        return super().register_full_backward_pre_hook(*args, **kwargs)


def build_layer(use: LayerUse, held: Mapping[str, Tensor]) -> nn.Module | None:
    """Return a layer without numbers for what a step computes.

    Parameters
    ----------
    use : LayerUse
    held : dict of str to Tensor
        All tensors on the path of the layer, by the rest of their names.

    Returns
    -------
    Module or None
        On the meta device. None if a layer of these options cannot be, or has other tensors than those.
    """
    kind: Any = use.kind
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout in one layer of an LSTM, which the network's own said already
            module = _leave_out_numbers(kind)(**use.options, device="meta")
    except (ValueError, TypeError, RuntimeError):  # such as groups that do not divide the channels of a damaged file
        return None
    module.__class__ = kind
    own = {name: t for part in (module._parameters, module._buffers) for name, t in part.items() if t is not None}
    alike = own.keys() == held.keys() and all(
        held[name].shape == tensor.shape and isinstance(held[name], nn.Parameter) == isinstance(tensor, nn.Parameter)
        for name, tensor in own.items()
    )
    return module if alike else None


@cache
def _leave_out_numbers(kind: Any) -> Any:
    """Return a subclass of a layer that makes no first numbers, which takes most of the time of making one."""
    return type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})


def place_layer(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put a layer on its path. It takes the tensors of the group that stood there, in their order."""
    parent, _, name = path.rpartition(".")
    group = network.get_submodule(path)
    for slots, held in ((module._parameters, group._parameters), (module._buffers, group._buffers)):
        empty = [key for key, tensor in slots.items() if tensor is None]
        slots.clear()
        for key, tensor in held.items():
            slots[key] = None
            setattr(module, key, tensor)  # LSTM keeps its weights in a list, too
        slots.update(dict.fromkeys(empty))
    module.training = group.training
    network.get_submodule(parent)._modules[name] = module


def place_tensor(network: nn.Module, name: str, value: Any) -> None:
    """Register a parameter or buffer under a dotted name and create the groups on its path."""
    *path, last = name.split(".")
    for part in path:
        if part not in network._modules:
            network.add_module(part, NameGroup())
        network = network._modules[part]  # type: ignore[assignment]  # never None: it is made above
    if isinstance(value, nn.Parameter):
        network.register_parameter(last, value)
    else:
        network.register_buffer(last, value)
