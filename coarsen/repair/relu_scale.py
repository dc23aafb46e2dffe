"""Merging ReLU units whatever their scale: a transfer with weights, for units of which a positive factor passes through.

For s > 0, relu(s x) = s relu(x): units whose incoming weights and biases are multiples of one another answer multiples of one
answer. With s the length of each unit's weights and bias, over its mean in the aggregate::

    P[i, a] = s_i        R = (P' P)^-1 P'        R P = I
    W_c = R_out W P_in                           incoming: the best multiple for all members; outgoing: added up by scale

Such units merge exactly, and so do units that are dead (s = 0); plain averages are wrong about both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, scale_units
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.graph_module import GraphNetwork
from netgraph.rules.operators import ATEN, LAYERS
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec, term_axes

FIRST = {  # what takes s x to s y for s > 0, its first argument being x
    ATEN.relu.default, ATEN.relu_.default, ATEN.leaky_relu.default, ATEN.leaky_relu_.default, ATEN.dropout.default,
    ATEN.dropout_.default, ATEN.feature_dropout.default, ATEN.max_pool1d.default, ATEN.max_pool2d.default, ATEN.max_pool3d.default,
    ATEN.avg_pool1d.default, ATEN.avg_pool2d.default, ATEN.avg_pool3d.default, ATEN.adaptive_avg_pool1d.default,
    ATEN.adaptive_avg_pool2d.default, ATEN.adaptive_avg_pool3d.default, ATEN.flatten.using_ints, ATEN.view.default,
    ATEN.reshape.default, ATEN.contiguous.default, ATEN.clone.default, ATEN.mean.dim, ATEN.permute.default, ATEN.transpose.int,
}  # fmt: skip


def merge_relu_units(
    model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], coarse: GraphNetwork
) -> dict[str, Tensor]:
    """Merge the units of each axis that scales pass through by the weighted transfer, in place; others stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
        The fine network.
    spec : UnitSpec
        Of it.
    transfers : dict of str to Transfer
    coarse : GraphNetwork

    Returns
    -------
    dict of str to Tensor
        By axis, the entries of P, (n,).
    """
    state, small = traced_state(model), coarse.tensors()
    entries = {
        a: _compute_entries(made, state, transfers[a]) for a, made in find_scalable_axes(spec).items() if a in transfers
    }
    factors = {axis: (_compute_shares(p, transfers[axis]), p) for axis, p in entries.items()}
    over = [n for n, terms in spec.parameters.items() if any(entries.keys() & {*term_axes(t)} for t in terms)]
    with torch.no_grad():
        weighted = scale_units(spec, factors, {name: state[name].double() for name in over})
        for name, tensor in inject(spec, transfers, weighted).items():
            small[name].copy_(tensor)
    return entries


def find_scalable_axes(spec: UnitSpec) -> dict[str, Layer]:
    """Return the axes whose units may have any positive scale, and the layer that makes each.

    One layer without a batch norm makes the units; from there to the layers that add them up is nothing but what a
    positive factor passes through, and no parameter or buffer else runs over the axis. Layers in front of a batch norm
    read none of them: `netgraph.coarsen.repair.batch_norm` writes their weights.
    """
    found = list(find_layers(spec))
    normed = {layer.weight for layer in found if layer.norm is not None}
    makers: dict[str, Layer] = {}
    for layer in found:
        if layer.norm is not None or spec.parameters[layer.weight][0] != (layer.axis,) or spec.axes[layer.axis].equal:
            continue
        reading = _find_readers(spec, layer.weight)
        if reading is None or reading & normed or any(not _adds_up(spec, name, layer.axis) for name in reading):
            continue
        over = {name for name, terms in spec.parameters.items() if any(layer.axis in term_axes(t) for t in terms)}
        if over == reading | {layer.weight} | ({layer.bias} if layer.bias else set()):
            makers[layer.axis] = layer
    return makers


def _adds_up(spec: UnitSpec, weight: str, axis: str) -> bool:
    """Whether a weight runs over an axis where it adds up only: that of a depthwise convolution does not."""
    dims = [dim for dim, term in enumerate(spec.parameters[weight]) if axis in term_axes(term)]
    return all(axis in spec.sums.get((weight, dim), frozenset()) for dim in dims)


def _find_readers(spec: UnitSpec, weight: str) -> set[str] | None:
    """Return the weights that read what a layer makes; None where something stands between that scales do not pass."""
    made = next(
        n for n in spec.plans["eval"].graph.nodes if n.target in LAYERS and _attribute_name(n.args[1]) == weight
    )
    out, waiting = set[str](), [made]
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if user.target in FIRST and user.args[0] is node and node not in user.args[1:]:
                waiting.append(user)
            elif user.target in LAYERS and user.args[0] is node and _attribute_name(user.args[1]) is not None:
                out.add(str(_attribute_name(user.args[1])))
            else:
                return None
    return out


def _attribute_name(value: object) -> str | None:
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def _compute_entries(layer: Layer, state: Mapping[str, Tensor], transfer: Transfer) -> Tensor:
    """Return the length of each unit's weights and bias over the mean of its aggregate, (n,); 1 where all are zero."""
    parts = [state[name].double() for name in (layer.weight, layer.bias) if name is not None]
    length = torch.linalg.vector_norm(torch.cat([part.reshape(len(part), -1) for part in parts], 1), dim=1)
    mean = transfer.copy(transfer.average(length, 0), 0)
    return torch.where(mean > 0, length / mean.clamp_min(1e-300), torch.ones_like(length))


def _compute_shares(p: Tensor, transfer: Transfer) -> Tensor:
    """Return what each unit counts in a mean over its aggregate so that the mean applies R, (n,)."""
    square = transfer.copy(transfer.average(p.square(), 0), 0)
    return torch.where(square > 0, p / square.clamp_min(1e-300), torch.zeros_like(p))  # zero where a unit is left out
