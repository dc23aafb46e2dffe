"""How tensors lie in memory: products and sums round otherwise where strides or alignment differ, though by the last bit alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LINE = 64  # bytes; torch begins its own memory at a multiple
Layout = tuple[int, tuple[int, ...]]


def read_layouts(tensors: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Return the offset from a whole line, and the strides, of every tensor that does not lie as a new one would."""
    found = {
        name: (t.data_ptr() % LINE, t.stride())
        for name, t in tensors.items()
        if t.numel() and _has_distinct_elements(t)
    }
    return {name: (offset, s) for name, (offset, s) in found.items() if offset or not tensors[name].is_contiguous()}


def copy_with_layouts(tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Return copies that lie as they were described, and the others as new ones do."""
    return {name: _copy_with_layout(t, *layouts[name]) if name in layouts else t.clone() for name, t in tensors.items()}


def _has_distinct_elements(tensor: Tensor) -> bool:
    """Whether no two elements share their memory, as those of an expanded tensor do."""
    return all(step or n == 1 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _copy_with_layout(tensor: Tensor, offset: int, stride: tuple[int, ...]) -> Tensor:
    size = tensor.element_size()
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, stride, strict=True))  # elements
    room = torch.empty(span * size + LINE, dtype=torch.uint8, device=tensor.device)
    begin = (offset - room.data_ptr()) % LINE
    if (room.storage_offset() + begin) % size:  # bytes that no element can begin at: as a new one
        begin = 0
    flat = room[begin : begin + span * size].view(tensor.dtype)
    return flat.as_strided(tensor.shape, tuple(stride), flat.storage_offset()).copy_(tensor)
