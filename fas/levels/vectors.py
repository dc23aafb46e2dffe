"""Vectors by name: the state, a gradient or a correction of one level, one tensor a parameter.

All of a level's tensors are worked in one call of ``torch._foreach``, as torch's own optimizers do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Vector = dict[str, Tensor]


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return <a, b>, in double precision; names of ``b`` that ``a`` lacks count as zero."""
    return float(sum(torch.sum(a[name] * b[name], dtype=torch.float64) for name in a if name in b))


def norm(a: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of all numbers together."""
    return float(torch.nn.utils.get_total_norm(list(a.values()))) if a else 0.0


def subtract_vectors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Vector:
    """Return a - b for every name of ``a``; a name that ``b`` lacks counts as zero."""
    both = [name for name in a if name in b]
    rest = torch._foreach_sub([a[n] for n in both], [b[n] for n in both]) if both else ()
    return {**a, **dict(zip(both, rest, strict=True))}


def copy_vector(a: Mapping[str, Tensor]) -> Vector:
    """Return a copy that does not follow later changes."""
    return {name: tensor.detach().clone() for name, tensor in a.items()}


def assign(x: Mapping[str, Tensor], value: Mapping[str, Tensor]) -> None:
    """Write ``value`` into the live tensors of ``x``; names that ``x`` lacks are left out."""
    names = [name for name in value if name in x]
    with torch.no_grad():
        torch._foreach_copy_([x[n] for n in names], [value[n] for n in names])
