"""Composite operators: those that PyTorch itself composes of others. A recording holds the parts of those without a rule."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from netgraph.rules.registry import find_operator_rule

UNSAFE = ("aten::set_", "aten::data")  # exchange the storage of a tensor, which no graph can hold


@cache
def may_decompose(function: Any) -> bool:
    """Return True if an operator has no rule and returns tensors alone, so that its parts can say all that it does.

    ``function.decompose`` then runs the parts, or returns `NotImplemented` if PyTorch has none.
    """
    if not isinstance(function, torch._ops.OpOverload) or function._schema.name in UNSAFE:
        return False
    returns = {str(r.type) for r in function._schema.returns}
    return bool(returns) and returns <= {"Tensor", "List[Tensor]"} and find_operator_rule(function) is None
