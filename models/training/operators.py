"""Learned operators, from fields to the solution of an equation, as a training task: the relative error in L2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import DataError
from netgraph.models.data.datasets import Dataset
from netgraph.models.training.evaluation import (
    ToLevel,
    check_split,
    describe_answer,
    device_of,
    run_on,
)
from netgraph.utils.module_state import in_mode


@dataclass(frozen=True)
class OperatorQuality:
    """Errors of a learned operator on one split.

    Parameters
    ----------
    loss : float
        Mean over the samples of |answer - u| / |u|, in L2.
    worst : float
        The largest of these errors.

    Examples
    --------
    >>> from netgraph.models import OperatorQuality
    >>> OperatorQuality(0.02, 0.05).figures()
    {'loss': 0.02, 'worst': 0.05}
    """

    loss: float
    worst: float

    def figures(self) -> dict[str, float]:
        """Return the figures by name, in the form that ``Problem(valid=...)`` takes."""
        return dict(vars(self))

    def document(self) -> dict[str, Any]:
        """Return the figures as plain data for JSON."""
        return dict(vars(self))


def relative_errors(answers: Tensor, targets: Tensor) -> Tensor:
    """Return |answer - u| / |u| of each sample (n,). A solution that is zero everywhere counts as one of length 1."""
    difference = torch.linalg.vector_norm((answers.float() - targets).flatten(1), dim=1)
    length = torch.linalg.vector_norm(targets.flatten(1), dim=1)
    errors: Tensor = difference / torch.where(length > 0, length, 1.0)
    return errors


def mean_relative_error(answers: Tensor, targets: Tensor) -> Tensor:
    """Return the loss: the mean of the relative errors in L2."""
    return relative_errors(answers, targets).mean()


def evaluate_operator(
    model: nn.Module, data: Dataset, *, split: str = "test", batch: int = 64, to_level: ToLevel | None = None
) -> OperatorQuality:
    """Measure how well a network maps fields to solutions.

    Parameters
    ----------
    model : torch.nn.Module
        Maps ``data.ready(inputs)`` to solutions.
    data : Dataset
        Fields and solutions, such as those of `load_darcy`.
    split : str, default "test"
        ``train``, ``valid`` or ``test``.
    batch : int, default 64
        Rows of a batch.
    to_level : callable, optional
        Takes a minibatch to the resolution of the network (`netgraph.fas.restrict_batch`).

    Returns
    -------
    OperatorQuality

    Raises
    ------
    DataError
        The split is empty, or a batch has no rows, or the answers do not have the shape of the solutions.
    NetgraphError
        The split does not exist.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import evaluate_operator, load_darcy
    >>> idle = torch.nn.Conv2d(3, 1, 1)
    >>> for parameter in idle.parameters():
    ...     _ = parameter.data.zero_()
    >>> evaluate_operator(idle, load_darcy(8, sizes=(1, 1, 2))).loss  # an answer of 0 misses all of u
    1.0
    """
    check_split(split)
    part, device, errors = getattr(data, split), device_of(model), []
    if batch < 1 or not len(part):
        raise DataError(f"the split {split} has {len(part)} rows, and a batch {batch}. Give one or more of both.")
    with torch.no_grad(), in_mode(model, training=False):
        for inputs, targets in zip(part.inputs.split(batch), part.targets.split(batch), strict=True):
            pair = (data.ready(inputs.to(device)), targets.to(device))
            inputs, targets = pair if to_level is None else to_level(pair)
            errors.append(relative_errors(_answer(model, inputs, targets), targets))
    whole = torch.cat(errors)
    return OperatorQuality(float(whole.mean()), float(whole.max()))


def _answer(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the answer of a network, after a check of its shape."""
    answer = run_on(model, inputs)
    if not isinstance(answer, Tensor) or answer.shape != targets.shape or not answer.is_floating_point():
        raise DataError(
            f"the network answers {describe_answer(answer)}, and solutions have shape {tuple(targets.shape)}. Give one that answers a "
            "real number for each cell."
        )
    return answer
