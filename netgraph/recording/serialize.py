"""Serialize graphs as JSON: a list of ``[name, operator, args, kwargs]``. `netgraph.recording.interpreter` runs them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from netgraph.environment.torch_internals import set_gradients
from netgraph.recording.forward import autocast
from netgraph.recording.forward.cumulative_norm import cumulative_factor
from netgraph.recording.forward.followed_dtype import Followed
from netgraph.recording.operators.guards import check_decision

BUILTINS = {
    "getitem": operator.getitem,
    "mul": operator.mul,
    "add": operator.add,
    "floordiv": operator.floordiv,
    "set_grad_enabled": set_gradients,
    "check_decision": check_decision,
    "cumulative_factor": cumulative_factor,
}

NEW_BUILTINS = frozenset(
    {"builtin:add", "builtin:check_decision", "builtin:cumulative_factor"}
)  # operators that only documents of format 2 hold


def serialize_graph(graph: fx.Graph) -> list[Any]:
    """Return a graph as JSON data."""
    return [
        [node.name, _serialize_operator(node), _serialize_value(node.args), _serialize_value(dict(node.kwargs))]
        for node in graph.nodes
    ]


def _serialize_operator(node: fx.Node) -> str:
    """Return the name under which the interpreter finds the operator of a node."""
    if node.op != "call_function":
        return f"{node.op}:{node.target}"
    if (region := autocast.name_operator(node)) is not None:
        return region
    for name, function in BUILTINS.items():
        if node.target is function:
            return f"builtin:{name}"
    return str(node.target)  # aten.conv2d.default


def _serialize_value(value: Any) -> Any:
    """Return an argument as JSON data. Anything that JSON lacks becomes a dict with one key for its kind."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_serialize_value(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _serialize_value(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_serialize_value(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, Followed):
        return value.to_data()
    for kind in (torch.dtype, torch.layout, torch.memory_format):
        if isinstance(value, kind):
            return {"torch": str(value).removeprefix("torch.")}
    if (isinstance(value, float) and value in (float("inf"), float("-inf"))) or value != value:
        return {"float": str(value)}
    return value
