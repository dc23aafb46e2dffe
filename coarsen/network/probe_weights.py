"""Numbers on which a wrong coarse network shows, and roundoff does not.

Fresh networks have zero heads, layer scales of 1e-6 and weights so small that biases drown them; behind all of these a
wrong coarse network would look right. Fresh running statistics are worse than wrong: where a deep network's signal
grows from layer to layer it saturates every gate, and then single-precision roundoff alone changes outputs by a tenth.
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

STATISTICS = ("running_mean", "running_var")


def probe_state(model: nn.Module, example: Any, seed: int) -> dict[str, Tensor]:
    """Return the network's parameters, random where they are constant, and larger where they are small.

    Weights are scaled so that a layer keeps the size of its input, and running statistics that no training has set
    become those of the example.

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
        As `netgraph.coarsen.network.rewrite.traced_state` names them.
    """
    generator = torch.Generator().manual_seed(seed)
    state = traced_state(model)
    trained = {name for name, _ in model.named_parameters()}
    fresh = set()
    for name, tensor in state.items():
        statistic = name.endswith(STATISTICS)
        if (name in trained or statistic) and tensor.is_floating_point() and _is_uninformative(tensor):
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            fresh |= {name.rpartition(".")[0]} if statistic else set()
            scale = 0.2 if tensor.ndim < 2 else min(0.2, (tensor[0].numel()) ** -0.5)
            state[name] = (
                1 + 0.1 * noise.clamp(-3, 3) if name.endswith("running_var") else tensor.mean() + scale * noise
            )
        elif name in trained and tensor.is_floating_point() and tensor.ndim > 1:
            state[name] = tensor * _compute_gain(tensor)
    return state | _estimate_statistics(model, example, state, fresh) if fresh else state


def _estimate_statistics(
    model: nn.Module, example: Any, state: Mapping[str, Tensor], fresh: Container[str]
) -> dict[str, Tensor]:
    """Return running statistics that are those of the example, layer after layer, of the modules named."""
    layers = [m for name, m in model.named_modules() if name in fresh and isinstance(m, _NormBase)]
    settled = {n: t.clone() for n, t in state.items() if n.rpartition(".")[0] in fresh and n.endswith(STATISTICS)}
    hooks = [layer.register_forward_pre_hook(_set_statistics) for layer in layers]
    args, kwargs = normalize_example(example)
    try:
        with torch.no_grad(), swap_state(model, {**state, **settled}):
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return settled


def _set_statistics(layer: _NormBase, inputs: tuple[Any, ...]) -> None:
    """Give a normalisation the mean and the variance of its input, a tenth of the mean variance at least."""
    (x,) = inputs
    variance, mean = torch.var_mean(x.double(), [d for d in range(x.ndim) if d != 1], correction=0)
    least = 0.1 * variance.mean()
    slots = layer._buffers["running_mean"], layer._buffers["running_var"]
    if bool(torch.isfinite(variance).all()) and bool(least > 0):
        for slot, value in zip(slots, (mean, variance.clamp_min(least)), strict=True):
            if slot is not None:
                slot.copy_(value)


def _compute_gain(tensor: Tensor) -> float:
    """Return what brings the entries' spread to 1 / sqrt(fan in), never below one."""
    spread = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
    return max(1.0, tensor[0].numel() ** -0.5 / spread) if spread > 0 else 1.0


def _is_uninformative(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and (bool((tensor == tensor.flatten()[0]).all()) or float(tensor.abs().max()) < 1e-3)
