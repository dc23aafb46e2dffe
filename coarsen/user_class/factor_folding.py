"""Factors of the recorded graph moved into its parameters. A class without the factor then computes the same.

The factors of experts that merged, and of the ranks by which they are chosen, stay out of this: in a class that has fewer experts
and chooses fewer of them they cancel, which the comparison of the outputs shows or refutes.

If a tied embedding is read in both directions, the graph multiplies by the size of aggregates. The factor commutes with the linear
operators in front of it, and it ends in the scale and shift of a norm or in the weights of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx

from netgraph.errors import OwnClassError
from netgraph.rules.operator_call import operator_name
from netgraph.rules.operators import ATEN, LAYERS, passes_positive_factor
from netgraph.tracing.unit_spec import Factor, UnitSpec, format_term, term_axes, term_size

PRODUCTS = {ATEN.linear.default, ATEN.matmul.default, ATEN.mm.default, ATEN.bmm.default}


class _StuckError(Exception):
    """The factor meets an operator that it does not commute with."""


def find_parameter_factors(spec: UnitSpec, coarse: Mapping[str, int]) -> dict[str, float]:
    """Return the factor of each parameter that replaces the factors of the graph.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    coarse : dict of str to int
        Number of units of every axis of the coarse network.

    Returns
    -------
    dict of str to float

    Raises
    ------
    OwnClassError
        A factor cannot be moved into parameters.
    """
    factors_of: dict[str, dict[str, float]] = {}
    experts = {*spec.follows, *spec.follows.values()}
    for mode, plan in spec.plans.items():
        nodes = {node.name: node for node in plan.graph.nodes}
        factors_of[mode] = {}
        for name, factors in plan.factors.items():
            for factor in factors:
                if experts.issuperset(term_axes(factor.term)):
                    continue
                ratio = (term_size(factor.term, spec.sizes) / max(term_size(factor.term, coarse), 1)) ** factor.power
                if ratio != 1:
                    _multiply_into(factors_of[mode], _fold_factor(nodes, name, factor, ratio))
    if factors_of["train"] != factors_of["eval"]:
        raise OwnClassError("its graphs for training and evaluation scale different parameters")
    return factors_of["eval"]


def apply_factors(state: Mapping[str, Tensor], factors: Mapping[str, float]) -> dict[str, Tensor]:
    """Return parameters with the factors of the graph multiplied in."""
    return {name: t * factors[name] if name in factors else t for name, t in state.items()}


def _multiply_into(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Multiply factors of parameters into a running product."""
    for name, ratio in more.items():
        total[name] = total.get(name, 1.0) * ratio


def _fold_factor(nodes: Mapping[str, fx.Node], name: str, factor: Factor, ratio: float) -> dict[str, float]:
    """Return the factors of parameters that replace one factor of the graph."""
    node = nodes[name]
    try:
        if factor.operand is None:
            return _push_factor(node, ratio)
        operand = nodes[factor.operand]
        if node.target in PRODUCTS:  # in a product, either operand may take the factor
            return _push_into_any([n for n in node.args[:2] if isinstance(n, fx.Node)], node, ratio)
        return _push_into_input(operand, node, ratio)
    except _StuckError as stuck:
        raise OwnClassError(
            f"the recorded graph multiplies by {ratio:.3g} at {name}, because {format_term(factor.term)} shrank and its size "
            f"counts there. The class does not multiply ({stuck}). Keep that axis with keep="
        ) from stuck


def _push_into_input(node: fx.Node, user: fx.Node, ratio: float) -> dict[str, float]:
    """Scale an input of one call, if no other call reads it."""
    if set(node.users) != {user}:
        raise _StuckError(f"{node.name} is read elsewhere too")
    return _push_factor(node, ratio)


def _push_factor(node: fx.Node, ratio: float) -> dict[str, float]:
    """Scale the result of a node by scaling parameters in front of it."""
    inputs = [a for a in node.args if isinstance(a, fx.Node)]
    if node.op == "get_attr" and node.meta.get("leaf", True):
        return {str(node.target): ratio}
    if passes_positive_factor(node):
        return _push_into_input(inputs[0], node, ratio)
    if operator_name(node.target) in LAYERS:
        return _push_into_all(inputs[1:3], node, ratio)
    if node.target is ATEN.layer_norm.default and len(inputs) > 1:
        return _push_into_all(inputs[1:], node, ratio)
    if node.target in (ATEN.rms_norm.default, ATEN._weight_norm.default) and len(inputs) > 1:
        return _push_into_input(inputs[1], node, ratio)
    if node.target is ATEN.mul.Tensor:
        return _push_into_any(inputs, node, ratio)
    if node.target is ATEN.add.Tensor and len(inputs) == 2:
        return _push_into_all(inputs, node, ratio)
    raise _StuckError(f"no parameter scales {node.name}")


def _push_into_all(nodes: list[fx.Node], user: fx.Node, ratio: float) -> dict[str, float]:
    """Scale all operands of a sum."""
    factors: dict[str, float] = {}
    for node in nodes:
        factors |= _push_into_input(node, user, ratio)
    return factors


def _push_into_any(nodes: list[fx.Node], user: fx.Node, ratio: float) -> dict[str, float]:
    """Scale one operand of a product. Parameters are tried first."""
    last_error = _StuckError("no operand")
    for node in sorted(nodes, key=lambda n: n.op != "get_attr"):
        try:
            return _push_into_input(node, user, ratio)
        except _StuckError as error:
            last_error = error
    raise last_error
