"""Grid: one level of a run, with everything that changes on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.vectors import Vector, assign, copy_vector

SEED = 7619  # of dropout, when two networks are compared on the same minibatches


@dataclass
class Grid:
    """One level of a run.

    Parameters
    ----------
    model : torch.nn.Module
    smoother : Smoother
    x : dict of str to Tensor
        Live parameters and buffers of the model.
    rhs : list of dict of str to Tensor
        The right-hand side b: empty for zero, one vector, or one for each minibatch of ``common``.
    common : list
        Minibatches on which tau was formed and which smoothing repeats. Empty: smoothing takes the stream.
    injected : dict of str to Tensor
        The x that came down from the finer level.
    position : int, default 0
        Minibatches that smoothing has taken since the level began, of ``common`` or of the stream.
    new : dict of str to bool Tensor
        True at the entries of new units and blocks, while their updates grow from zero. Empty once they are whole.
    """

    model: nn.Module
    smoother: Smoother
    x: Vector
    rhs: list[Vector] = field(default_factory=list)
    common: list[Any] = field(default_factory=list)
    injected: Vector = field(default_factory=dict)
    position: int = 0
    new: Vector = field(default_factory=dict)

    def b(self, i: int) -> Vector:
        """Return the right-hand side of the i-th common minibatch."""
        return self.rhs[i % len(self.rhs)] if self.rhs else {}

    def reset(self) -> None:
        """Drop right-hand side and common minibatches: the level minimises f itself, on the stream."""
        self.rhs, self.common, self.injected, self.position, self.new = [], [], {}, 0, {}


@contextlib.contextmanager
def keep_modes(models: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the mode of every module after the block, training or evaluation."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def without_side_effects(models: Sequence[nn.Module]) -> Iterator[None]:
    """Restore running statistics and random numbers after the block.

    Random numbers begin at the same seed in every such block. Dropout therefore drops the same units at two points of one
    network, and their losses can be compared.
    """
    buffers_of = [
        {name: b for name, b in model.named_buffers() if b.is_floating_point() or b.ndim == 0} for model in models
    ]
    values = [copy_vector(buffers) for buffers in buffers_of]
    devices = sorted({p.device for m in models for p in m.parameters() if p.is_cuda}, key=str)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            for buffers, value in zip(buffers_of, values, strict=True):
                if buffers:
                    assign(buffers, value)
