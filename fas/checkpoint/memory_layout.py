"""Memory layout of tensors, saved with a checkpoint.

Products and sums may differ in the last bit if strides or alignment differ. A resumed run is equal bit for bit only if its
tensors are laid out as before.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from netgraph.environment.memory import check_memory

LINE = 64  # bytes: torch allocates memory at multiples of this
Layout = tuple[int, tuple[int, ...]]


def read_layouts(tensors: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Return offset and strides of every tensor that is not laid out like a new one."""
    layouts: dict[str, Layout] = {}
    for name, tensor in tensors.items():
        offset = tensor.data_ptr() % LINE
        if tensor.numel() and _has_distinct_elements(tensor) and (offset or not tensor.is_contiguous()):
            layouts[name] = offset, tensor.stride()
    return layouts


def copy_with_layouts(tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Return copies in the given layouts. Tensors without a layout become contiguous copies."""
    return {name: _copy_with_layout(t, *layouts[name]) if name in layouts else t.clone() for name, t in tensors.items()}


def _has_distinct_elements(tensor: Tensor) -> bool:
    """Return True if all elements have memory of their own, unlike those of an expanded tensor."""
    return all(step or n == 1 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _copy_with_layout(tensor: Tensor, offset: int, stride: tuple[int, ...]) -> Tensor:
    """Return a copy with these strides and with its first byte at this offset from a multiple of `LINE`."""
    size = tensor.element_size()
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, stride, strict=True))  # elements
    check_memory(span * size, "a layout of the checkpoint")
    buffer = torch.empty(span * size + LINE, dtype=torch.uint8, device=tensor.device)
    begin = (offset - buffer.data_ptr()) % LINE
    if (buffer.storage_offset() + begin) % size:  # no element can begin at this byte: use the layout of a new tensor
        begin = 0
    flat = buffer[begin : begin + span * size].view(tensor.dtype)
    return flat.as_strided(tensor.shape, tuple(stride), flat.storage_offset()).copy_(tensor)
