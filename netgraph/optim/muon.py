"""Muon for the matrices of hidden layers, with AdamW for all other parameters, as one optimizer.

Muon replaces the momentum of a matrix by the nearest orthogonal matrix. Its authors give it the matrices between hidden layers
alone: embeddings, the last layer, norms and biases go on with AdamW. The step of a matrix is scaled to the root mean square
that a step of AdamW usually has, 0.2 of the rate, so that one rate serves both.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. Liu et al., "Muon is scalable for LLM training",
arXiv:2502.16982, 2025, section 2.2 (the scale).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError

MATRICES = "matrices"  # key of a parameter group: True for Muon


def check_muon() -> None:
    """Raise `NetgraphError` if this version of PyTorch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise NetgraphError(
            f"torch {torch.__version__} has no Muon. Install 2.9 or later, or choose another optimizer, such as adamw."
        )


class MuonWithAdamW(Optimizer):
    """Muon on the groups that hold matrices of hidden layers, AdamW on the others.

    Parameters
    ----------
    params : iterable of Tensor or of dict
        Groups with matrices say ``"matrices": True``, and the other groups say False.
    lr : float, default 1e-3
        Learning rate of both. A step of a matrix has a root mean square of 0.2 times the rate.
    weight_decay : float, default 0
        Decoupled decay of both.
    momentum : float, default 0.95
        Of Muon.
    betas : tuple of float, default (0.9, 0.999)
        Of AdamW.

    Raises
    ------
    NetgraphError
        A group with a matrix does not say whose it is, or this version of PyTorch has no Muon.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> hidden, last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)
    >>> others = [hidden.bias, last.weight, last.bias]
    >>> optimizer = MuonWithAdamW(
    ...     [{"params": [hidden.weight], "matrices": True}, {"params": others, "matrices": False}], lr=0.01
    ... )
    >>> before = hidden.weight.detach().clone()
    >>> last(hidden(torch.randn(32, 8))).square().sum().backward()
    >>> optimizer.step()
    >>> step = (hidden.weight - before).square().mean().sqrt().item()
    >>> 0.001 < step < 0.003
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        check_muon()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})
        self._parts = self._make_parts()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state whose groups are other objects."""
        super().__setstate__(state)
        self._parts = self._make_parts()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which says whether it holds matrices.

        Parameters
        ----------
        param_group : dict
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if MATRICES not in group and any(p.ndim == 2 for p in group["params"]):
            raise NetgraphError(
                "muon takes the matrices of hidden layers, and a parameter group does not say whether it holds these. Give groups "
                'with "matrices": True or False, or train with ng.FAS or `netgraph train`, which know hidden layers.'
            )
        group.setdefault(MATRICES, False)
        if hasattr(self, "_parts"):
            self._parts = self._make_parts()

    def _make_parts(self) -> list[Optimizer]:
        """Return torch's own optimizers on the same groups. They add their further settings to the groups."""
        matrices = [group for group in self.param_groups if group[MATRICES]]
        others = [group for group in self.param_groups if not group[MATRICES]]
        parts: list[Optimizer] = []
        if matrices:
            parts.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw"))
        if others:
            parts.append(torch.optim.AdamW(others))
        return parts

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and its gradients.

        Returns
        -------
        The result of the closure, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.state = self.state
            part.step()
        self._count_steps()
        return loss

    def _count_steps(self) -> None:
        """Count the steps of each matrix, as AdamW counts its own. The momentum of Muon is an average over them."""
        for group in (group for group in self.param_groups if group[MATRICES]):
            for p in group["params"]:
                if p.grad is not None:
                    state: dict[str, Tensor] = self.state[p]
                    state["step"] = state.get("step", torch.zeros(())) + 1
