"""The table of all rules: operator name to rule, with those of plug-ins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, fx

from netgraph import plugins
from netgraph.environment.torch_internals import OpOverload, find_overloads
from netgraph.errors import NetgraphError, PluginError, TraceError, describe_error
from netgraph.rules.index_space import Atom, Concat, size_of
from netgraph.rules.operator_call import Call, Rule, operator_name, source_line
from netgraph.rules.pointwise import pointwise_rule

GROUP = "netgraph.rules"
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
    for family in sorted(plugins.list_plugins(GROUP), key=lambda name: (not _is_own(name), name)):
        table.update(_load_family(family))
    return {**table, **_ADDED}


@cache
def find_foreign_rule(operator: str) -> str | None:
    """Return the rule of an operator in words, with its distribution, or None if netgraph itself brings it.

    Examples
    --------
    >>> from netgraph.rules import add_rules
    >>> from netgraph.rules.registry import find_foreign_rule
    >>> find_foreign_rule("aten.conv2d")
    >>> add_rules({"mylib.swish": lambda call: call.spaces(call.operands[0])})
    >>> find_foreign_rule("mylib.swish")
    "rule 'mylib.swish'"
    """
    if operator in _ADDED:
        return f"rule {operator!r}"
    for family in sorted(plugins.list_plugins(GROUP), reverse=True):
        if not _is_own(family) and operator in _load_family(family):
            return f"rule {operator!r} of {plugins.find_distribution(GROUP, family)}"
    return None


def _is_own(family: str) -> bool:
    """Return True if a family of rules is of this distribution."""
    return plugins.find_distribution(GROUP, family) == plugins.DISTRIBUTION


def _load_family(family: str) -> Mapping[str, Rule]:
    """Return the table of a family."""
    table: Mapping[str, Rule] = plugins.load_plugin(GROUP, family)
    if not _is_own(family):
        _check_table(table, f"plug-in {family!r} of {plugins.find_distribution(GROUP, family)} is no table of rules: ")
    return table


def _check_table(table: Any, prefix: str = "") -> None:
    """Refuse what is no table of rules."""
    if not isinstance(table, Mapping) or not all("." in str(name) and callable(rule) for name, rule in table.items()):
        raise PluginError(
            f"{prefix}a table of rules is a dict of operator names and functions, like {{'mylib.swish': swish}}, and not "
            f"{str(table)[:60]}."
        )


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
    _check_table(table)
    _ADDED.update(table)
    forget_rules()


def forget_rules() -> None:
    """Let the tables of rules be read again."""
    load_rules.cache_clear()
    find_foreign_rule.cache_clear()


@contextmanager
def use_rules(table: Mapping[str, Rule]) -> Iterator[None]:
    """Add rules for a block.

    Parameters
    ----------
    table : dict of str to callable
        Rules by operator name, as `add_rules` takes them.

    Examples
    --------
    >>> from netgraph.rules import load_rules, use_rules
    >>> with use_rules({"mylib.gelu": lambda call: call.spaces("self")}):
    ...     "mylib.gelu" in load_rules()
    True
    >>> "mylib.gelu" in load_rules()
    False
    """
    before = dict(_ADDED)
    add_rules(table)
    try:
        yield
    finally:
        _ADDED.clear()
        _ADDED.update(before)
        forget_rules()


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
    """Return the spaces that a rule gives. One of the user or of another distribution may do anything, and is checked and named.

    Raises
    ------
    TraceError
        The rule fails, refuses, or does not answer with the spaces of the result.
    """
    described = find_foreign_rule(call.name)
    if described is None:
        return rule(call)
    try:
        answer = rule(call)
    except NetgraphError:
        raise
    except KeyboardInterrupt:
        plugins.log_interruption(described, f"read a call{call.location()}")
        raise
    except BaseException as error:  # a rule of the user may fail in any way
        raise TraceError(
            f"{described} fails{call.location()} ({describe_error(error)}). Repair it, or leave it out."
        ) from error
    problem = _find_wrong_spaces(answer, call.node.meta.get("val"))
    if problem is not None:
        raise TraceError(
            f"{described} answers{call.location()} with {problem}. A rule returns a list with the space of each dimension of the "
            "result, or a list of such lists for several tensors."
        )
    call.state.foreign[call.node] = described
    return answer


def _find_wrong_spaces(answer: Any, value: Any) -> str | None:
    """Return in words what an answer is, if it does not hold the spaces of a result, or None if it does."""
    if not isinstance(answer, (list, tuple)):
        return f"a {type(answer).__name__}"
    if isinstance(value, (list, tuple)):
        if len(answer) != len(value):
            return f"{len(answer)} lists of spaces for {len(value)} results"
        parts = (_find_wrong_spaces(a, v) for a, v in zip(answer, value, strict=True) if isinstance(v, Tensor))
        return next((part for part in parts if part is not None), None)
    if not isinstance(value, Tensor):
        return None
    shape = tuple(map(int, value.shape))
    if not all(isinstance(space, tuple) and all(isinstance(f, (Atom, Concat)) for f in space) for space in answer):
        return f"the list {str(answer)[:60]}, which holds other things than spaces"
    sizes = tuple(size_of(space) for space in answer)
    return None if sizes == shape else f"spaces of sizes {sizes} for a result of shape {shape}"


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
