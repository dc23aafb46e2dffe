"""Floating-point operations of a recorded graph: two for each multiply-add of its products."""

from __future__ import annotations

import math

from torch import Tensor, fx

from netgraph.call import bind, operator_name, shape_of


def count_flops(graph: fx.Graph) -> int:
    """Return the operations of the matrix products, convolutions and attention of one forward pass."""
    return sum(_flops(node) for node in graph.nodes if node.op == "call_function")


def _flops(node: fx.Node) -> int:
    name = operator_name(node.target).removeprefix("aten.")
    if not isinstance(node.meta.get("val"), Tensor):
        return 0
    out = math.prod(shape_of(node))
    if name == "linear":
        return 2 * out * shape_of(bind(node)["input"])[-1]
    if name in ("mm", "bmm", "matmul", "addmm", "baddbmm"):
        left = bind(node).get("mat1") or bind(node).get("batch1") or bind(node).get("self")
        return 2 * out * shape_of(left)[-1]  # type: ignore[arg-type]
    if name in ("conv1d", "conv2d", "conv3d"):
        return 2 * out * math.prod(shape_of(bind(node)["weight"])[1:])
    if name.startswith("conv_transpose"):
        arguments = bind(node)
        return 2 * math.prod(shape_of(arguments["input"])) * math.prod(shape_of(arguments["weight"])[1:])
    if name == "scaled_dot_product_attention":
        query, key = shape_of(bind(node)["query"]), shape_of(bind(node)["key"])
        return 2 * key[-2] * (math.prod(query) + out)
    return 0
