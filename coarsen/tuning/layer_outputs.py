"""The outputs of layers inside a forward pass, by the names of their weights, in recorded graphs and in own classes.

A network of another class has other modules, and the same names of weights. Calls are therefore found by the weight that they read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


class LayerOutputs(TorchFunctionMode):
    """Collects the outputs of layers within a block, with their units last.

    Parameters
    ----------
    network : torch.nn.Module
    names : collection of str
        Names of weights.

    Attributes
    ----------
    outputs : dict of str to list of Tensor
        For each weight the outputs of its calls, (rows, units).
    """

    def __init__(self, network: nn.Module, names: Collection[str]) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in network.named_parameters() if name in names}
        self.outputs: dict[str, list[Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function, and keep its output if it is a layer that was asked for."""
        result = func(*args, **(kwargs or {}))
        layer = getattr(func, "__name__", "").partition(".")[0]
        weight = args[1] if len(args) > 1 else (kwargs or {}).get("weight")
        if layer in LAYERS and id(weight) in self.names:
            units = result.movedim(-1 if layer == "linear" else 1, -1)
            self.outputs.setdefault(self.names[id(weight)], []).append(units.flatten(0, -2))
        return result
