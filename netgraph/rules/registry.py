"""The table of all rules: operator name to rule, with those of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import fx

from netgraph import plugins
from netgraph.environment.torch_internals import OpOverload, find_overloads
from netgraph.errors import NetgraphError, PluginError, TraceError, describe_error
from netgraph.rules.index_space import MisfitError
from netgraph.rules.operator_call import Call, Rule, operator_name, source_line
from netgraph.rules.pointwise import pointwise_rule

_ADDED: dict[str, Rule] = {}


@cache
def load_rules() -> dict[str, Rule]:
    """Return the rules of all installed families by operator name.

    Returns
    -------
    dict of str to callable
        The rule of ``aten.conv2d`` and so on. Families of other distributions override those of netgraph, and a later name an
        earlier one.
    """
    table: dict[str, Rule] = {}
    for family in sorted(plugins.list_plugins("netgraph.rules"), key=lambda name: (not _is_own(name), name)):
        table.update(plugins.load_plugin("netgraph.rules", family))
    return {**table, **_ADDED}


def _is_own(family: str) -> bool:
    """Return True if a family of rules is of this distribution."""
    return plugins.find_distribution("netgraph.rules", family) == plugins.DISTRIBUTION


def add_rules(table: Mapping[str, Rule]) -> None:
    """Add rules to those of the installed families, for this process. They come before those.

    Parameters
    ----------
    table : dict of str to callable
        Rules by operator name, such as ``{"mylib.swish": swish}``.

    Raises
    ------
    PluginError
        The table is not of this kind.
    """
    if not isinstance(table, Mapping) or not all("." in str(name) and callable(rule) for name, rule in table.items()):
        raise PluginError(
            f"a table of rules is a dict of operator names and functions, like {{'mylib.swish': swish}}, and not {str(table)[:60]}."
        )
    _ADDED.update(table)
    load_rules.cache_clear()


def import_rules(reference: str) -> None:
    """Add the table of rules that ``module:TABLE`` names.

    Raises
    ------
    PluginError
        There is no such module or table.
    """
    module, _, name = reference.partition(":")
    if not name:
        raise PluginError(
            f"--rules {reference} names no table. Give the module and the table, as in mylib.rules:RULES."
        )
    try:
        table = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"--rules {reference}: {error}. Give --code-dir if the module is in another folder."
        ) from error
    add_rules(table)


def find_operator_rule(target: Any) -> Rule | None:
    """Return the rule of an operator, or None. Operators that PyTorch tags as pointwise need no entry, in place or not."""
    rule = load_rules().get(operator_name(target))
    return pointwise_rule if rule is None and is_pointwise(target) else rule


def apply_rule(rule: Rule, call: Call) -> Any:
    """Return the spaces that a rule gives. One of the user or of another distribution may fail in any way, and is named.

    Raises
    ------
    TraceError
        The rule fails, or refuses.
    """
    try:
        return rule(call)
    except (NetgraphError, MisfitError):
        raise
    except Exception as error:
        if str(getattr(rule, "__module__", "")).startswith("netgraph."):
            raise  # a mistake of ours
        raise TraceError(
            f"{_describe_rule(rule, call.name)} fails{call.location()} ({describe_error(error)}). Repair it, or leave it out."
        ) from error


def _describe_rule(rule: Rule, operator: str) -> str:
    """Return a rule in words, with its distribution if it is a plug-in."""
    for family in plugins.list_plugins("netgraph.rules"):
        if rule in plugins.load_plugin("netgraph.rules", family).values():
            return f"rule {operator!r} of {plugins.find_distribution('netgraph.rules', family)}"
    return f"rule {operator!r}"


@cache
def is_pointwise(target: Any) -> bool:
    """Return True if PyTorch tags an operator, or the operator that it is the version in place of, as pointwise."""
    if not isinstance(target, OpOverload):
        return False
    return any(torch.Tag.pointwise in overload.tags for overload in find_overloads(target))


def find_rule(node: fx.Node) -> Rule:
    """Return the rule of a node's operator.

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
    rule = find_operator_rule(node.target)
    if rule is None:
        raise TraceError(
            f"operator {operator_name(node.target)} has no rule (called{source_line(node) or ' by the network'}, near parameter "
            f"{_nearest_parameter(node)}). Give one with --rules module:TABLE, or as a plug-in of the entry-point group "
            "netgraph.rules, as docs/tracing.md shows."
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
