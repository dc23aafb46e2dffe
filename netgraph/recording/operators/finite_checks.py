"""Questions whether all activations are finite numbers, as networks ask before they clamp or stop.

`if not torch.isfinite(h).all()` is a decision on activations, but not one that tells inputs apart: a network that works answers
it one way. The recording assumes that all numbers are finite, without computing them, and checks the answer in each run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from netgraph.recording.operators.guards import check_decision

ATEN = torch.ops.aten
Answer = bool | int
REDUCED: dict[Any, Callable[[Answer], Answer]] = {
    ATEN.all.default: bool,
    ATEN.any.default: bool,
    ATEN._is_all_true.default: bool,
    ATEN._is_any_true.default: bool,
    ATEN.logical_not.default: lambda answer: not answer,
    ATEN.bitwise_not.default: lambda answer: not answer,
    ATEN.detach.default: lambda answer: answer,
    ATEN.alias.default: lambda answer: answer,
}  # operators on the answers for all numbers, which are alike
JOINED: dict[Any, Callable[[Answer, Answer], Answer]] = {
    **dict.fromkeys((ATEN.logical_and.default, ATEN.bitwise_and.Tensor, ATEN.__and__.Tensor), lambda a, b: a and b),
    **dict.fromkeys((ATEN.logical_or.default, ATEN.bitwise_or.Tensor, ATEN.__or__.Tensor), lambda a, b: a or b),
}
FINITE = {ATEN.isfinite.default: True, ATEN.isnan.default: False, ATEN.isinf.default: False}
SELF_COMPARED = {ATEN.eq.Tensor: True, ATEN.ne.Tensor: False}  # a number that is not equal to itself is none
COUNTED = (ATEN.sum.default, ATEN.count_nonzero.default)
BOUNDS: dict[Any, Callable[[int, Any], bool]] = {
    ATEN.gt.Scalar: lambda count, bound: count > bound,
    ATEN.ge.Scalar: lambda count, bound: count >= bound,
    ATEN.eq.Scalar: lambda count, bound: count == bound,
    ATEN.ne.Scalar: lambda count, bound: count != bound,
    ATEN.lt.Scalar: lambda count, bound: count < bound,
    ATEN.le.Scalar: lambda count, bound: count <= bound,
}
OPERATORS = {*REDUCED, *JOINED, *FINITE, *SELF_COMPARED, *COUNTED, *BOUNDS}


def answer_if_finite(node: fx.Node) -> Answer | None:
    """Return the value of a decision if all numbers are finite, or None if it asks anything else.

    Parameters
    ----------
    node : torch.fx.Node
        The truth value, or the count of numbers that are not finite, that the network asks for.
    """
    if node.target in FINITE:
        return FINITE[node.target]
    if node.target in SELF_COMPARED:
        return SELF_COMPARED[node.target] if node.args[0] is node.args[1] else None
    operands = node.all_input_nodes
    answers = [answer for operand in operands if (answer := answer_if_finite(operand)) is not None]
    if len(answers) < len(operands) or not answers:
        return None
    if node.target in REDUCED:
        return REDUCED[node.target](answers[0])
    if node.target in JOINED and len(answers) == 2:
        return JOINED[node.target](*answers)
    if node.target in BOUNDS and type(answers[0]) is int:
        return BOUNDS[node.target](answers[0], node.args[1])
    counts_none = node.target in COUNTED and answers[0] is False
    return 0 if counts_none else None


def find_checks(graph: fx.Graph) -> set[fx.Node]:
    """Return the calls of a graph that only guards of such questions read. Units stand alone in them."""
    checks: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.target is check_decision:
            finite = answer_if_finite(node.args[0]) is not None
            checks |= {node} if finite else set()
        elif node.target in OPERATORS and node.users and all(user in checks for user in node.users):
            checks.add(node)
    return checks
