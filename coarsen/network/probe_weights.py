"""Weights on which a wrong coarse network shows and roundoff does not.

Networks that are not trained have zero heads, layer scales of 1e-6, and weights so small that biases dominate. A wrong coarse
network would look right on these. Initial running statistics are worse. If the signal of a deep network grows from layer to
layer, every gate saturates, and roundoff in single precision alone changes outputs by a tenth.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from netgraph.coarsen.network.rewrite import traced_state
from netgraph.utils.module_state import swap_state
from netgraph.utils.pytree import normalize_example
from netgraph.utils.seeds import make_generator

STATISTICS = ("running_mean", "running_var")


def probe_state(model: nn.Module, example: Any, seed: int) -> dict[str, Tensor]:
    """Return the parameters of a network, random where they are constant and larger where they are small.

    Weights are scaled to keep the size of a layer's input. Running statistics that training has not set become those of the
    example.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    example : object
        Inputs as the network takes them.
    seed : int

    Returns
    -------
    dict of str to Tensor
        With the names of `netgraph.coarsen.network.rewrite.traced_state`.
    """
    generator = make_generator(seed)
    state = traced_state(model)
    trained = {name for name, _ in model.named_parameters()}
    untrained = set()
    for name, tensor in state.items():
        statistic = name.endswith(STATISTICS)
        if (name in trained or statistic) and tensor.is_floating_point() and _is_uninformative(tensor):
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            untrained |= {name.rpartition(".")[0]} if statistic else set()
            scale = 0.2 if tensor.ndim < 2 else min(0.2, (tensor[0].numel()) ** -0.5)
            state[name] = (
                1 + 0.1 * noise.clamp(-3, 3) if name.endswith("running_var") else tensor.mean() + scale * noise
            )
        elif name in trained and tensor.is_floating_point() and tensor.ndim > 1:
            state[name] = tensor * _compute_gain(tensor)
    return state | _estimate_statistics(model, example, state, untrained) if untrained else state


def _estimate_statistics(
    model: nn.Module, example: Any, state: Mapping[str, Tensor], modules: Container[str]
) -> dict[str, Tensor]:
    """Return the running statistics of the named modules on the example, estimated layer after layer."""
    layers = [m for name, m in model.named_modules() if name in modules and isinstance(m, _NormBase)]
    statistics = {n: t.clone() for n, t in state.items() if n.rpartition(".")[0] in modules and n.endswith(STATISTICS)}
    hooks = [layer.register_forward_pre_hook(_set_statistics) for layer in layers]
    args, kwargs = normalize_example(example)
    try:
        with torch.no_grad(), swap_state(model, {**state, **statistics}):
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return statistics


def _set_statistics(layer: _NormBase, inputs: tuple[Any, ...]) -> None:
    """Set the mean and variance of a norm to those of its input.

    The variance of a channel is at least a tenth of the mean variance.
    """
    (x,) = inputs
    variance, mean = torch.var_mean(x.double(), [d for d in range(x.ndim) if d != 1], correction=0)
    minimum = 0.1 * variance.mean()
    buffers = layer._buffers["running_mean"], layer._buffers["running_var"]
    if bool(torch.isfinite(variance).all()) and bool(minimum > 0):
        for buffer, value in zip(buffers, (mean, variance.clamp_min(minimum)), strict=True):
            if buffer is not None:
                buffer.copy_(value)


def _compute_gain(tensor: Tensor) -> float:
    """Return the factor that brings the standard deviation to 1 / sqrt(fan in). It is at least one."""
    deviation = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
    return max(1.0, tensor[0].numel() ** -0.5 / deviation) if deviation > 0 else 1.0


def _is_uninformative(tensor: Tensor) -> bool:
    """Return True if all entries are equal or nearly zero."""
    return tensor.numel() > 0 and (bool((tensor == tensor.flatten()[0]).all()) or float(tensor.abs().max()) < 1e-3)
