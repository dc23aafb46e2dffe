"""Products with a weight as the linear layers that they are.

An addmm, and a matmul or mm with a parameter as its second factor, hold a weight of (in, out)::

    addmm(b, x, W)      = linear(x, W', b)         Conv1D of GPT-2, with x as rows: a view of (batch, ..., in)
    matmul(x, W) + b    = linear(x, W', b)         b has one number for each output, and nothing else reads it

A pause before such a call becomes one before the linear layer, on the input before it became rows. W' is a view: what is written to it is
written to the weight. Products without a weight, such as those of attention, are no layers, and no pause is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from netgraph.recording.graph_module import GraphNetwork
from netgraph.recording.interpreter import CallSite
from netgraph.rules.operator_call import operator_name
from netgraph.rules.operators import LAYER_OVERLOADS, LINEAR
from netgraph.tracing.unit_spec import UnitSpec

ATEN = torch.ops.aten
Names = tuple[str | None, ...]


class Operands(NamedTuple):
    """Where a product has its input, weight and bias."""

    input: int
    weight: int
    bias: int | None


PRODUCTS: dict[Callable[..., Any], Operands] = {
    ATEN.addmm.default: Operands(1, 2, 0),
    ATEN.mm.default: Operands(0, 1, None),
    ATEN.matmul.default: Operands(0, 1, None),
}
FITTED = (*LAYER_OVERLOADS, *PRODUCTS)  # operators with a fit


def find_transposed_weights(spec: UnitSpec) -> set[str]:
    """Return the names of the weights of (in, out): those of products."""
    calls = [node for node in spec.plans["eval"].graph.nodes if node.target in PRODUCTS]
    weights = [node.args[PRODUCTS[node.target].weight] for node in calls]
    return {str(weight.target) for weight in weights if isinstance(weight, fx.Node) and weight.op == "get_attr"}


def name_weight(function: Callable[..., Any], names: Names) -> str | None:
    """Return the name of the weight of a recorded call of `FITTED`, if no other call reads it."""
    return names[PRODUCTS[function].weight if function in PRODUCTS else 1]


def is_layer(function: Callable[..., Any], names: Names) -> bool:
    """Return False for a product without a weight as its second factor that it alone reads."""
    return function not in PRODUCTS or name_weight(function, names) is not None


def walk_layers(network: GraphNetwork, batches: Sequence[Any], stops: Sequence[Any]) -> Iterator[CallSite]:
    """Yield the pauses of a walk before layers, with products in the form of linear layers."""
    for stop in network.walk(batches, stops):
        if is_layer(stop.function, stop.names):
            yield _as_linear(stop)


def name_layers(network: GraphNetwork, stops: Sequence[Any]) -> list[tuple[Callable[..., Any], Names]]:
    """Return operator and names of every pause of `walk_layers`, without a run."""
    return [stop for stop in network.steps("eval").name_stops(stops) if is_layer(*stop)]


def find_product_obstacle(stop: CallSite) -> str | None:
    """Return the reason why a pause is not before a layer that can be fitted, or None."""
    if stop.function not in PRODUCTS:
        return None
    scaled = [f"{name} = {value}" for name, value in stop.keywords[0].items() if value != 1]
    if scaled:
        return f"{operator_name(stop.function)} with {' and '.join(scaled)} has no fit"
    weight = stop.arguments[0][PRODUCTS[stop.function].weight]
    if weight.ndim != 2:
        return f"a product with a weight of {weight.ndim} dimensions has no fit"
    return None if isinstance(weight, nn.Parameter) else "it is no parameter"


def _as_linear(stop: CallSite) -> CallSite:
    """Return the pause before the linear layer that a product is. Other pauses, and products with an obstacle, stay as they are."""
    if stop.function in PRODUCTS and find_product_obstacle(stop) is None:
        places = [i for i in PRODUCTS[stop.function] if i is not None]
        arguments = []
        for values in stop.arguments:
            x, weight, *bias = (values[i] for i in places)
            arguments.append([x, weight.t(), *bias])
        stop = replace(stop, function=LINEAR, arguments=arguments, names=tuple(stop.names[i] for i in places))
    return _join_followers(stop) if stop.function is LINEAR else stop


def _join_followers(stop: CallSite) -> CallSite:
    """Return a pause before a linear layer together with the reshape and the shift of its result."""
    if stop.result_sizes is None or stop.arguments[0][0].ndim != 2:
        return _take_shift(stop)
    arguments = []
    for (x, weight, *rest), sizes in zip(stop.arguments, stop.result_sizes, strict=True):
        lead = _find_lead(len(x), len(weight), sizes)
        if lead is None:
            return stop
        arguments.append([x.reshape(*lead, x.shape[1]), weight, *rest])
    return _take_shift(replace(stop, arguments=arguments))


def _find_lead(n: int, out: int, sizes: Sequence[int]) -> list[int] | None:
    """Return the dimensions before the last to which n rows of outputs are reshaped, or None where the outputs come apart."""
    *lead, last = sizes
    count = math.prod(lead)
    whole = last in (out, -1) and (n % -count == 0 if count < 0 else count == n)
    return lead if whole else None


def _take_shift(stop: CallSite) -> CallSite:
    """Return a pause with the parameter that is added to the result as the bias, if there is none."""
    if stop.shift is None or any(value is not None for value in stop.arguments[0][2:]):
        return stop
    name, bias = stop.shift
    if not isinstance(bias, nn.Parameter) or bias.shape != stop.arguments[0][1].shape[:1]:
        return stop
    arguments = [[x, weight, bias] for x, weight, *_ in stop.arguments]
    return replace(stop, arguments=arguments, names=(*stop.names[:2], name))
