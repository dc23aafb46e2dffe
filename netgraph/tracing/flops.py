"""The matrix products of a recorded graph as spaces: one multiply-add, or two operations, for each index of a space.

Matrix products, convolutions, attention and recurrent cells are counted. Pointwise operators and einsum are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from netgraph.rules.index_space import Space
from netgraph.rules.operator_call import bind_arguments, operator_name


def find_products(graph: fx.Graph, spaces: Mapping[fx.Node, Any]) -> list[Space]:
    """Return one space for each product of a forward pass. The size of a space is its number of multiply-adds."""
    products: list[Space] = []
    for node in graph.nodes:
        if node.op == "call_function":
            products += [tuple(f for space in dims for f in space) for dims in _find_node_products(node, spaces)]
    return products


def _find_node_products(node: fx.Node, spaces: Mapping[fx.Node, Any]) -> list[list[Space]]:
    """Return the products of one call, each as a list of spaces."""
    name = operator_name(node.target).removeprefix("aten.")
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        arguments = bind_arguments(node)
        matrices = [spaces[p] for p in arguments["params"] if len(spaces[p]) == 2]
        return [[*spaces[arguments["input"]][:-1], *matrix] for matrix in matrices]
    if not isinstance(node.meta.get("val"), Tensor):
        return []
    out = spaces[node]
    if name == "linear":
        return [[*out, spaces[bind_arguments(node)["input"]][-1]]]
    if name in ("mm", "bmm", "matmul", "addmm", "baddbmm"):
        return [[*out, spaces[_left_operand(bind_arguments(node))][-1]]]
    if name in ("conv1d", "conv2d", "conv3d"):
        return [[*out, *spaces[bind_arguments(node)["weight"]][1:]]]
    if name.startswith("conv_transpose"):
        return [[*spaces[bind_arguments(node)["input"]], *spaces[bind_arguments(node)["weight"]][1:]]]
    if name == "scaled_dot_product_attention":
        attended = spaces[bind_arguments(node)["key"]][-2]
        return [[*spaces[bind_arguments(node)["query"]], attended], [*out, attended]]
    return []


def _left_operand(arguments: dict[str, Any]) -> fx.Node:
    """Return the left matrix of a product."""
    left: fx.Node = arguments.get("mat1") or arguments.get("batch1") or arguments["self"]
    return left
