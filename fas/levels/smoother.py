"""The smoother of one level: any torch optimizer, on f(x) - <b, x>.

A step whose loss or gradient is not finite is refused, and no weight changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from netgraph.environment.torch_internals import subtract_each_
from netgraph.errors import NetgraphError
from netgraph.fas.levels.vectors import Vector
from netgraph.fas.options import Smoothing
from netgraph.optim.optimizers import MakeOptimizer, group_by_decay, group_matrices, takes_matrices

Value = Callable[[nn.Module, Any], Tensor]


class StepResult(NamedTuple):
    """Outcome of one step: the loss, the norm of its gradient, and whether the step was taken."""

    loss: float
    norm: float
    taken: bool


class Smoother:
    """The optimizer of one level.

    Parameters
    ----------
    model : torch.nn.Module
    make_optimizer : callable ``(parameter groups, lr=...) -> torch.optim.Optimizer``
        A class of ``torch.optim``, or a partial of one.
    lr : float
        Largest learning rate.
    weight_decay : float, optional
        Decay of parameters with two dimensions or more. Norms and biases do not decay. None leaves decay to the optimizer.
    options : Smoothing, optional
    scales : dict of str to float, optional
        Factors of the learning rate by parameter name, 1 by default (`netgraph.fas.levels.width_scaling`).
    matrices : collection of str, default ()
        Matrices of hidden layers, for Muon.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        lr: float,
        *,
        weight_decay: float | None = None,
        options: Smoothing | None = None,
        scales: Mapping[str, float] | None = None,
        matrices: Collection[str] = (),
    ) -> None:
        self.model, self.options, self.lr = model, options or Smoothing(), lr
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        scale_of = {name: (scales or {}).get(name, 1.0) for name in self.named}
        self.scales = [*dict.fromkeys(scale_of.values())]
        groups: list[dict[str, Any]] = []
        for scale in self.scales:
            part = {name: p for name, p in self.named.items() if scale_of[name] == scale}
            split = (
                group_matrices(part, matrices, weight_decay)
                if takes_matrices(make_optimizer)
                else group_by_decay(part.values(), weight_decay)
            )
            groups += [{**group, "lr": lr * scale, "scale": scale} for group in split]
        self.optimizer = make_optimizer(groups, lr=lr)

    def follow(self, group: Mapping[str, Any], warm: float = 1.0) -> None:
        """Take over the values of a schedule: the rate as a factor, momentum and betas as they are.

        Parameters
        ----------
        group : dict
            The schedule's parameter group.
        warm : float, default 1
            Further factor of the rate, below 1 while the level warms up.
        """
        for own_group in self.optimizer.param_groups:
            own_group["lr"] = self.lr * own_group["scale"] * group["lr"] * warm
            own_group.update({key: group[key] for key in ("momentum", "betas") if key in group and key in own_group})

    # x <- optimizer step on the mean over minibatches of f(x) - <b, x>, whose gradient is grad f(x) - b
    def step(self, value: Value, batches: Sequence[Any], b: Mapping[str, Tensor]) -> StepResult:
        """Take one step on the mean over some minibatches.

        Parameters
        ----------
        value : callable ``(model, minibatch) -> scalar``
        batches : sequence
        b : dict of str to Tensor
            The right-hand side, empty for zero.
        """
        return self.apply_gradient(accumulate_gradient(self.model, value, batches, bf16=self.options.bf16), b)

    def apply_gradient(self, loss: float, b: Mapping[str, Tensor]) -> StepResult:
        """Take one step by the gradients of f in ``.grad``, less b, and clear them.

        Parameters
        ----------
        loss : float
            Value of f.
        b : dict of str to Tensor
            The right-hand side, empty for zero.
        """
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


def accumulate_gradient(model: nn.Module, value: Value, batches: Sequence[Any], *, bf16: bool = False) -> float:
    """Write the gradient of the mean over minibatches to ``.grad``, and return that mean."""
    total = 0.0
    for batch in batches:
        loss = compute_value(model, value, batch, bf16=bf16)
        check_gradient(loss)
        (loss / len(batches) if len(batches) > 1 else loss).backward()
        total += float(loss.detach())
    return total / len(batches)


def check_gradient(loss: Tensor) -> None:
    """Refuse a loss that depends on no parameter."""
    if not loss.requires_grad:
        raise NetgraphError(
            "the loss of a minibatch depends on no parameter that is trained. Compute it from the outputs of the network, without "
            "detach() and torch.no_grad()."
        )


def compute_value(model: nn.Module, value: Value, batch: Any, *, bf16: bool) -> Tensor:
    """Return f of a level on one minibatch.

    Raises
    ------
    NetgraphError
        f is no tensor of one real number.
    """
    if bf16:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
            loss = value(model, batch)
    else:
        loss = value(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        kind = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise NetgraphError(
            f"the loss of a minibatch is a {kind}. Return a tensor of one real number, such as that of torch.nn.functional.mse_loss."
        )
    return loss


def subtract_from_gradients(b: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> None:
    """Subtract b from the gradients in ``.grad``."""
    pairs = [(p.grad, b[name]) for name, p in named.items() if name in b and p.grad is not None]
    if pairs:
        subtract_each_(*map(list, zip(*pairs, strict=True)))


def read_gradients(smoother: Smoother) -> Vector:
    """Return the live gradients in ``.grad`` by parameter name."""
    return {name: p.grad for name, p in smoother.named.items() if p.grad is not None}
