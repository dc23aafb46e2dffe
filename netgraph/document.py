"""Graphs as JSON: a list of ``[name, operator, args, kwargs]``, operators by name from an allow-list."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from netgraph.errors import LoadError
from netgraph.tracing import rule_table

BUILTINS = {
    "getitem": operator.getitem,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "set_grad_enabled": torch._C._set_grad_enabled,
}
EXTRA = {"aten.sym_size"}
LIMIT = 2**40  # no dimension, and no product of sizes, of an honest network is larger


def graph_to(graph: fx.Graph) -> list[Any]:
    """Return a graph as data that JSON can hold."""
    return [
        [node.name, _operator_to(node), _to(node.args), _to(dict(node.kwargs))]
        for node in graph.nodes
        if not str(node.target).endswith("autocast")
    ]


def _operator_to(node: fx.Node) -> str:
    if node.op != "call_function":
        return f"{node.op}:{node.target}"
    for name, function in BUILTINS.items():
        if node.target is function:
            return f"builtin:{name}"
    return str(node.target)  # aten.conv2d.default


def _to(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_to(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _to(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_to(v) for v in (value.start, value.stop, value.step)]}
    for kind in (torch.dtype, torch.layout, torch.memory_format):
        if isinstance(value, kind):
            return {"torch": str(value).removeprefix("torch.")}
    if (isinstance(value, float) and value in (float("inf"), float("-inf"))) or value != value:
        return {"float": str(value)}
    return value


def graph_from(document: list[Any]) -> fx.Graph:
    """Return the graph of a document.

    Raises
    ------
    LoadError
        An operator is unknown or not on the list, or a size is absurd.
    """
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for name, what, args, kwargs in document:
        kind, _, target = what.partition(":")
        arguments, named = _from(args, nodes), _from(kwargs, nodes)
        if kind == "placeholder":
            nodes[name] = graph.placeholder(_identifier(target))
        elif kind == "get_attr":
            nodes[name] = graph.create_node("get_attr", target)
        elif kind == "output":
            graph.output(arguments[0])
        else:
            nodes[name] = graph.call_function(_function(what), tuple(arguments), named)
    return graph


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise LoadError(f"{name[:60]!r} is no name for an input; the file is damaged or was not written by netgraph")
    return name


def _function(what: str) -> Any:
    kind, _, name = what.partition(":")
    if kind == "builtin" and name in BUILTINS:
        return BUILTINS[name]
    parts = what.split(".")
    packet = getattr(getattr(torch.ops, parts[0], None), parts[1], None) if len(parts) == 3 else None
    overload = getattr(packet, parts[2], None) if packet is not None else None
    if overload is None or not _allowed(f"{parts[0]}.{parts[1]}", overload, rule_table()):
        raise LoadError(f"operator {what[:80]!r} is not one that netgraph has a rule for; the file is refused")
    return overload


def _allowed(name: str, overload: Any, table: dict[str, Any]) -> bool:
    return name in table or name in EXTRA or torch.Tag.pointwise in getattr(overload, "tags", ())


def _from(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_from(v, nodes) for v in value]
    if isinstance(value, int) and not isinstance(value, bool) and LIMIT < abs(value) < 2**62:
        raise LoadError(f"an operator asks for a size of {value}; the file is refused")
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "dict":
        return {k: _from(v, nodes) for k, v in content.items()}
    if kind == "slice":
        return slice(*(_from(v, nodes) for v in content))
    if kind == "float":
        return float(content)
    found = getattr(torch, content, None)
    if kind != "torch" or not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise LoadError(f"{content!r} is no dtype or layout; the file is refused")
    return found
