"""Problem: what is minimised on every level, the mean over minibatches of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from netgraph.errors import NetgraphError
from netgraph.fas.levels.grid import without_side_effects
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree


class Objective(Protocol):
    """What the solver asks of a problem; a class of your own with these two will do.

    Attributes
    ----------
    batches : iterable
        Gives the minibatches of one pass, again and again. Where it has ``set_epoch``, that is called before each pass.
    """

    batches: Iterable[Any]

    def value(self, model: nn.Module, batch: Any) -> Tensor:
        """Return f of a level on one minibatch, a scalar that can be differentiated."""


def count_batches(batches: Iterable[Any]) -> int | None:
    """Return the minibatches of one pass, None where nobody knows: a ``DataLoader`` of an ``IterableDataset`` has a len() that fails."""
    try:
        return len(batches)  # type: ignore[arg-type]  # what has none raises
    except TypeError:
        return None


class Problem:
    """Train on minibatches of inputs and targets.

    Parameters
    ----------
    batches : iterable of (inputs, targets)
        A ``DataLoader``, a list, or anything else that can be gone through again and again. Inputs nest as the network
        takes them: a tensor, a tuple of arguments or a dict of keyword arguments.
    loss : callable ``(outputs, targets) -> scalar``
        The mean over the minibatch.
    valid : callable ``(model) -> dict of str to float``, optional
        Figures that are measured as training goes on, such as ``{"loss": ..., "accuracy": ...}``.
    settings : dict, optional
        What made the loss, the minibatches and the levels, by name, such as ``{"label smoothing": 0.1}``: a checkpoint of another
        value is refused (`netgraph.fas.checkpoint.fingerprint`), because functions cannot be compared.

    Raises
    ------
    NetgraphError
        ``batches`` is an iterator, which a second pass would find empty, or gives something other than pairs.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        loss: Callable[[Any, Any], Tensor],
        *,
        valid: Callable[[nn.Module], dict[str, float]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if iter(batches) is batches:
            raise NetgraphError(
                "the minibatches are an iterator, which can be gone through once only; give a DataLoader or a list"
            )
        self.batches, self.loss, self.valid, self.settings = batches, loss, valid, dict(settings or {})

    def value(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a level's network on one minibatch."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise NetgraphError(
                f"a minibatch is a {type(batch).__name__}, not a pair of inputs and targets; give pairs, or a problem "
                "of your own that has batches and value(model, batch)"
            )
        inputs, targets = batch
        args, kwargs = normalize_example(inputs)
        return self.loss(model(*args, **kwargs), targets)


def make_batch_loss(problem: Objective, batch: Any) -> Callable[[nn.Module], float]:
    """Return a problem's loss as a function of the network, always on the same minibatch: what ``ratio="gap:0.05"`` measures."""

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        network.train()  # as it is where the gate measures the gap
        with without_side_effects([network]):
            return float(problem.value(network, move_to_device(batch, device)))

    return loss


def count_rows(batch: Any) -> int:
    """Return the number of samples of a minibatch, the first dimension of its first tensor; 1 where it has none."""
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(first, dict):
        first = next(iter(first.values()), None)
    if isinstance(first, (tuple, list)):
        first = first[0] if first else None
    return len(first) if isinstance(first, Tensor) and first.ndim else 1


def move_to_device(batch: Any, device: torch.device) -> Any:
    """Return a minibatch with its tensors on a device."""
    if batch is None or isinstance(batch, Tensor):
        return batch if batch is None or batch.device == device else batch.to(device, non_blocking=True)
    leaves: list[Tensor] = []
    structure = build_structure(batch, leaves)
    if all(leaf.device == device for leaf in leaves):
        return batch
    return unflatten_tree(structure, [leaf.to(device, non_blocking=True) for leaf in leaves])
