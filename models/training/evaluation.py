"""Evaluate a classifier or a language model on one split of a data set: one pass, with the metrics that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.environment.optional_packages import import_package
from netgraph.environment.torchvision_compat import prepare_torchvision
from netgraph.errors import DataError, NetgraphError, describe_error
from netgraph.models.data.batching import batch_rows, trim_padding
from netgraph.models.data.datasets import Dataset, DataSplit
from netgraph.utils.module_state import in_mode

METRICS = ("calibration_error", "confusion")  # on request; accuracy and loss are always measured
SPLITS = ("train", "valid", "test")
ToLevel = Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]  # a minibatch at the resolution of a level
IGNORED = -100  # target of a token that has no next token


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and loss of one network on one split, and further metrics on request.

    Parameters
    ----------
    accuracy : float
        Share of the targets that have the largest output.
    loss : float
        Mean cross-entropy in nats.
    calibration_error : float, optional
        Mean difference between confidence and accuracy over 15 bins (Guo et al., ICML 2017, eq. 3).
    confusion : Tensor of shape (n_classes, n_classes), optional
        Counts of targets: the true class gives the row, the predicted class the column.

    Examples
    --------
    >>> from netgraph.models import Evaluation
    >>> Evaluation(accuracy=0.75, loss=0.5).figures()
    {'accuracy': 0.75, 'loss': 0.5}
    """

    accuracy: float
    loss: float
    calibration_error: float | None = None
    confusion: Tensor | None = None

    def figures(self) -> dict[str, float]:
        """Return accuracy and loss by name, in the form that ``Problem(valid=...)`` takes."""
        return {"accuracy": self.accuracy, "loss": self.loss}

    def document(self) -> dict[str, Any]:
        """Return all metrics as plain data for JSON."""
        confusion = None if self.confusion is None else self.confusion.tolist()
        return {**vars(self), "confusion": confusion}


def evaluate(
    model: nn.Module, data: Dataset, *, split: str = "test", batch: int = 512, metrics: Sequence[str] = ()
) -> Evaluation:
    """Evaluate a network on one split of a data set.

    The network runs in evaluation mode. Afterwards every module is in the mode that it had before.

    Parameters
    ----------
    model : torch.nn.Module
        Maps ``data.ready(inputs)`` to (n, n_classes), or to (n, length, n_tokens) for next tokens.
    data : Dataset
        The data set.
    split : str, default "test"
        ``train``, ``valid`` or ``test``.
    batch : int, default 512
        Rows of a batch.
    metrics : sequence of str, default ()
        Metrics beside accuracy and loss: ``calibration_error``, ``confusion``. Both are left out for next tokens,
        because their classes are the whole vocabulary.

    Returns
    -------
    Evaluation
        A metric that was not measured is None. Accuracy and loss of an empty split are NaN.

    Raises
    ------
    NetgraphError
        The split or a metric does not exist, or network and data set do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import evaluate, load_dataset, mlp
    >>> _ = torch.manual_seed(0)
    >>> evaluation = evaluate(mlp(), load_dataset("digits").flat(), metrics=["confusion"])
    >>> evaluation.loss > 2  # untrained: about log(10) for ten classes
    True
    >>> int(evaluation.confusion.sum())  # the test split has 449 images
    449
    """
    _check_metrics(metrics)
    prepare_metrics()
    from torchmetrics import MeanMetric

    loss, measured = MeanMetric(sync_on_compute=False).to(device_of(model)), None
    further = () if data.test.targets.ndim > 1 else metrics
    for outputs, targets in predict_split(model, data, split=split, batch=batch):
        if measured is None:
            check_classes(data, getattr(data, split), outputs.shape[1])
        measured = measured or _build_metrics(outputs.shape[1], further).to(outputs.device)
        measured.update(outputs.float(), targets)
        loss.update(nn.functional.cross_entropy(outputs.float(), targets), weight=(targets != IGNORED).sum())
    values = {} if measured is None else measured.compute()
    error, confusion = values.get("calibration_error"), values.get("confusion")
    return Evaluation(
        float(values.get("accuracy", float("nan"))),
        float(loss.compute()),
        None if error is None else float(error),
        None if confusion is None else confusion.cpu(),
    )


