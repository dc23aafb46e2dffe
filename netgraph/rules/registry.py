"""The table of all rules: operator name to rule, with those of plug-ins."""

from __future__ import annotations

from functools import cache

import torch
from torch import fx

from netgraph import plugins
from netgraph.errors import TraceError
from netgraph.rules.operator_call import Rule, operator_name, source_line
from netgraph.rules.pointwise import pointwise_rule


@cache
def load_rules() -> dict[str, Rule]:
    """Return the rules of all installed families by operator name.

    Returns
    -------
    dict of str to callable
        The rule of ``aten.conv2d`` and so on. A later family overrides an earlier one, in the order of their names.
    """
    table: dict[str, Rule] = {}
    for family in plugins.list_plugins("netgraph.rules"):
        table.update(plugins.load_plugin("netgraph.rules", family))
    return table


def find_rule(node: fx.Node) -> Rule:
    """Return the rule of a node's operator. Operators that PyTorch tags as pointwise need no entry.

    Parameters
    ----------
    node : torch.fx.Node
        A call of an operator in a recorded graph.

    Returns
    -------
    callable
        ``(call) -> spaces``.

    Raises
    ------
    TraceError
        The operator has no rule.
    """
    name = operator_name(node.target)
    rule = load_rules().get(name)
    if rule is None and isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        return pointwise_rule
    if rule is None:
        raise TraceError(
            f"operator {name} has no rule (called{source_line(node) or ' by the network'}, near parameter "
            f"{_nearest_parameter(node)}). Add one to the entry-point group netgraph.rules, as docs/tracing.md shows."
        )
    return rule


def _nearest_parameter(node: fx.Node) -> str:
    """Return the last parameter that is read before a node, as a hint to its module."""
    parameter = "none"
    for earlier in node.graph.nodes:
        if earlier is node:
            break
        if earlier.op == "call_function":
            parameter = next((str(n.target) for n in earlier.all_input_nodes if n.op == "get_attr"), parameter)
    return parameter
