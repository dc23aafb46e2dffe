"""Train and judge a classifier, or a language model, on a resident data set."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError
from netgraph.models.data.augmentation import Augment, apply_augmentation
from netgraph.models.data.batching import batch_rows, trim_padding
from netgraph.models.data.datasets import Dataset
from netgraph.utils.torchvision_compat import prepare_torchvision

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("one-cycle", "cosine", "constant")


class Score(NamedTuple):
    """What `evaluate` finds: the share of targets that have the largest output, and the mean cross-entropy."""

    accuracy: float
    loss: float


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
    """Train a network in place on the training split, and leave it in evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        Takes ``data.ready(inputs)``, gives (n, classes) or, for next tokens, (n, length, tokens).
    data : Dataset
    epochs, batch : int
    optimizer : str
        ``adam``, ``adamw`` or ``sgd`` (Nesterov momentum 0.9).
    lr : float
        The largest rate of the schedule.
    schedule : str
        ``one-cycle`` (Smith and Topin, 2019), ``cosine`` or ``constant``.
    weight_decay : float
        Of parameters with two dimensions or more: norms and biases are let be.
    augment : callable, or module, optional
        As `netgraph.models.data.loader.Loader` takes it.
    label_smoothing : float
    bf16 : bool
        Run products in bfloat16; parameters stay as they are.
    seed : int
        Of the order, of augmentation and of dropout; torch's own generator is left as it was.
    report : callable, optional
        ``report(epoch, mean loss)`` after every epoch.

    Raises
    ------
    NetgraphError
        No optimizer or schedule of that name, or the loss is no number any more.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * len(batch_rows(data, data.train, batch=batch))
    descent = _optimizer(model, optimizer, lr, weight_decay)
    plan = _schedule(descent, schedule, lr, steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    device = _device_of(model)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total = torch.zeros((), device=device)
            order = batch_rows(data, data.train, batch=batch, generator=generator)
            for chosen in order:
                inputs, targets = (
                    apply_augmentation(augment, data.train.inputs[chosen], generator),
                    data.train.targets[chosen],
                )
                descent.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    outputs, wanted = _predict_batch(model, data, inputs, targets)
                loss = criterion(outputs.float(), wanted)
                loss.backward()
                descent.step()
                plan.step()
                total += loss.detach()
            _check_loss(float(total) / len(order), epoch, lr, report)
    model.eval()


def _predict_batch(model: nn.Module, data: Dataset, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs (m, classes) and targets (m,) of a batch: m texts or images, or all their tokens."""
    device = _device_of(model)
    inputs, targets = trim_padding(data, inputs, targets)
    return model(data.ready(inputs.to(device))).flatten(0, -2), targets.to(device).flatten()


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> Optimizer:
    if name not in OPTIMIZERS:
        raise NetgraphError(f"no optimizer is called {name!r}; there are {', '.join(OPTIMIZERS)}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return (torch.optim.Adam if name == "adam" else torch.optim.AdamW)(groups, lr=lr)


def _schedule(optimizer: Optimizer, name: str, lr: float, steps: int) -> lr_scheduler.LRScheduler:
    if name not in SCHEDULES:
        raise NetgraphError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    if name == "one-cycle":
        return lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 4))  # it divides by its first 3/10, less 1
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _check_loss(loss: float, epoch: int, lr: float, report: Callable[[int, float], None] | None) -> None:
    if not loss < float("inf"):
        raise NetgraphError(f"the loss of epoch {epoch + 1} is {loss}; train with a smaller lr than {lr}")
    if report is not None:
        report(epoch, loss)


def prepare_metrics() -> None:
    """Import what `evaluate` measures with: seconds that would count as those of the first evaluation."""
    prepare_torchvision()  # torchmetrics imports it
    importlib.import_module("torchmetrics.classification")


def evaluate(model: nn.Module, data: Dataset, *, split: str = "test", batch: int = 512) -> Score:
    """Return a network's accuracy and loss, in evaluation mode; its mode is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
    data : Dataset
    split : str
        ``train``, ``valid`` or ``test``.
    batch : int

    Raises
    ------
    NetgraphError
        No split of that name.
    """
    prepare_metrics()
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    loss, right = MeanMetric().to(_device_of(model)), None
    for outputs, wanted in predict_split(model, data, split=split, batch=batch):
        right = right or MulticlassAccuracy(outputs.shape[1], average="micro", ignore_index=-100).to(outputs.device)
        right.update(outputs, wanted)
        loss.update(nn.functional.cross_entropy(outputs.float(), wanted), weight=(wanted != -100).sum())
    return Score(float(right.compute()) if right else float("nan"), float(loss.compute()))


@torch.no_grad()
def predict_split(model: nn.Module, data: Dataset, *, split: str, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs (m, classes) and targets (m,) of every batch of a split, in evaluation mode; modes are put back.

    Raises
    ------
    NetgraphError
        No split of that name.
    """
    if split not in ("train", "valid", "test"):
        raise NetgraphError(f"no split is called {split!r}; there are train, valid and test")
    part, modes = getattr(data, split), [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for chosen in batch_rows(data, part, batch=batch):
            yield _predict_batch(model, data, part.inputs[chosen], part.targets[chosen])
    finally:
        for module, mode in modes:
            module.training = mode
