"""Restoration of images as a training task: the loss, and PSNR and SSIM on a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netgraph.models.data.datasets import Dataset
from netgraph.models.data.degradation import Degradation
from netgraph.models.training.evaluation import (
    ToLevel,
    check_split,
    device_of,
    prepare_metrics,
)
from netgraph.utils.module_state import in_mode

SEED = 7619  # of the degradation, which is the same in every evaluation
SMALLEST = 6  # pixels a side: the window of structural similarity reaches five pixels out


@dataclass(frozen=True)
class RestorationQuality:
    """Quality of restored images.

    Parameters
    ----------
    loss : float
        Mean squared error, for images in [0, 1].
    psnr : float
        Peak signal-to-noise ratio of all images together, in decibels.
    ssim : float, optional
        Mean structural similarity (Wang et al., IEEE TIP 2004). None for images that are smaller than its window.

    Examples
    --------
    >>> from netgraph.models import RestorationQuality
    >>> RestorationQuality(0.001, 30.0, 0.9).figures()
    {'loss': 0.001, 'psnr': 30.0, 'ssim': 0.9}
    """

    loss: float
    psnr: float
    ssim: float | None = None

    def figures(self) -> dict[str, float]:
        """Return the figures by name, in the form that ``Problem(valid=...)`` takes."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def document(self) -> dict[str, Any]:
        """Return the figures as plain data for JSON."""
        return dict(vars(self))


def evaluate_restoration(
    model: nn.Module,
    data: Dataset,
    degradation: Degradation,
    *,
    split: str = "test",
    batch: int = 128,
    to_level: ToLevel | None = None,
) -> RestorationQuality:
    """Measure how well a network restores the images of a split.

    Parameters
    ----------
    model : torch.nn.Module
        Maps degraded images to clean ones.
    data : Dataset
        Images.
    degradation : Degradation
        What is done to them. Its random numbers are the same in every evaluation.
    split : str, default "test"
        ``train``, ``valid`` or ``test``.
    batch : int, default 128
        Rows of a batch.
    to_level : callable, optional
        Takes a minibatch to the resolution of the network (`netgraph.fas.restrict_batch`).

    Returns
    -------
    RestorationQuality

    Raises
    ------
    NetgraphError
        The split does not exist.

    Examples
    --------
    >>> import torch
    >>> from netgraph.models import Noise, evaluate_restoration, load_dataset
    >>> quality = evaluate_restoration(torch.nn.Identity(), load_dataset("digits"), Noise(0.1))
    >>> round(quality.psnr)  # 10 log10(1 / 0.1²)
    20
    """
    check_split(split)
    prepare_metrics()
    from torchmetrics import MeanMetric, MetricCollection
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    device, generator = device_of(model), torch.Generator().manual_seed(SEED)
    loss = MeanMetric(sync_on_compute=False).to(device)  # one of several processes waits for no other
    measured = MetricCollection({"psnr": PeakSignalNoiseRatio(data_range=1.0, sync_on_compute=False)}).to(device)
    with torch.no_grad(), in_mode(model, training=False):
        for rows in getattr(data, split).inputs.split(batch):
            clean = data.ready(rows.to(device))
            pair = (degradation.degrade(clean, generator), clean)
            inputs, targets = pair if to_level is None else to_level(pair)
            if "ssim" not in measured and min(targets.shape[2:]) >= SMALLEST:
                measured.add_metrics(
                    {"ssim": StructuralSimilarityIndexMeasure(data_range=1.0, sync_on_compute=False).to(device)}
                )
            answers = model(inputs).float()
            measured.update(answers, targets)
            loss.update(nn.functional.mse_loss(answers, targets), weight=len(rows))
    values = {name: float(value) for name, value in measured.compute().items()}
    return RestorationQuality(float(loss.compute()), values["psnr"], values.get("ssim"))
