"""The smoother: any torch optimizer, on f(x) - <b, x>.

A step is refused, and nothing written, where the loss or the gradient is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from netgraph.fas.levels.vectors import Vector
from netgraph.fas.options import Smoothing

Value = Callable[[nn.Module, Any], Tensor]
MakeOptimizer = Callable[..., Optimizer]


class StepResult(NamedTuple):
    """What a step found: the loss, the norm of its gradient, and whether it was taken."""

    loss: float
    norm: float
    taken: bool


class Smoother:
    """One level's optimizer.

    Parameters
    ----------
    model : torch.nn.Module
    make : callable ``(parameter groups, lr=...) -> Optimizer``
        A class of ``torch.optim``, or a partial of one.
    lr : float
        Its largest rate.
    weight_decay : float, optional
        Of parameters with two dimensions or more: norms and biases are let be. None: what the optimizer does by itself.
    options : Smoothing
    scales : dict of str to float
        Factors of the rate for single parameters (`netgraph.fas.levels.width_scaling`).
    """

    def __init__(
        self,
        model: nn.Module,
        make: MakeOptimizer,
        lr: float,
        *,
        weight_decay: float | None = None,
        options: Smoothing | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.model, self.options, self.lr = model, options or Smoothing(), lr
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.scales = [*dict.fromkeys((scales or {}).get(name, 1.0) for name in self.named)]
        groups = []
        for scale in self.scales:
            own = [p for name, p in self.named.items() if (scales or {}).get(name, 1.0) == scale]
            for params, decay in (
                ([p for p in own if p.ndim > 1], weight_decay),
                ([p for p in own if p.ndim < 2], 0.0),
            ):
                if params:
                    groups.append({"params": params, "lr": lr * scale, "scale": scale})
                    if weight_decay is not None:
                        groups[-1]["weight_decay"] = decay
        self.optimizer = make(groups, lr=lr)

    def follow(self, group: Mapping[str, Any]) -> None:
        """Take over what a schedule has written into a parameter group: the rate as a factor, momentum as it is."""
        for own in self.optimizer.param_groups:
            own["lr"] = self.lr * own["scale"] * group["lr"]
            own.update({key: group[key] for key in ("momentum", "betas") if key in group and key in own})

    def step(self, value: Value, batches: Sequence[Any], b: Mapping[str, Tensor]) -> StepResult:
        """Take one step on the mean over some minibatches.

        Parameters
        ----------
        value : callable ``(model, minibatch) -> scalar``
        batches : sequence
        b : dict of str to Tensor
            The right-hand side; empty for zero.
        """
        loss = backward(self.model, value, batches, bf16=self.options.bf16)
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        subtract_from_gradients(b, self.named)
        norm = torch.nn.utils.get_total_norm(grads)
        size = float(norm)
        if not (math.isfinite(loss) and math.isfinite(size)):
            self.optimizer.zero_grad()
            return StepResult(loss, size, False)
        if self.options.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self.named.values()), self.options.clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(loss, size, True)


def backward(model: nn.Module, value: Value, batches: Sequence[Any], *, bf16: bool = False) -> float:
    """Leave the gradient of the mean over minibatches in ``.grad``, and return that mean."""
    total = 0.0
    for batch in batches:
        loss = compute_value(model, value, batch, bf16=bf16)
        (loss / len(batches) if len(batches) > 1 else loss).backward()
        total += float(loss.detach())
    return total / len(batches)


def compute_value(model: nn.Module, value: Value, batch: Any, *, bf16: bool) -> Tensor:
    """Return f of a level on one minibatch."""
    if not bf16:
        return value(model, batch)
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
        return value(model, batch)


def subtract_from_gradients(b: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> None:
    """Subtract b from the gradients."""
    pairs = [(p.grad, b[name]) for name, p in named.items() if name in b and p.grad is not None]
    if pairs:
        torch._foreach_sub_(*map(list, zip(*pairs, strict=True)))


def read_gradients(smoother: Smoother) -> Vector:
    """Return the gradients that lie in ``.grad`` by name, live."""
    return {name: p.grad for name, p in smoother.named.items() if p.grad is not None}
