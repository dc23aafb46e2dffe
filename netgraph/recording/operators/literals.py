"""Tensors that a run makes of Python numbers, such as ``torch.tensor([1.0, 2.0], device=x.device)``.

On the meta device such a tensor would be made without its numbers. It is made on the CPU instead, where it is a constant of the
recording, and moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.recording.meta_shapes import META

MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


def make_literal(function: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """Return the tensor that a call makes of numbers on the meta device, or None if it makes another tensor.

    Parameters
    ----------
    function : callable
        One of `MAKERS`.
    args, kwargs : tuple and dict
        Arguments of the call.
    """
    like, data = (args[0], args[1:]) if function is Tensor.new_tensor else (None, args)
    given = dict(kwargs)
    numbers = data[0] if data else given.pop("data", given.pop("obj", None))
    device = given.pop("device", None) or (None if like is None else like.device)
    if device is None or torch.device(device) != META or not _is_literal(numbers):
        return None
    if like is not None:
        given["dtype"] = given.get("dtype") or like.dtype
    maker = torch.tensor if like is not None else function
    return maker(numbers, *data[1:], **given).to(META)


def _is_literal(value: Any) -> bool:
    """Return True if a value is a number, or an array or nested list of numbers."""
    if isinstance(value, (list, tuple)):
        return all(_is_literal(part) for part in value)
    return isinstance(value, (bool, int, float, complex, np.ndarray, np.generic))