def _check_metrics(metrics: Sequence[str]) -> None:
    for name in metrics:
        if name not in METRICS:
            raise NetgraphError(f"no metric is called {name!r}. Choose among {', '.join(METRICS)}.")


def _build_metrics(n_classes: int, names: Sequence[str]) -> Any:
    """Return a torchmetrics collection of accuracy and the named metrics.

    One of several processes measures the whole split, and waits for no other.
    """
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

    alone: dict[str, Any] = {"sync_on_compute": False}
    collection: dict[str, Any] = {
        "accuracy": MulticlassAccuracy(n_classes, average="micro", ignore_index=IGNORED, **alone)
    }
    if "calibration_error" in names:
        collection["calibration_error"] = MulticlassCalibrationError(n_classes, n_bins=15, **alone)
    if "confusion" in names:
        collection["confusion"] = MulticlassConfusionMatrix(n_classes, **alone)
    return MetricCollection(collection, compute_groups=False)


def prepare_metrics() -> None:
    """Import torchmetrics now, because the import takes seconds that would count as those of the first evaluation."""
    prepare_torchvision()  # torchmetrics imports torchvision
    import_package("torchmetrics.classification", "an evaluation")


@torch.no_grad()
def predict_split(model: nn.Module, data: Dataset, *, split: str, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield outputs (m, n_classes) and targets (m,) of every batch of a split, in evaluation mode.

    Raises
    ------
    NetgraphError
        The split does not exist.
    """
    check_split(split)
    part = getattr(data, split)
    with in_mode(model, training=False):
        for rows in batch_rows(data, part, batch=batch):
            yield predict_batch(model, data, part.inputs[rows], part.targets[rows])


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in SPLITS:
        raise NetgraphError(f"no split is called {split!r}. Choose one of {', '.join(SPLITS)}.")


def predict_batch(model: nn.Module, data: Dataset, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs (m, n_classes) and targets (m,) of a batch of m texts or images, or of all its m tokens."""
    device = device_of(model)
    inputs, targets = trim_padding(data, inputs, targets)
    outputs, targets = run_on(model, data.ready(inputs.to(device))), targets.to(device).flatten()
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim < 2:
        raise DataError(
            f"the network answers {describe_answer(outputs)}. Give one whose answer has a number for each class of {data.name}."
        )
    outputs = outputs.flatten(0, -2)
    if (
        len(outputs) != len(targets)
        or targets.is_floating_point()
        or targets.is_complex()
        or targets.dtype is torch.bool
    ):
        raise DataError(
            f"the network answers {len(outputs)} rows for {len(targets)} targets of {targets.dtype} in {data.name}. Give one class, a whole "
            "number, for each row of its answer."
        )
    return outputs, targets


def run_on(model: nn.Module, inputs: Tensor) -> Any:
    """Return the answer of a network on a batch. Its own error becomes a sentence."""
    try:
        return model(inputs)
    except NetgraphError:
        raise
    except Exception as error:  # a network may fail in any way
        raise DataError(
            f"the network does not run on inputs of shape {tuple(inputs.shape)}: {describe_error(error)}. Give a network and a data set that "
            "fit each other."
        ) from error


def describe_answer(answer: Any) -> str:
    """Return what a network answered in words."""
    return (
        f"{answer.dtype} of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    )


def check_classes(data: Dataset, split: DataSplit, n_classes: int) -> None:
    """Refuse targets that are no classes of a network's answer.

    Raises
    ------
    DataError
    """
    targets = split.targets[split.targets != IGNORED]
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < n_classes:
        raise DataError(
            f"{data.name} has the targets {int(targets.min())} to {int(targets.max())}, and the network answers {n_classes} classes. Number "
            "the classes from 0, and give a network with an output for each."
        )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters, the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
