"""Vectors by name: the state, a gradient or a correction of one level, with one tensor for each parameter.

One call works on all tensors of a level, as in torch's own optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from netgraph.environment.torch_internals import copy_each_, subtract_each

Vector = dict[str, Tensor]


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return <a, b> in double precision. A name that one of the two lacks counts as zero. Complex numbers are pairs of real ones."""
    return float(sum(torch.sum(as_real(a[name]) * as_real(b[name]), dtype=torch.float64) for name in a if name in b))


def as_real(tensor: Tensor) -> Tensor:
    """Return complex numbers as pairs of real ones, and other numbers as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def has_directions(tensor: Tensor) -> bool:
    """Return True for real and complex numbers, which corrections may move. Integers, which count, are copied."""
    return tensor.is_floating_point() or tensor.is_complex()


def norm(a: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm over all tensors together."""
    return float(torch.nn.utils.get_total_norm(list(a.values()))) if a else 0.0


def subtract_vectors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Vector:
    """Return a - b for every name of ``a``. A name that ``b`` lacks counts as zero."""
    both = [name for name in a if name in b]
    rest = subtract_each([a[n] for n in both], [b[n] for n in both]) if both else ()
    return {**a, **dict(zip(both, rest, strict=True))}


def copy_vector(a: Mapping[str, Tensor]) -> Vector:
    """Return a copy without gradients."""
    return {name: tensor.detach().clone() for name, tensor in a.items()}


def assign(x: Mapping[str, Tensor], value: Mapping[str, Tensor]) -> None:
    """Write ``value`` into the live tensors of ``x``. Names that ``x`` lacks are ignored."""
    names = [name for name in value if name in x]
    with torch.no_grad():
        copy_each_([x[n] for n in names], [value[n] for n in names])
