"""What a network is judged by: a metric by name on rows with targets, the error of its outputs without targets, or a function.

Each metric is one number of a network. `Metric.larger_is_better` says which way it goes, so that losses and accuracies are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from netgraph.coarsen.compression.latency import count_rows, has_rows
from netgraph.coarsen.network.finite_values import check_rows
from netgraph.coarsen.network.functional_error import (
    ExpectedOutputs,
    choose_batch,
    compute_outputs,
    explain_inputs,
    function_error,
    iterate_outputs,
    split_batches,
)
from netgraph.coarsen.tuning.losses import have_same_order, place_classes_last
from netgraph.errors import NetgraphError, describe_error
from netgraph.utils.choices import METRICS

BATCH = 128
IGNORED = -100  # target of a token that counts in no metric, as in torch.nn.CrossEntropyLoss


@dataclass(frozen=True)
class Metric:
    """One number that a network is judged by.

    Parameters
    ----------
    name : str
        Its name in tables.
    measure : callable ``(network) -> float``
        Judges a network.
    larger_is_better : bool, default True
        False for losses and errors.
    counted : int, default 0
        Targets that a share of right answers is counted over, or 0 for other metrics.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import Metric
    >>> metric = Metric("weights", lambda network: float(sum(p.numel() for p in network.parameters())), larger_is_better=False)
    >>> metric.evaluate(torch.nn.Linear(2, 3))
    9.0
    """

    name: str
    measure: Callable[[nn.Module], float]
    larger_is_better: bool = True
    counted: int = 0

    def evaluate(self, network: nn.Module) -> float:
        """Return the metric of a network.

        Raises
        ------
        NetgraphError
            The function fails or returns no number, or the network does not run on the rows.
        """
        try:
            return float(self.measure(network))
        except NetgraphError:
            raise
        except Exception as error:  # a function of the user's may raise anything
            raise NetgraphError(
                f"the metric {self.name} fails: {describe_error(error)}. Give a function that takes a network and returns a number."
            ) from error

    def evaluate_original(self, network: nn.Module) -> float:
        """Return the metric of the network that others are compared with.

        Raises
        ------
        NetgraphError
            As of `evaluate`, or the value is no finite number, so that nothing can be compared.
        """
        value = self.evaluate(network)
        if not math.isfinite(value):
            raise NetgraphError(
                f"the metric {self.name} of the original is {value:g}, so that nothing can be compared with it. Check the network, its rows and "
                "the metric."
            )
        return value

    def loss_by(self, before: float, after: float) -> float:
        """Return how much worse a value is than the one before, in the metric's own unit."""
        return before - after if self.larger_is_better else after - before

    def find_standard_error(self, value: float) -> float:
        """Return how far chance moves a share of right answers, sqrt(p (1 - p) / n), and 0 for other metrics."""
        return math.sqrt(max(value * (1 - value), 0.0) / self.counted) if self.counted else 0.0

    def find_share_won_back(self, whole: float, small: float, after: float) -> float | None:
        """Return the share of the loss from ``whole`` to ``small`` that ``after`` has won back.

        None for a loss within chance, and where a value is no finite number.
        """
        lost = self.loss_by(whole, small)
        if not (math.isfinite(lost) and math.isfinite(after)):
            return None
        return None if lost <= self.find_standard_error(whole) else 1 - self.loss_by(whole, after) / lost

    def describe_precision(self, value: float) -> list[str]:
        """Return a sentence on the standard error of a share of right answers, or nothing for other metrics."""
        if not self.counted:
            return []
        points = 100 * self.find_standard_error(value)
        return [f"{self.name} counts {self.counted:,} targets. Its standard error is {points:.2g} points."]


