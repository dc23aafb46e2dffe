"""Functions that a recorded graph runs in the place of operators with limits that a coarse width may not keep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ALIGNMENT = 16  # bytes: `torch._grouped_mm` wants rows of both operands to begin at multiples of it


def multiply_groups(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Return the grouped product of `torch._grouped_mm` for operands of any width.

    Widths are filled up with zeros, which add nothing, and the columns made from them are cut off.
    """
    step = ALIGNMENT // a.element_size()
    inner, columns = -a.shape[-1] % step, -b.shape[-1] % step
    grouped_inner, grouped_columns = a.ndim == b.ndim == 2, a.ndim == 3 and b.ndim == 2
    rows = 0 if grouped_inner else inner
    columns = 0 if grouped_columns else columns
    if rows or columns:
        a, b = functional.pad(a, (0, rows)), functional.pad(b, (0, columns, 0, rows))
    out: Tensor = torch.ops.aten._grouped_mm.default(a, b, offs, bias, out_dtype)
    return out[..., : out.shape[-1] - columns] if columns else out


STAND_INS: dict[Any, Any] = {torch.ops.aten._grouped_mm.default: multiply_groups}
