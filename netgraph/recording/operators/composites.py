"""Composite operators: those that PyTorch itself composes of others. A recording holds the parts of those without a rule."""

from __future__ import annotations

from functools import cache
from typing import Any

from netgraph.environment.torch_internals import OpOverload, read_schema
from netgraph.rules.registry import find_operator_rule

UNSAFE = ("aten::set_", "aten::data")  # exchange the storage of a tensor, which no graph can hold


def may_decompose(function: Any) -> bool:
    """Return True if an operator has no rule and returns tensors alone, so that its parts can say all that it does.

    ``function.decompose`` then runs the parts, or returns `NotImplemented` if PyTorch has none.
    """
    return find_operator_rule(function) is None and _returns_tensors(function)


@cache
def _returns_tensors(function: Any) -> bool:
    """Return True if an operator returns tensors alone."""
    if not isinstance(function, OpOverload) or read_schema(function).name in UNSAFE:
        return False
    returns = {str(r.type) for r in read_schema(function).returns}
    return bool(returns) and returns <= {"Tensor", "List[Tensor]"}