def make_metric(
    metric: str | Metric | Callable[[nn.Module], float] | None,
    network: nn.Module,
    inputs: Any,
    targets: Tensor | None,
    *,
    outputs: Sequence[str] = (),
) -> Metric:
    """Return a metric by name, or a function as a metric.

    Parameters
    ----------
    metric : str, Metric, callable or None
        ``top1``, ``top5``, ``loss`` (cross-entropy in nats), ``perplexity``, ``mse``, ``mae`` or ``error``: the relative error of the
        outputs, for which targets are not needed. None takes ``top1`` for classes, ``mse`` for other targets, and ``error``
        without targets. Of a function, larger is better.
    network : torch.nn.Module
        The original, whose outputs ``error`` compares with.
    inputs : Tensor, tuple or dict
        Rows, nested like the example.
    targets : Tensor, optional
        One for each row.
    outputs : sequence of str, default ()
        Names of the outputs that ``error`` compares, by default all. Other metrics read the first of them.

    Returns
    -------
    Metric
        Runs the rows in evaluation mode, 128 at a time, or fewer where their outputs are large.

    Raises
    ------
    NetgraphError
        The name is unknown, the metric needs targets, there is not one for each row, rows or targets are not finite, or the network
        does not run on the rows.

    Examples
    --------
    >>> import torch
    >>> from netgraph.coarsen import make_metric
    >>> network, inputs, targets = torch.nn.Identity(), torch.eye(3), torch.tensor([0, 1, 1])
    >>> make_metric("top1", network, inputs, targets).evaluate(network)
    0.6666666666666666
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric(getattr(metric, "__name__", "metric"), metric)
    if metric is None:
        classes = targets is not None and not targets.is_floating_point()
        metric = "error" if targets is None else "top1" if classes else "mse"
    if metric not in METRICS:
        raise NetgraphError(f"no metric is called {metric!r}. Choose among {', '.join(METRICS)}, or give a function.")
    check_rows(inputs, "the rows of the metric")
    size = _choose_rows(network, inputs, outputs)
    batches = split_batches(inputs, size)
    if metric == "error":
        return Metric(metric, make_error_measure(network, batches, outputs), False)
    if targets is None:
        raise NetgraphError(f"the metric {metric} needs targets, and the data have none. Give targets, or take error.")
    check_rows(targets, "the targets")
    parts = _split_targets(targets, inputs, size)
    measure, larger = MEASURES[metric]
    counted = int((targets != IGNORED).sum()) if metric.startswith("top") else 0
    return Metric(metric, lambda n: measure(_pair_rows(n, batches, parts, outputs)), larger, counted)


def make_error_measure(
    network: nn.Module, batches: Sequence[Any], outputs: Sequence[str] = ()
) -> Callable[[nn.Module], float]:
    """Return a function that measures the relative error of another network's outputs on the same rows."""
    with _explain_rows():
        expected = ExpectedOutputs.of(network, batches, outputs)

    def measure(other: nn.Module) -> float:
        with _explain_rows():
            return function_error(expected, iterate_outputs(other, batches, outputs))

    return measure


def split_rows(network: nn.Module, inputs: Any, outputs: Sequence[str] = ()) -> list[Any]:
    """Return rows in batches of 128, or of fewer where their outputs are large."""
    return split_batches(inputs, _choose_rows(network, inputs, outputs))


def _choose_rows(network: nn.Module, inputs: Any, outputs: Sequence[str]) -> int:
    """Return how many rows make a batch."""
    with _explain_rows():
        return choose_batch(network, inputs, BATCH, outputs)


def run_rows(network: nn.Module, batches: Sequence[Any], outputs: Sequence[str] = ()) -> list[list[Tensor]]:
    """Return the outputs of a network, batch by batch.

    Raises
    ------
    NetgraphError
        The network does not run on these rows.
    """
    with _explain_rows():
        return compute_outputs(network, batches, outputs)


@contextmanager
def _explain_rows() -> Iterator[None]:
    """Say of an error in a block that the network does not run on the rows.

    Raises
    ------
    NetgraphError
    """
    try:
        yield
    except NetgraphError:
        raise
    except Exception as error:  # operators raise many kinds
        raise explain_inputs(error, "the rows of the metric") from error


