"""How far the outputs of two networks are apart, and the same random numbers for both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from netgraph.recording.forward.named_outputs import collect_chosen


@contextlib.contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """Draw the same random numbers in every block, and restore the state of the generator afterwards."""
    state = torch.get_rng_state()
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same for the processor alone, without what PyTorch prepares for other devices
        torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Return ``|actual - expected| / |expected|`` (2-norms), or infinity if an entry is finite in only one of them."""
    if torch.equal(expected, actual):
        return 0.0
    a, b = (t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for t in (expected, actual))
    mask = torch.isfinite(a)
    if not torch.equal(mask, torch.isfinite(b)):
        return float("inf")
    a, b = a[mask], b[mask]
    return float((a - b).norm() / a.norm().clamp_min(1e-30)) if a.numel() and float((a - b).norm()) else 0.0


def max_relative_error(expected: Any, actual: Any, chosen: Sequence[str] = ()) -> float:
    """Return the largest relative error over the tensors of two results, or infinity if their number or shapes differ.

    Where the names of some outputs are given, only these are compared.
    """
    a, b = collect_chosen(expected, chosen), collect_chosen(actual, chosen)
    if not a or [t.shape for t in a] != [t.shape for t in b]:
        return float("inf")
    return max(relative_error(x, y) for x, y in zip(a, b, strict=True))


def collect_tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a result, in the order of a recording."""
    return collect_chosen(value)
