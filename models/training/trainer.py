"""Train a classifier or a language model on a data set in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from netgraph.errors import NetgraphError
from netgraph.models.data.augmentation import Augment, apply_augmentation
from netgraph.models.data.batching import batch_rows
from netgraph.models.data.datasets import Dataset
from netgraph.models.training.evaluation import check_classes, device_of, predict_batch
from netgraph.optim.optimizers import LARGEST_RATE, find_optimizer, group_by_decay
from netgraph.optim.schedules import find_schedule
from netgraph.utils.seeds import make_generator


def fit(
    model: nn.Module,
    data: Dataset,
    *,
    epochs: int = 30,
    batch: int = 64,
    optimizer: str = "adam",
    lr: float = 2e-3,
    schedule: str = "one-cycle",
    weight_decay: float = 0.0,
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    bf16: bool = False,
    seed: int = 7619,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train a network in place on the training split.

    Afterwards the network is in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        Maps ``data.ready(inputs)`` to (n, n_classes), or to (n, length, n_tokens) for next tokens.
    data : Dataset
        The data set.
    epochs : int, default 30
        Passes over the training split.
    batch : int, default 64
        Rows of a minibatch.
    optimizer : str, default "adam"
        ``adam``, ``adamw``, ``rmsprop`` or ``sgd`` (Nesterov momentum 0.9). ``muon`` needs to know hidden layers, which `netgraph.FAS`
        does.
    lr : float, default 2e-3
        Largest learning rate of the schedule.
    schedule : str, default "one-cycle"
        ``one-cycle`` (Smith and Topin, 2019), ``cosine`` or ``constant``.
    weight_decay : float, default 0
        Weight decay of parameters with two or more dimensions. Norms and biases do not decay.
    augment : callable or torch.nn.Module, optional
        Augmentation of a minibatch, as for `netgraph.models.Loader`.
    label_smoothing : float, default 0
        Label smoothing of the cross-entropy.
    bf16 : bool, default False
        Compute products in bfloat16. Parameters keep their dtype.
    seed : int, default 7619
        Seed of the order, the augmentation and dropout. The state of torch's global generator is restored afterwards.
    report : callable ``(epoch, loss)``, optional
        Called after every epoch with its number, from 0, and its mean loss.

    Raises
    ------
    NetgraphError
        The optimizer or the schedule does not exist, a number is out of range, the network does not fit the data set, or the loss is not
        finite.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import evaluate, fit, load_dataset, mlp
    >>> _ = torch.manual_seed(0)
    >>> data, model = load_dataset("digits").flat(), mlp((64, 32, 10))
    >>> fit(model, data, epochs=3, lr=0.02)
    >>> evaluate(model, data).accuracy > 0.9
    True
    """
    _check_settings(model, data, epochs, lr, weight_decay, label_smoothing)
    generator = make_generator(seed)
    steps = epochs * len(batch_rows(data, data.train, batch=batch))
    groups = group_by_decay((p for p in model.parameters() if p.requires_grad), weight_decay)
    descent = find_optimizer(optimizer)(groups, lr=lr)
    plan = find_schedule(schedule)(descent, lr, steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    device = device_of(model)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total = torch.zeros((), device=device)
            order = batch_rows(data, data.train, batch=batch, generator=generator)
            for rows in order:
                inputs = apply_augmentation(augment, data.train.inputs[rows], generator)
                descent.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    outputs, targets = predict_batch(model, data, inputs, data.train.targets[rows])
                if not epoch and rows is order[0]:
                    check_classes(data, data.train, outputs.shape[1])
                loss = criterion(outputs.float(), targets)
                loss.backward()
                descent.step()
                plan.step()
                total += loss.detach()
            _check_loss(float(total) / len(order), epoch, lr, report)
    model.eval()


def _check_settings(
    model: nn.Module, data: Dataset, epochs: int, lr: float, weight_decay: float, label_smoothing: float
) -> None:
    """Refuse settings with which no training can begin."""
    if epochs < 0:
        raise NetgraphError(f"epochs is {epochs}. Give a number of 0 or more.")
    if not len(data.train):
        raise NetgraphError(f"the training split of {data.name} is empty. Give a data set with examples.")
    if not any(p.requires_grad for p in model.parameters()):
        raise NetgraphError("the network has no parameter to train. Give one with parameters that require gradients.")
    if not 0 < lr <= LARGEST_RATE or not 0 <= weight_decay <= LARGEST_RATE or not 0 <= label_smoothing <= 1:
        raise NetgraphError(
            f"lr is {lr}, weight_decay is {weight_decay} and label_smoothing is {label_smoothing}. Give a rate above 0, a finite decay of 0 "
            "or more, and a smoothing from 0 to 1."
        )


def _check_loss(loss: float, epoch: int, lr: float, report: Callable[[int, float], None] | None) -> None:
    """Report the mean loss of an epoch, or raise an error if it is not finite."""
    if not loss < float("inf"):
        raise NetgraphError(f"the loss of epoch {epoch + 1} is {loss}. Train with a smaller lr than {lr}.")
    if report is not None:
        report(epoch, loss)
