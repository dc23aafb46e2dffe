"""The smoother of one level: any torch optimizer, on f(x) - <b, x>.

A step whose loss or gradient is not finite is refused, and no weight changes. An optimizer that evaluates f itself, such as LBFGS,
gets f(x) - <b, x> and its gradient as a closure, and each evaluation counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from netgraph.environment.torch_internals import subtract_each_
from netgraph.errors import NetgraphError
from netgraph.fas.levels.vectors import Vector, assign, copy_vector, dot
from netgraph.fas.options.groups import Smoothing
from netgraph.optim.optimizers import MakeOptimizer, group_by_decay, group_matrices, needs_closure, takes_matrices

Value = Callable[[nn.Module, Any], Tensor]


class StepResult(NamedTuple):
    """Outcome of one step: the loss and the norm of its gradient before it, whether it was taken, and evaluations of both."""

    loss: float
    norm: float
    taken: bool
    evaluations: int = 1


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

    Raises
    ------
    NetgraphError
        The optimizer takes one group of parameters, as LBFGS does, and weight decay makes two.
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
        self.optimizer = self._make_optimizer(make_optimizer, groups)

    def _make_optimizer(self, make_optimizer: MakeOptimizer, groups: list[dict[str, Any]]) -> Optimizer:
        """Return the optimizer. One that takes a single group, such as LBFGS, gets all parameters in their order."""
        try:
            return make_optimizer(groups, lr=self.lr)
        except ValueError as error:
            settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
            if len(groups) < 2 or "group" not in str(error):
                raise
            if any(others != settings[0] for others in settings):
                raise NetgraphError(
                    f"the optimizer refuses {len(groups)} groups of parameters ({error}), which weight_decay makes. Leave it out."
                ) from error
        return make_optimizer([{**settings[0], "params": list(self.named.values())}], lr=self.lr)

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
        if needs_closure(self.optimizer):
            return self._step_with_closure(value, batches, b)
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
        size = self._finish_gradient(b)
        taken = math.isfinite(loss) and math.isfinite(size)
        if taken:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(loss, size, taken)

    def _finish_gradient(self, b: Mapping[str, Tensor]) -> float:
        """Subtract b from the gradients in ``.grad``, clip them, and return their norm before clipping."""
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        subtract_from_gradients(b, self.named)
        norm = torch.nn.utils.get_total_norm(grads)
        size = float(norm)
        if self.options.clip is not None and math.isfinite(size):
            torch.nn.utils.clip_grads_with_norm_(list(self.named.values()), self.options.clip, norm)
        return size

    def _step_with_closure(self, value: Value, batches: Sequence[Any], b: Mapping[str, Tensor]) -> StepResult:
        """Let an optimizer that evaluates f itself take a step. One that began or ended at numbers that are not finite is undone."""
        before, measured = copy_vector(self.named), list[tuple[float, float]]()

        def closure() -> float:
            self.optimizer.zero_grad()
            loss = accumulate_gradient(self.model, value, batches, bf16=self.options.bf16)
            measured.append((loss, self._finish_gradient(b)))
            return loss - dot(b, {name: p.detach() for name, p in self.named.items()})

        self.optimizer.step(closure)
        self.optimizer.zero_grad()
        loss, size = measured[0] if measured else (math.nan, math.nan)
        taken = all(map(math.isfinite, (loss, size))) and all(bool(p.isfinite().all()) for p in self.named.values())
        if not taken:
            assign(self.named, before)
            self.optimizer.state.clear()
        return StepResult(loss, size, taken, max(len(measured), 1))

    def forget_last_step(self) -> None:
        """Let an optimizer that compares the gradients of two steps know that x was moved between them.

        LBFGS learns its curvature from the last step and the change of the gradient since. After a correction the two do not belong
        together. A last step of length 0 teaches it nothing, and it keeps what it knows.
        """
        if not needs_closure(self.optimizer):
            return
        for state in self.optimizer.state.values():
            if isinstance(state.get("d"), Tensor) and "old_dirs" in state:
                state["d"] = torch.zeros_like(state["d"])
            else:
                state.clear()


def accumulate_gradient(model: nn.Module, value: Value, batches: Sequence[Any], *, bf16: bool = False) -> float:
    """Write the gradient of the mean over minibatches to ``.grad``, and return that mean."""
    total = 0.0
    for i, batch in enumerate(batches, start=1):
        with hold_gradients(value, model, last=i == len(batches)):
            loss = compute_value(model, value, batch, bf16=bf16)
            check_gradient(loss)
            (loss / len(batches) if len(batches) > 1 else loss).backward()
        total += float(loss.detach())
    return mean_over_ranks(value, total / len(batches))


def mean_over_ranks(value: Value, number: float) -> float:
    """Return the mean of f over the processes of a run, each of which evaluates f on rows of its own (`netgraph.fas.parallel`)."""
    mean = getattr(value, "mean_over_ranks", None)
    return number if mean is None else float(mean(number))


def hold_gradients(value: Value, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Average gradients over the processes of a run only in the last of several backward passes, whose gradients add up."""
    hold: Callable[[nn.Module], AbstractContextManager[None]] | None = getattr(value, "hold_gradients", None)
    return nullcontext() if last or hold is None else hold(model)


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
