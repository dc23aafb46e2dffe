"""Problem: the function that every level minimises, a mean over minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from netgraph.coarsen.directions.resolution import list_output_shapes
from netgraph.errors import NetgraphError
from netgraph.fas.levels.batch_resolution import Restrict, find_divisor, restrict_batch
from netgraph.fas.levels.grid import without_side_effects
from netgraph.fas.levels.maps import HierarchyMaps, Maps
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree


class Objective(Protocol):
    """The two members of a problem that the solver needs. Any class with them will do.

    Attributes
    ----------
    batches : iterable
        Gives the minibatches of one pass, and can be iterated again. If it has ``set_epoch``, that is called before each
        pass.

    Examples
    --------
    >>> from netgraph.fas import Objective
    >>> class Energy(Objective):
    ...     batches = (None,)  # one minibatch, without data
    ...     def value(self, model, batch):
    ...         return model()
    """

    batches: Iterable[Any]

    def value(self, model: nn.Module, batch: Any) -> Tensor:
        """Return f of a level on one minibatch, as a differentiable scalar."""


def count_batches(batches: Iterable[Any]) -> int | None:
    """Return the number of minibatches in one pass, or None if it is unknown.

    ``len()`` of a ``DataLoader`` of an ``IterableDataset`` exists and fails.
    """
    try:
        return len(batches)  # type: ignore[arg-type]  # an object without len() raises
    except TypeError:
        return None


class Problem:
    """Minimise a loss over minibatches of inputs and targets.

    Parameters
    ----------
    batches : iterable of (inputs, targets)
        A ``DataLoader``, a list, or another iterable that can be iterated again. Inputs nest as the network takes them: a
        tensor, a tuple of arguments or a dict of keyword arguments.
    loss : callable ``(outputs, targets) -> scalar``
        The mean over the minibatch.
    valid : callable ``(model) -> dict of str to float``, optional
        Figures to measure during training, such as ``{"loss": ..., "accuracy": ...}``.
    restrict : str, dict of str to str, or callable, optional
        How targets and inputs get the resolution of a coarse level in space (`netgraph.fas.restrict_batch`), such as
        ``"average"`` for images and ``"majority"`` for maps of labels. A network that answers images needs it there.
    settings : dict, optional
        Settings of the loss, the minibatches and the levels by name, such as ``{"label smoothing": 0.1}``. Functions cannot be
        compared, therefore a checkpoint is refused if its settings differ (`netgraph.fas.checkpoint.fingerprint`).

    Raises
    ------
    NetgraphError
        ``batches`` is an iterator, which a second pass would find empty.

    Examples
    --------
    >>> import torch
    >>> from netgraph.fas import Problem
    >>> batches = [(torch.ones(8, 3), torch.zeros(8, 1)), (torch.ones(8, 3), torch.ones(8, 1))]
    >>> problem = Problem(batches, torch.nn.functional.mse_loss)
    >>> model = torch.nn.Linear(3, 1)
    >>> problem.value(model, batches[0]).shape
    torch.Size([])
    """

    def __init__(
        self,
        batches: Iterable[Any],
        loss: Callable[[Any, Any], Tensor],
        *,
        valid: Callable[[nn.Module], dict[str, float]] | None = None,
        restrict: Restrict | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if iter(batches) is batches:
            raise NetgraphError(
                "the minibatches are an iterator, which can be used once only. Give a DataLoader or a list."
            )
        self.batches, self.loss, self.valid, self.restrict = batches, loss, valid, restrict
        self.settings = dict(settings or {})

    def value(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a level's network on one minibatch, at the resolution of the level.

        Parameters
        ----------
        model : torch.nn.Module
        batch : pair of inputs and targets
            At the finest resolution.

        Returns
        -------
        Tensor
            A scalar.

        Raises
        ------
        NetgraphError
            The minibatch is not a pair, or cannot be restricted.
        """
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise NetgraphError(
                f"a minibatch is a {type(batch).__name__}, not a pair of inputs and targets. Give pairs, or a problem of your "
                "own with batches and value(model, batch)."
            )
        inputs, targets = batch
        divisor = find_divisor(model)
        if self.restrict is not None and divisor > 1:
            inputs, targets = restrict_batch((inputs, targets), self.restrict, divisor)
        args, kwargs = normalize_example(inputs)
        return self.loss(model(*args, **kwargs), targets)


def check_resolutions(maps: Maps, problem: Objective, peek: Callable[[], Any]) -> None:
    """Refuse levels that answer images of a lower resolution, if a problem does not say what to compare them with.

    Raises
    ------
    NetgraphError
        The problem has no ``restrict``, or its minibatches cannot be restricted to a level.
    """
    if not isinstance(problem, Problem) or not isinstance(maps, HierarchyMaps):
        return
    fine, *coarse = maps.hierarchy.levels
    for i, level in enumerate(coarse, start=1):
        shapes, fine_shapes = list_output_shapes(level.spec), list_output_shapes(fine.spec)
        if shapes != fine_shapes and problem.restrict is None:
            raise NetgraphError(
                f"level {i} answers {shapes}, and the targets are for {fine_shapes}. Give Problem(restrict=...), such as "
                "restrict='average' for images."
            )
        if problem.restrict is not None and level.pool > 1:
            restrict_batch(peek(), problem.restrict, level.pool)


def make_batch_loss(problem: Objective, batch: Any) -> Callable[[nn.Module], float]:
    """Return the loss of a problem on one minibatch, as a function of the network.

    ``build_hierarchy(..., ratio="gap:0.05", loss=...)`` measures such a loss.

    Parameters
    ----------
    problem : Objective
        Its ``value`` is the loss.
    batch : object
        The minibatch, on any device.

    Returns
    -------
    callable ``(model) -> float``

    Examples
    --------
    >>> import torch
    >>> from netgraph.fas import Problem, make_batch_loss
    >>> batch = (torch.ones(8, 3), torch.ones(8, 3))
    >>> loss = make_batch_loss(Problem([batch], torch.nn.functional.mse_loss), batch)
    >>> loss(torch.nn.Identity())
    0.0
    """

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        network.train()  # the gate measures the gap in training mode
        with without_side_effects([network]):
            return float(problem.value(network, move_to_device(batch, device)))

    return loss


def count_rows(batch: Any) -> int:
    """Return the number of samples of a minibatch: the first dimension of its first tensor, or 1 if it has none."""
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
