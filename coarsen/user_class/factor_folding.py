"""Factors of the recorded graph as part of its parameters, so that a class without the factor computes the same.

Where a tied embedding is read both ways, the graph multiplies by the size of aggregates. The factor commutes with all
that is linear on the way up from there; it ends in the scale and shift of the norm before, or in a layer's weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from netgraph.errors import OwnClassError
from netgraph.tracing.unit_spec import Factor, UnitSpec, format_term, term_size

ATEN = torch.ops.aten
PRODUCTS = {ATEN.linear.default, ATEN.matmul.default, ATEN.mm.default, ATEN.bmm.default}
LAYERS = {ATEN.linear.default, ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default}
SAME = {  # a positive factor passes through from the first argument
    ATEN.view.default, ATEN.reshape.default, ATEN.slice.Tensor, ATEN.select.int, ATEN.transpose.int, ATEN.permute.default,
    ATEN.contiguous.default, ATEN.clone.default, ATEN.alias.default, ATEN.dropout.default, ATEN.unsqueeze.default,
    ATEN.squeeze.dim, ATEN.flatten.using_ints, ATEN.relu.default, ATEN.to.dtype, ATEN._to_copy.default, ATEN.expand.default,
    ATEN.sum.dim_IntList, ATEN.mean.dim, ATEN.index_select.default, ATEN.dropout_.default, ATEN.type_as.default,
}  # fmt: skip


class _StuckError(Exception):
    """The factor meets something that it does not commute with."""


def find_parameter_factors(spec: UnitSpec, coarse: Mapping[str, int]) -> dict[str, float]:
    """Return by what each parameter is multiplied, in place of the graph's factors.

    Parameters
    ----------
    spec : UnitSpec
        Of the fine network.
    coarse : dict of str to int
        Units of every axis of the coarse one.

    Raises
    ------
    OwnClassError
        A factor cannot be moved into parameters.
    """
    found: dict[str, dict[str, float]] = {}
    for mode, plan in spec.plans.items():
        nodes = {node.name: node for node in plan.graph.nodes}
        found[mode] = {}
        for name, factors in plan.factors.items():
            for factor in factors:
                ratio = (term_size(factor.term, spec.sizes) / max(term_size(factor.term, coarse), 1)) ** factor.power
                if ratio != 1:
                    _multiply_into(found[mode], _fold_factor(nodes, name, factor, ratio))
    if found["train"] != found["eval"]:
        raise OwnClassError("its graphs for training and evaluation scale different parameters")
    return found["eval"]


def apply_factors(state: Mapping[str, Tensor], factors: Mapping[str, float]) -> dict[str, Tensor]:
    """Return parameters with the graph's factors multiplied in."""
    return {name: t * factors[name] if name in factors else t for name, t in state.items()}


def _multiply_into(total: dict[str, float], more: Mapping[str, float]) -> None:
    for name, ratio in more.items():
        total[name] = total.get(name, 1.0) * ratio


def _fold_factor(nodes: Mapping[str, fx.Node], name: str, factor: Factor, ratio: float) -> dict[str, float]:
    node = nodes[name]
    try:
        if factor.operand is None:
            return _push_factor(node, ratio)
        operand = nodes[factor.operand]
        if node.target in PRODUCTS:  # to scale one side of a product is to scale the other
            return _push_into_any([n for n in node.args[:2] if isinstance(n, fx.Node)], node, ratio)
        return _push_into_input(operand, node, ratio)
    except _StuckError as stuck:
        raise OwnClassError(
            f"the recorded graph multiplies by {ratio:.3g} at {name}, for {format_term(factor.term)} shrank and its aggregates "
            f"count there, and the class does not ({stuck}); keep that axis with keep="
        ) from stuck


def _push_into_input(node: fx.Node, user: fx.Node, ratio: float) -> dict[str, float]:
    """Scale what one call alone reads."""
    if set(node.users) != {user}:
        raise _StuckError(f"{node.name} is read elsewhere too")
    return _push_factor(node, ratio)


def _push_factor(node: fx.Node, ratio: float) -> dict[str, float]:
    """Scale a node's result by scaling parameters behind it."""
    inputs = [a for a in node.args if isinstance(a, fx.Node)]
    if node.op == "get_attr" and node.meta.get("leaf", True):
        return {str(node.target): ratio}
    if node.target in SAME:
        return _push_into_input(inputs[0], node, ratio)
    if node.target in LAYERS:
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
    found: dict[str, float] = {}
    for node in nodes:
        found |= _push_into_input(node, user, ratio)
    return found


def _push_into_any(nodes: list[fx.Node], user: fx.Node, ratio: float) -> dict[str, float]:
    stuck = _StuckError("no operand")
    for node in sorted(nodes, key=lambda n: n.op != "get_attr"):
        try:
            return _push_into_input(node, user, ratio)
        except _StuckError as why:
            stuck = why
    raise stuck