def _split_targets(targets: Tensor, inputs: Any, size: int) -> Sequence[Tensor]:
    """Return the targets of each batch of rows. Inputs without common rows, as those of a graph, are one batch."""
    if not has_rows(inputs):
        return [targets]
    n = count_rows(inputs)
    if targets.shape[:1] != (n,):
        raise NetgraphError(
            f"there are targets {tuple(targets.shape)} for {n:,} rows of inputs. Give one for each row."
        )
    return list(targets.split(size))


Pairs = Iterator[tuple[Tensor, Tensor]]


def _pair_rows(
    network: nn.Module, batches: Sequence[Any], targets: Sequence[Tensor], outputs: Sequence[str] = ()
) -> Pairs:
    """Yield the first output of a network and the targets, batch by batch."""
    for batch, part in zip(batches, targets, strict=True):
        answers = run_rows(network, [batch], outputs)[0]
        if not answers:
            raise NetgraphError("the network answers no tensor. Give a function of a network as the metric.")
        answer = answers[0]
        yield answer if answer.dtype == torch.float64 else answer.float(), part.to(answer.device)


def _check_classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return one row of numbers for each class that counts: outputs (n, classes) and targets (n,).

    The classes are along the last dimension, or for the pixels of images along the second.
    """
    if targets.is_floating_point():
        raise NetgraphError(
            f"the targets are {targets.dtype}, and a metric of classes needs whole numbers as targets. Take mse, mae or error."
        )
    outputs, targets = place_classes_last(outputs, targets).flatten(0, -2), targets.flatten().long()
    counted = targets != IGNORED
    outputs, targets = outputs[counted], targets[counted]
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
        raise NetgraphError(
            f"the targets go from {int(targets.min())} to {int(targets.max())}, and the network answers {outputs.shape[1]} classes. "
            "Give targets that number its classes from 0."
        )
    return outputs, targets


def measure_top(pairs: Pairs, k: int) -> float:
    """Return the share of the targets among the k largest outputs. An answer that holds NaN is wrong."""
    right = n = 0
    for outputs, targets in pairs:
        outputs, targets = _check_classes(outputs, targets)
        if k > 1 and outputs.shape[1] <= k:
            raise NetgraphError(
                f"top{k} is 1 for every network, because the network answers {outputs.shape[1]} classes. Take top1."
            )
        top = outputs.topk(k, dim=1).indices
        hit = (top == targets[:, None]).any(1) & ~outputs.isnan().any(1)
        right, n = right + int(hit.sum()), n + len(targets)
    return _divide(right, n)


def measure_cross_entropy(pairs: Pairs) -> float:
    """Return the mean cross-entropy in nats."""
    total = n = 0.0
    for outputs, targets in pairs:
        outputs, targets = _check_classes(outputs, targets)
        total, n = total + float(functional.cross_entropy(outputs, targets, reduction="sum")), n + len(targets)
    return _divide(total, n)


def _divide(total: float, n: float) -> float:
    """Return a mean over the targets that count."""
    if not n:
        raise NetgraphError("no target counts: there are no rows, or all of them are ignored. Give rows with targets.")
    return total / n


def _measure_distance(pairs: Pairs, distance: Callable[[Tensor], Tensor]) -> float:
    """Return the mean of a function of the differences between outputs and targets."""
    total = n = 0.0
    for outputs, targets in pairs:
        if not have_same_order(outputs.shape, targets.shape):
            raise NetgraphError(
                f"the network answers {tuple(outputs.shape)} for targets of {tuple(targets.shape)}. Give targets of the answer's shape."
            )
        difference = outputs.double() - targets.reshape(outputs.shape).double()
        total, n = total + float(distance(difference).sum()), n + difference.numel()
    return _divide(total, n)


MEASURES: dict[str, tuple[Callable[[Pairs], float], bool]] = {
    "top1": (lambda pairs: measure_top(pairs, 1), True),
    "top5": (lambda pairs: measure_top(pairs, 5), True),
    "loss": (measure_cross_entropy, False),
    "perplexity": (lambda pairs: math.exp(min(measure_cross_entropy(pairs), 700.0)), False),
    "mse": (lambda pairs: _measure_distance(pairs, torch.square), False),
    "mae": (lambda pairs: _measure_distance(pairs, torch.abs), False),
}
