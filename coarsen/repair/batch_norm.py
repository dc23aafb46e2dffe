"""Merging of a layer in the scale of the batch norm that follows it. The norm undoes the scale of raw weights.

Layer and norm are one affine map, with the gain g = scale / sqrt(variance + eps) (Jacob et al., CVPR 2018, section 3.2)::

    F   = g W,            c   = shift + g (bias - mean)          fine
    F_c = R_out F P_in,   c_c = R c                              coarse: their averages
    W_c = F_c / g_c,      mean_c = bias_c - (c_c - shift_c) / g_c

The coarse norm keeps its averaged variance and shift. Its scale is the root mean square of the scales of its members, with the
sign of their sum. Wang et al., "Forget the data and fine-tuning! Just fold the network to compress", ICLR 2025, merge in this way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.graph_module import GraphNetwork
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec

Gains = dict[str, tuple[Tensor, Tensor]]


def merge_with_norms(
    model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], coarse: GraphNetwork
) -> Gains:
    """Merge each layer together with the batch norm that follows it, in place. Other layers stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
        The fine network.
    spec : UnitSpec
        Of ``model``.
    transfers : dict of str to Transfer
    coarse : GraphNetwork

    Returns
    -------
    dict of str to (Tensor, Tensor)
        By weight, the gains of the fine norm (n,) and of the coarse norm (k,).
    """
    state, coarse_state, gains = traced_state(model), coarse.tensors(), dict[str, tuple[Tensor, Tensor]]()
    with torch.no_grad():
        for layer in find_layers(spec):
            if layer.norm is not None and layer.axis in transfers:
                gains[layer.weight] = _merge_layer(layer, spec, transfers, state, coarse_state)
    return gains


def _merge_layer(
    layer: Layer,
    spec: UnitSpec,
    transfers: Mapping[str, Transfer],
    state: Mapping[str, Tensor],
    coarse_state: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Merge one layer and its norm.

    The weight, scale and mean of the coarse network are written. The gains of the fine and the coarse norm are returned.
    """
    assert layer.norm is not None
    transfer = transfers[layer.axis]
    scale, shift, mean, variance = (state[name].double() for name in layer.norm)
    gain = scale / (variance + layer.eps).sqrt()
    signs = torch.where(transfer.total(scale, 0) < 0, -1.0, 1.0)
    scale_c = signs * transfer.average(scale.square(), 0).sqrt()
    gain_c = scale_c / (coarse_state[layer.norm[3]].double() + layer.eps).sqrt()
    gain_c = torch.where(
        gain_c.abs() > 1e-9, gain_c, torch.ones_like(gain_c)
    )  # the output of a dead norm does not depend on its input
    bias = state[layer.bias].double() if layer.bias is not None else torch.zeros_like(shift)
    bias_c = coarse_state[layer.bias].double() if layer.bias is not None else torch.zeros_like(scale_c)
    constant = transfer.average(shift + gain * (bias - mean), 0)
    coarse_state[layer.norm[0]].copy_(scale_c)
    coarse_state[layer.norm[2]].copy_(bias_c - (constant - coarse_state[layer.norm[1]].double()) / gain_c)
    weight = state[layer.weight].double()
    merged = inject(spec, transfers, {layer.weight: multiply_rows(gain, weight)})[layer.weight]
    coarse_state[layer.weight].copy_(multiply_rows(1 / gain_c, merged))
    return gain, gain_c


def multiply_rows(gain: Tensor, weight: Tensor) -> Tensor:
    """Multiply each row of a weight (n, ...) by the gain of its unit, (n,)."""
    return weight * gain.to(weight).reshape(-1, *[1] * (weight.ndim - 1))
