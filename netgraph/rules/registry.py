"""The rule of each operator, ours and those of plug-ins."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import fx

from netgraph import plugins
from netgraph.errors import TraceError
from netgraph.rules.operator_call import operator_name, source_line
from netgraph.rules.pointwise import pointwise_rule


@cache
def load_rules() -> dict[str, Any]:
    """Return every operator's rule by name, from all families that are installed."""
    table: dict[str, Any] = {}
    for family in plugins.list_plugins("netgraph.rules"):
        table.update(plugins.load_plugin("netgraph.rules", family))
    return table


def find_rule(node: fx.Node) -> Any:
    """Return the rule of a node's operator.

    Raises
    ------
    TraceError
        There is none.
    """
    name = operator_name(node.target)
    rule = load_rules().get(name)
    if rule is None and isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        return pointwise_rule
    if rule is None:
        raise TraceError(
            f"operator {name} has no rule (called{source_line(node) or ' by the network'}, near parameter "
            f"{_nearest_parameter(node)}); add one to the entry-point group netgraph.rules, as docs/tracing.md shows"
        )
    return rule


def _nearest_parameter(node: fx.Node) -> str:
    """Return the parameter read last before a node: the way to its module."""
    seen = "none"
    for earlier in node.graph.nodes:
        if earlier is node:
            break
        if earlier.op == "call_function":
            seen = next((str(n.target) for n in earlier.all_input_nodes if n.op == "get_attr"), seen)
    return seen
