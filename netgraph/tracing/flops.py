"""The matrix products of a recorded graph as spaces: one multiply-add, or two operations, for each index of a space.

Counted is what `torch.utils.flop_counter.FlopCounterMode` counts: products of two matrices, also those inside ``einsum``,
recurrent layers and attention, and convolutions. Products of a matrix with a vector and pointwise operators are not.
LSTMs and fused attention count here too, which the counter leaves out on processors (`findings/torch-flop-counter-zeros.sh`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from netgraph.rules.contraction import read_equation
from netgraph.rules.index_space import Space, size_of
from netgraph.rules.operator_call import bind_arguments, operator_name, shape_of

Arguments = dict[str, Any]
Products = list[list[Space]]
SpacesOf = Mapping[fx.Node, Any]


def find_products(graph: fx.Graph, spaces: SpacesOf) -> list[tuple[str, Space]]:
    """Return the node and the space of each product of a forward pass. The size of a space is its number of multiply-adds."""
    products: list[tuple[str, Space]] = []
    for node in graph.nodes:
        find = COUNTED.get(operator_name(node.target)) if node.op == "call_function" else None
        if find is not None:
            terms = [tuple(f for space in dims for f in space) for dims in find(node, bind_arguments(node), spaces)]
            products += [(node.name, term) for term in terms]
    return products


def _find_layer_products(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the products of a recurrent layer: every matrix meets every step of the input."""
    matrices = [spaces[p] for p in arguments["params"] if len(spaces[p]) == 2]
    return [[*spaces[arguments["input"]][:-1], *matrix] for matrix in matrices]


def _find_cell_products(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the products of one step of a recurrent layer."""
    return [[*spaces[arguments["input"]][:-1], *spaces[arguments[name]]] for name in ("w_ih", "w_hh")]


def _find_linear_product(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the product of a linear layer."""
    return [[*spaces[node], spaces[arguments["input"]][-1]]]


def _find_matrix_product(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the product of two matrices, or none if the right one is a vector."""
    for left, right in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("self", "other")):
        if left in arguments and right in arguments:
            break
    if len(spaces[arguments[right]]) < 2:
        return []
    return [[*spaces[node], spaces[arguments[left]][-1]]]


def _find_convolution_product(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the product of a convolution: each place of the result, or of the input if transposed, meets the kernel."""
    transposed = arguments.get("transposed") or "transpose" in str(node.target)
    places = spaces[arguments["input"]] if transposed else spaces[node]
    return [[*places, *spaces[arguments["weight"]][1:]]]


def _find_attention_products(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the products of queries with keys and of attention weights with values."""
    attended = spaces[arguments["key"]][-2]
    return [[*spaces[arguments["query"]], attended], [*spaces[node], attended]]


# torch.einsum multiplies two operands at a time, in the order of ``path`` or from the front. A letter that neither the result
# nor a later operand has is summed: beforehand if one of the two operands lacks it, else by a product of matrices.
def _find_einsum_products(node: fx.Node, arguments: Arguments, spaces: SpacesOf) -> Products:
    """Return the products of an Einstein summation, one for each pair of operands with letters to sum."""
    operands: list[fx.Node] = list(arguments["tensors"])
    terms, output = read_equation(arguments["equation"], [len(shape_of(n)) for n in operands], len(shape_of(node)))
    axes: dict[str, Space] = {}
    pending: list[set[str]] = []
    for term, operand in zip(terms, operands, strict=True):
        long = {c: space for c, space in zip(term, spaces[operand], strict=True) if size_of(space) != 1}
        axes.update(long)
        pending.append(set(long))
    products: Products = []
    for first, second in _pair_operands(len(operands), arguments.get("path")):
        a, b = pending.pop(max(first, second)), pending.pop(min(first, second))
        later = Counter(c for term in (*pending, output) for c in term)
        summed = {c for c in a | b if not later[c]}
        if summed & a & b:
            products.append([axes[c] for c in sorted((a | b) - (summed - (a & b)))])
        pending.append((a | b) - summed)
    return products


def _pair_operands(n: int, path: Sequence[int] | None) -> list[tuple[int, int]]:
    """Return the places of the two operands of each step, in the list that operands leave and whose end results join."""
    if path:
        return list(zip(path[::2], path[1::2], strict=True))
    return [(0, n - step - 1 if step else 1) for step in range(n - 1)]


COUNTED: dict[str, Callable[[fx.Node, Arguments, SpacesOf], Products]] = {
    **dict.fromkeys([f"aten.{n}" for n in ("lstm", "gru", "rnn_tanh", "rnn_relu")], _find_layer_products),
    **dict.fromkeys([f"aten.{n}_cell" for n in ("lstm", "gru", "rnn_tanh", "rnn_relu")], _find_cell_products),
    "aten.linear": _find_linear_product,
    **dict.fromkeys([f"aten.{n}" for n in ("mm", "bmm", "matmul", "__rmatmul__", "addmm", "addmm_", "baddbmm", "baddbmm_", "_grouped_mm")],
                    _find_matrix_product),
    **dict.fromkeys([f"aten.conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)], _find_convolution_product),
    "aten.convolution": _find_convolution_product,
    "aten.scaled_dot_product_attention": _find_attention_products,
    "aten.einsum": _find_einsum_products,
}  # fmt: skip
