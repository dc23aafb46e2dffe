"""Merging of ReLU units of unequal scale, by a transfer with weights.

The transfer applies to units that a positive factor passes through. For s > 0, relu(s x) = s relu(x). If the incoming weights and biases of units are multiples of one another, so are their outputs.
With s the length of the weights and bias of each unit, divided by the mean over its aggregate::

    P[i, a] = s_i        R = (P' P)^-1 P'        R P = I
    W_c = R_out W P_in                           incoming: the best multiple for all members, outgoing: added up by scale

Such units merge exactly, and so do dead units (s = 0). Plain averages are wrong for both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from netgraph.coarsen.network.rewrite import traced_state
from netgraph.coarsen.transfer.parameter_maps import inject, scale_units
from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.recording.graph_module import GraphNetwork
from netgraph.rules.operator_call import operator_name
from netgraph.rules.operators import LAYER_OVERLOADS, LAYERS, passes_positive_factor
from netgraph.tracing.layers import Layer, find_layers
from netgraph.tracing.unit_spec import UnitSpec, term_axes


def merge_relu_units(
    model: nn.Module, spec: UnitSpec, transfers: Mapping[str, Transfer], coarse: GraphNetwork
) -> dict[str, Tensor]:
    """Merge the units of ReLU axes in place, each weighted by the length of its weights.

    Other axes stay as they are.

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
    dict of str to Tensor
        By axis, the entries of P, (n,).
    """
    state, coarse_state = traced_state(model), coarse.tensors()
    makers = {axis: layer for axis, layer in find_scalable_axes(spec).items() if axis in transfers}
    entries = {axis: _compute_entries(layer, state, transfers[axis]) for axis, layer in makers.items()}
    factors = {axis: (_compute_shares(p, transfers[axis]), p) for axis, p in entries.items()}
    names = [n for n, terms in spec.parameters.items() if any(entries.keys() & {*term_axes(t)} for t in terms)]
    with torch.no_grad():
        weighted = scale_units(spec, factors, {name: state[name].double() for name in names})
        for name, tensor in inject(spec, transfers, weighted).items():
            coarse_state[name].copy_(tensor)
    return entries


def find_scalable_axes(spec: UnitSpec) -> dict[str, Layer]:
    """Return the axes whose units may have any positive scale, and the layer that makes each.

    One layer without a batch norm makes the units. All operators from there to the layers that add the units up let a positive
    factor pass, and no other parameter or buffer runs over the axis. A layer in front of a batch norm must not read the units:
    `netgraph.coarsen.repair.batch_norm` writes its weights.
    """
    layer_list = list(find_layers(spec))
    normed = {layer.weight for layer in layer_list if layer.norm is not None}
    makers: dict[str, Layer] = {}
    for layer in layer_list:
        if layer.norm is not None or spec.parameters[layer.weight][0] != (layer.axis,) or spec.axes[layer.axis].equal:
            continue
        readers = _find_readers(spec, layer.weight)
        if readers is None or readers & normed or any(not _adds_up(spec, name, layer.axis) for name in readers):
            continue
        names = {name for name, terms in spec.parameters.items() if any(layer.axis in term_axes(t) for t in terms)}
        if names == readers | {layer.weight} | ({layer.bias} if layer.bias else set()):
            makers[layer.axis] = layer
    return makers


def _adds_up(spec: UnitSpec, weight: str, axis: str) -> bool:
    """Return True if a weight adds up over an axis wherever it runs over it.

    The weight of a depthwise convolution does not.
    """
    dims = [dim for dim, term in enumerate(spec.parameters[weight]) if axis in term_axes(term)]
    return all(axis in spec.sums.get((weight, dim), frozenset()) for dim in dims)


def _find_readers(spec: UnitSpec, weight: str) -> set[str] | None:
    """Return the weights that read the output of a layer.

    None if a positive factor does not pass one of the operators between.
    """
    calls = (node for node in spec.plans["eval"].graph.nodes if node.target in LAYER_OVERLOADS)
    call = next(node for node in calls if _attribute_name(node.args[1]) == weight)
    readers, queue = set[str](), [call]
    while queue:
        node = queue.pop()
        for user in node.users:
            if passes_positive_factor(user) and user.args[0] is node and node not in user.args[1:]:
                queue.append(user)
                continue
            reader = _attribute_name(user.args[1]) if operator_name(user.target) in LAYERS else None
            if reader is None or user.args[0] is not node:
                return None
            readers.add(reader)
    return readers


def _attribute_name(value: object) -> str | None:
    """Return the name of the parameter that a node reads, or None."""
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def _compute_entries(layer: Layer, state: Mapping[str, Tensor], transfer: Transfer) -> Tensor:
    """Return the length of the weights and bias of each unit over the mean of its aggregate, (n,).

    The entries of an aggregate are 1 if all its weights are zero.
    """
    parts = [state[name].double() for name in (layer.weight, layer.bias) if name is not None]
    length = torch.linalg.vector_norm(torch.cat([part.reshape(len(part), -1) for part in parts], 1), dim=1)
    mean = transfer.copy(transfer.average(length, 0), 0)
    return torch.where(mean > 0, length / mean.clamp_min(1e-300), torch.ones_like(length))


def _compute_shares(p: Tensor, transfer: Transfer) -> Tensor:
    """Return the weight of each unit in a mean over its aggregate, (n,). The weighted mean applies R."""
    square = transfer.copy(transfer.average(p.square(), 0), 0)
    shares = p / square.clamp_min(1e-300)
    return torch.where(square > 0, shares, torch.zeros_like(p))  # zero for a unit that is left out
