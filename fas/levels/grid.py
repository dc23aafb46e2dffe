"""Grid: one level at work, with all that changes on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.vectors import Vector, assign, copy_vector

SEED = 7619  # of dropout and the like, where two networks are compared on the same minibatches


@dataclass
class Grid:
    """One level at work.

    Parameters
    ----------
    model : torch.nn.Module
    smoother : Smoother
    x : dict of str to Tensor
        Its live parameters and buffers.
    rhs : list of dict of str to Tensor
        The right-hand side b: none for zero, one, or one for each minibatch of ``common``.
    common : list
        The minibatches that a tau was formed on, which smoothing goes through too; empty for the stream.
    injected : dict of str to Tensor
        The x that it was given on the way down.
    turns : int
        Steps on the common minibatches so far.
    """

    model: nn.Module
    smoother: Smoother
    x: Vector
    rhs: list[Vector] = field(default_factory=list)
    common: list[Any] = field(default_factory=list)
    injected: Vector = field(default_factory=dict)
    turns: int = 0

    def b(self, i: int) -> Vector:
        """Return the right-hand side that belongs to the i-th common minibatch."""
        return self.rhs[i % len(self.rhs)] if self.rhs else {}

    def settle(self) -> None:
        """Forget what was brought down: the level minimises f itself, on the stream."""
        self.rhs, self.common, self.injected, self.turns = [], [], {}, 0


@contextlib.contextmanager
def without_side_effects(models: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluate without traces: running statistics and random numbers are afterwards what they were.

    Within, random numbers begin at one seed each time, so that dropout drops the same for two points of one network.
    """
    kept = [{name: b for name, b in model.named_buffers() if b.is_floating_point() or b.ndim == 0} for model in models]
    values = [copy_vector(buffers) for buffers in kept]
    devices = sorted({p.device for m in models for p in m.parameters() if p.is_cuda}, key=str)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            for buffers, value in zip(kept, values, strict=True):
                if buffers:
                    assign(buffers, value)
