"""Dtypes and numbers in a recorded forward that are those of the network's own precision, and follow a cast of it.

An LSTM starts from ``zeros(dtype=input.dtype)``, and a mask holds ``torch.finfo(x.dtype).min``. A recording has float32 in both
places. The coarse network reads them from its parameters instead, so that ``coarse.double()`` runs as the network itself does.
`netgraph.tracing.dtype_links` finds the places. A dtype that the network names itself, as in ``x.float()``, stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import LoadError

LIMITS = ("min", "max", "eps", "tiny", "smallest_normal")  # of torch.finfo


@dataclass(frozen=True)
class OwnDtype:
    """The dtype of the network's parameters.

    Parameters
    ----------
    recorded : torch.dtype
        What it was in the recording, and is for a network without parameters.
    """

    recorded: torch.dtype

    def resolve(self, dtype: torch.dtype | None) -> torch.dtype:
        """Return the dtype for parameters of a dtype."""
        return self.recorded if dtype is None else dtype

    def to_data(self) -> dict[str, Any]:
        """Return the dtype as JSON data."""
        return {"own_dtype": str(self.recorded).removeprefix("torch.")}


@dataclass(frozen=True)
class OwnLimit:
    """A multiple of a limit of that dtype, such as its least number.

    Parameters
    ----------
    limit : {"min", "max", "eps", "tiny", "smallest_normal"}
    factor : float
    recorded : torch.dtype
    """

    limit: str
    factor: float
    recorded: torch.dtype

    def resolve(self, dtype: torch.dtype | None) -> float:
        """Return the number for parameters of a dtype."""
        return self.factor * float(getattr(torch.finfo(self.recorded if dtype is None else dtype), self.limit))

    def to_data(self) -> dict[str, Any]:
        """Return the number as JSON data."""
        return {"own_limit": [self.limit, self.factor, str(self.recorded).removeprefix("torch.")]}


Followed = OwnDtype | OwnLimit


@dataclass(frozen=True)
class DtypeLinks:
    """What follows the precision of a network in one recorded graph.

    Parameters
    ----------
    arguments : dict of str to dict
        By node, the arguments that follow, by name.
    constants : dict of str to OwnLimit
        Constants whose entries are all one limit.
    fixed : frozenset of str
        Constants of a precision that the network names itself. They keep it.
    """

    arguments: Mapping[str, Mapping[str, Followed]] = field(default_factory=dict)
    constants: Mapping[str, OwnLimit] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()


def read_followed(kind: str, content: Any) -> Followed:
    """Read the data that `OwnDtype.to_data` or `OwnLimit.to_data` has written.

    Raises
    ------
    LoadError
        The file names no floating-point dtype, or no limit of one.
    """
    parts = ["min", 1.0, content] if kind == "own_dtype" else content
    limit, factor, name = parts if isinstance(parts, list) and len(parts) == 3 else ("", 1.0, "")
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise LoadError(f"{name!r} is no floating-point dtype. The file is refused.")
    if limit not in LIMITS or not isinstance(factor, (int, float)):
        raise LoadError(f"{limit!r} is no limit of a dtype. The file is refused.")
    return OwnLimit(limit, float(factor), dtype) if kind == "own_limit" else OwnDtype(dtype)


KINDS = ("own_dtype", "own_limit")


def has_followed(value: Any) -> bool:
    """Return True if a serialized graph, or a part of it, follows the precision of its network."""
    if isinstance(value, (list, tuple)):
        return any(has_followed(part) for part in value)
    if isinstance(value, dict):
        return any(key in KINDS or has_followed(part) for key, part in value.items())
    return False


def find_own_dtype(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """Return the dtype of the first floating-point tensor, or None if there is none."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def cast_tensors(
    model: nn.Module, state: Mapping[str, Tensor], leaves: Sequence[Tensor], dtype: torch.dtype, *, numbers: bool
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the parameters and buffers of a network, and inputs of its own precision, in another precision.

    Parameters
    ----------
    model : torch.nn.Module
    state : dict of str to Tensor
        Its parameters and buffers by name.
    leaves : list of Tensor
        Inputs.
    dtype : torch.dtype
    numbers : bool
        Whether the new tensors need numbers. Without, they are on the meta device and cost nothing.
    """
    own = find_own_dtype(model.parameters())
    kept: frozenset[str] = getattr(model, "fixed_constants", frozenset())

    def cast(tensor: Tensor) -> Tensor:
        made = (
            tensor.detach().to(dtype)
            if numbers
            else torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")
        )
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

    changed = {n: cast(t) if t.is_floating_point() and n not in kept else t for n, t in state.items()}
    return changed, [cast(leaf) if leaf.dtype == own else leaf for leaf in leaves]
