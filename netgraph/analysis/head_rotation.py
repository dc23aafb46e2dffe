"""Check on the graph that the basis inside a head may rotate.

Rotating the basis of a head is safe if (1) queries, keys and values feed the attention products only, (2) the results feed only the
layer that reads the heads, (3) every operator in between treats all numbers of a head alike, and (4) the weights have no
other readers. Where the graph does not prove this, a run can (`netgraph.coarsen.network.head_alignment`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

from torch import fx

from netgraph.analysis.row_provenance import KEEPS_PLACES, MOVES, match_layer
from netgraph.rules.operator_call import operator_name

Edge = tuple[fx.Node, fx.Node]  # from an operand to its reader
SIZES = ("aten.sym_size", "aten.sym_numel")  # operators that read sizes only


def allows_head_rotation(
    graph: fx.Graph, producers: Container[str], reader_weight: str, ends: Container[Edge], starts: Iterable[fx.Node]
) -> bool:
    """Return True if the numbers inside heads meet only one another.

    Parameters
    ----------
    graph : torch.fx.Graph
        A recorded graph.
    producers : container of str
        Weights and biases of the layers that make queries, keys and values.
    reader_weight : str
        The weight of the layer that reads the heads.
    ends : container of (Node, Node)
        Queries, keys and values, each with the product that reads it.
    starts : iterable of Node
        Results of the attentions.
    """
    makers = [node for node in graph.nodes if (layer := match_layer(node)) is not None and layer[1][0] in producers]
    readers = {
        (layer[0], node)
        for node in graph.nodes
        if (layer := match_layer(node)) is not None and layer[1][0] == reader_weight
    }
    return (
        _are_read_only_by({*makers}, producers, graph)
        and _are_read_only_by({node for _, node in readers}, (reader_weight,), graph)
        and _flows_only_to(makers, ends)
        and _flows_only_to(starts, readers)
    )


def _are_read_only_by(layers: Container[fx.Node], weights: Container[str], graph: fx.Graph) -> bool:
    """Return True if some weights have no readers outside ``layers``."""
    leaves = [node for node in graph.nodes if node.op == "get_attr" and str(node.target) in weights]
    return all(user in layers for leaf in leaves for user in leaf.users)


def _flows_only_to(starts: Iterable[fx.Node], ends: Container[Edge]) -> bool:
    """Return True if numbers are only moved, or scaled as a whole, before they reach ``ends``."""
    seen, todo = set[fx.Node](), list(starts)
    while todo:
        node = todo.pop()
        for user in node.users:
            if user in seen or (node, user) in ends or _reads_sizes(user):
                continue
            if not _acts_elementwise(user):
                return False
            seen.add(user)
            todo.append(user)
    return True


def _reads_sizes(node: fx.Node) -> bool:
    """Return True if a node reads the size of a tensor and none of its numbers."""
    return node.op == "call_function" and operator_name(node.target) in SIZES


def _acts_elementwise(node: fx.Node) -> bool:
    """Return True if a node does the same to every number."""
    if node.op != "call_function":
        return False
    name = operator_name(node.target)
    if name in ("aten.mul", "aten.div"):
        first, second = (_count_elements(operand) for operand in node.args)
        return not node.kwargs and (second == 1 or (first == 1 and name == "aten.mul"))
    return name in KEEPS_PLACES | MOVES or name == "_operator.getitem"


def _count_elements(operand: object) -> int:
    """Return the number of elements of an operand, 1 for a plain number."""
    return math.prod(operand.meta["val"].shape) if isinstance(operand, fx.Node) else 1
