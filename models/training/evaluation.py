"""What a trained classifier is judged by: accuracy, loss, calibration error and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.models.data.datasets import Dataset
from netgraph.models.training.trainer import predict_split
from netgraph.utils.torchvision_compat import prepare_torchvision


@dataclass(frozen=True)
class Evaluation:
    """Figures of one network on one split.

    Parameters
    ----------
    accuracy : float
        The share of targets that have the largest output.
    loss : float
        The mean cross-entropy.
    calibration_error : float, optional
        Mean difference between confidence and accuracy over 15 bins (Guo et al., ICML 2017, eq. 3); like the confusion
        matrix left out for next tokens, whose classes are the vocabulary.
    confusion : Tensor, (classes, classes), optional
        How many of each class (rows) were taken for which (columns).
    """

    accuracy: float
    loss: float
    calibration_error: float | None = None
    confusion: Tensor | None = None

    def document(self) -> dict[str, Any]:
        """Return the figures as data for JSON."""
        confusion = None if self.confusion is None else self.confusion.tolist()
        return {**vars(self), "confusion": confusion}


def evaluate_fully(model: nn.Module, data: Dataset, *, split: str = "test", batch: int = 512) -> Evaluation:
    """Return a network's figures on a split, in evaluation mode; its mode is left as it was.

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
    metrics: Any = None
    tokens = data.test.targets.ndim > 1
    total, n = torch.zeros((), dtype=torch.float64), 0
    for outputs, wanted in predict_split(model, data, split=split, batch=batch):
        metrics = metrics or _build_metrics(outputs.shape[1], outputs.device, tokens=tokens)
        metrics.update(outputs.float(), wanted)
        total += nn.functional.cross_entropy(outputs.float(), wanted, reduction="sum").cpu()
        n += int((wanted != -100).sum())
    found = {} if metrics is None else metrics.compute()
    error, confusion = found.get("calibration"), found.get("confusion")
    return Evaluation(
        float(found.get("accuracy", float("nan"))),
        float(total) / max(n, 1),
        None if error is None else float(error),
        None if confusion is None else confusion.cpu(),
    )


def _build_metrics(n_classes: int, device: torch.device, *, tokens: bool) -> Any:
    prepare_torchvision()  # torchmetrics imports it
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

    kinds: dict[str, Any] = {"accuracy": MulticlassAccuracy(n_classes, average="micro", ignore_index=-100)}
    if not tokens:
        kinds["calibration"] = MulticlassCalibrationError(n_classes, n_bins=15)
        kinds["confusion"] = MulticlassConfusionMatrix(n_classes)
    return MetricCollection(kinds, compute_groups=False).to(device)
