"""Weights that a checkpoint stores in parts: pruning masks and weight norm.

``torch.nn.utils.prune`` stores ``weight_orig`` and ``weight_mask``. Weight norm stores direction and length, under two pairs of
names. A network that was built without them has the product of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from netgraph.environment.memory import check_memory
from netgraph.errors import LoadError, describe_error

State = dict[str, Any]


def iterate_whole_states(state: Mapping[str, Any]) -> Iterator[State]:
    """Yield the state dict itself, then with masks applied, then with its weight norms renamed or multiplied out."""
    yield dict(state)
    masked = apply_masks(state)
    if masked.keys() != state.keys():
        yield masked
    for rewrite in (_rename_to_parametrization, _rename_from_parametrization, multiply_weight_norms):
        rewritten = rewrite(masked)
        if rewritten.keys() != masked.keys():
            yield rewritten


def apply_masks(state: Mapping[str, Any]) -> State:
    """Replace ``NAME_orig`` and ``NAME_mask`` by their product ``NAME``."""
    whole = {}
    for name, value in state.items():
        base = name.removesuffix("_orig")
        if name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in state:
            continue
        mask = state.get(f"{base}_mask") if base != name else None
        whole[name if mask is None else base] = value if mask is None else _multiply_parts(base, value, mask)
    return whole


def _multiply_parts(name: str, value: Tensor, factor: Tensor) -> Tensor:
    """Return the product of the parts of a weight."""
    with _explain_parts(name, value, factor):
        return value * factor.to(value.dtype)


@contextmanager
def _explain_parts(name: str, value: Tensor, factor: Tensor) -> Iterator[None]:
    """Explain why parts of a weight have no product in a block. The first has its shape: two short parts could have a huge product.

    Raises
    ------
    LoadError
        The shapes do not fit, the product does not fit into memory, or the parts hold numbers without products.
    """
    try:
        if torch.broadcast_shapes(value.shape, factor.shape) != value.shape:
            raise RuntimeError(f"shapes {tuple(value.shape)} and {tuple(factor.shape)}")
        check_memory(value.numel() * value.element_size(), f"the weight {name}, which is stored in parts,")
        yield
    except RuntimeError as error:
        raise LoadError(
            f"the weight {name} is stored in parts that cannot be multiplied ({describe_error(error)}). Save it as one tensor."
        ) from error


def multiply_weight_norms(state: Mapping[str, Any]) -> State:
    """Replace the length and the direction of weight norm by the weight."""
    old = _rename_from_parametrization(state)
    return _join_pairs(old, "_g", "_v", _apply_length)


def _apply_length(name: str, length: Tensor, direction: Tensor) -> Tensor:
    """Return ``length * direction / |direction|``. The norm runs over the dimensions in which the length has size 1."""
    dims = [dim for dim in range(direction.ndim) if length.ndim == direction.ndim and length.shape[dim] == 1]
    with _explain_parts(name, direction, length):
        norm: Tensor = torch.linalg.vector_norm(direction, dim=dims or None, keepdim=bool(dims))
        return direction * (length / norm)


def _join_pairs(state: Mapping[str, Any], first: str, second: str, join: Callable[[str, Any, Any], Any]) -> State:
    """Replace ``NAME + first`` and ``NAME + second`` by one value ``NAME``."""
    whole = {}
    for name, value in state.items():
        base = name.removesuffix(first)
        if name.endswith(second) and name.removesuffix(second) + first in state:
            continue
        partner = state.get(base + second) if base != name else None
        whole[name if partner is None else base] = value if partner is None else join(base, value, partner)
    return whole


def _rename_from_parametrization(state: Mapping[str, Any]) -> State:
    """Rename ``parametrizations.weight.original0`` and ``1`` of weight norm to ``weight_g`` and ``weight_v``."""
    renamed = {}
    for name, value in state.items():
        prefix, found, rest = name.rpartition("parametrizations.")
        tensor, _, part = rest.partition(".")
        suffix = {"original0": "_g", "original1": "_v"}.get(part)
        renamed[f"{prefix}{tensor}{suffix}" if found and suffix else name] = value
    return renamed


def _rename_to_parametrization(state: Mapping[str, Any]) -> State:
    """Rename ``weight_g`` and ``weight_v`` to ``parametrizations.weight.original0`` and ``1``."""
    renamed = {}
    for name, value in state.items():
        base, number = name[:-2], {"_g": 0, "_v": 1}.get(name[-2:])
        prefix, _, tensor = base.rpartition(".")
        if number is None or f"{base}_g" not in state or f"{base}_v" not in state:
            renamed[name] = value
        else:
            renamed[f"{prefix}{'.' * bool(prefix)}parametrizations.{tensor}.original{number}"] = value
    return renamed
