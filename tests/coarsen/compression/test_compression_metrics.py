"""Metrics of compression agree with torchmetrics and with closed forms, and refuse what is no metric."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchmetrics import functional as reference
from torchmetrics.functional import text

from netgraph.coarsen import Metric, make_metric
from netgraph.coarsen.compression.metrics import IGNORED
from netgraph.coarsen.tuning.losses import label_loss
from netgraph.errors import NetgraphError

ROWS, CLASSES = 300, 7  # more than two batches


class Table(nn.Module):
    """Answers stored outputs: inputs are row numbers."""

    def __init__(self, outputs):
        super().__init__()
        self.register_buffer("outputs", outputs)

    def forward(self, rows):
        return self.outputs[rows]


def measure(name, outputs, targets):
    network = Table(outputs)
    return make_metric(name, network, torch.arange(len(outputs)), targets).evaluate(network)


@given(st.integers(0, 2**31))
def test_metrics_of_classes_agree_with_torchmetrics(seed):
    random = torch.Generator().manual_seed(seed)
    outputs = torch.randn(ROWS, CLASSES, generator=random)
    targets = torch.randint(0, CLASSES, (ROWS,), generator=random)
    for name, k in (("top1", 1), ("top5", 5)):
        expected = reference.classification.multiclass_accuracy(outputs, targets, CLASSES, top_k=k, average="micro")
        assert measure(name, outputs, targets) == pytest.approx(float(expected), abs=1e-6)
    assert measure("loss", outputs, targets) == pytest.approx(
        float(nn.functional.cross_entropy(outputs, targets)), rel=1e-5
    )


@given(st.integers(0, 2**31))
def test_metrics_of_values_agree_with_torchmetrics(seed):
    outputs, targets = torch.randn(2, ROWS, 3, generator=torch.Generator().manual_seed(seed))
    assert measure("mse", outputs, targets) == pytest.approx(
        float(reference.mean_squared_error(outputs, targets)), rel=1e-5
    )
    assert measure("mae", outputs, targets) == pytest.approx(
        float(reference.mean_absolute_error(outputs, targets)), rel=1e-5
    )


def test_the_perplexity_of_tokens_leaves_out_those_without_a_next_one():
    outputs, targets = torch.randn(130, 4, CLASSES), torch.randint(0, CLASSES, (130, 4))
    targets[:, -1] = -100
    expected = float(text.perplexity(outputs, targets, ignore_index=-100))
    assert measure("perplexity", outputs, targets) == pytest.approx(expected, rel=1e-5)
    assert measure("loss", outputs, targets) == pytest.approx(math.log(expected), rel=1e-5)
    kept = targets[:, :-1].flatten()
    right = outputs[:, :-1].flatten(0, 1).argmax(1) == kept
    assert measure("top1", outputs, targets) == pytest.approx(float(right.float().mean()))


@pytest.mark.parametrize("side", [5, CLASSES])  # of the images: another number than that of the classes, and the same
def test_pixels_have_their_classes_along_the_second_dimension(side):
    outputs, targets = torch.randn(20, CLASSES, side, side), torch.randint(0, CLASSES, (20, side, side))
    assert measure("top1", outputs, targets) == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))
    expected = float(nn.functional.cross_entropy(outputs, targets))
    assert measure("loss", outputs, targets) == pytest.approx(expected, rel=1e-5)


def test_an_answer_that_is_no_number_is_wrong_and_not_right_by_chance():
    outputs, targets = torch.randn(10, CLASSES), torch.zeros(10, dtype=torch.int64)
    outputs[:, 0] = 10.0
    outputs[:4] = float("nan")
    assert measure("top1", outputs, targets) == pytest.approx(0.6)
    assert measure("top5", outputs, targets) == pytest.approx(0.6)
    assert math.isnan(measure("loss", outputs, targets))


def test_the_error_of_scaled_outputs_is_their_scale():
    outputs = torch.randn(ROWS, CLASSES)
    metric = make_metric("error", Table(outputs), torch.arange(ROWS), None)
    assert not metric.larger_is_better
    assert metric.evaluate(Table(1.25 * outputs)) == pytest.approx(0.25, rel=1e-5)


def test_the_usual_metric_follows_from_the_targets():
    network, rows = Table(torch.randn(4, 3)), torch.arange(4)
    names = [
        make_metric(None, network, rows, targets).name for targets in (torch.zeros(4).long(), torch.zeros(4, 3), None)
    ]
    assert names == ["top1", "mse", "error"]


def test_a_loss_and_an_accuracy_lose_in_their_own_direction():
    accuracy = Metric("accuracy", lambda _: 0.0)
    loss = Metric("loss", lambda _: 0.0, larger_is_better=False)
    assert accuracy.loss_by(0.9, 0.8) == pytest.approx(0.1)
    assert loss.loss_by(0.9, 0.8) == pytest.approx(-0.1)


def test_the_standard_error_is_that_of_many_draws_and_a_smaller_loss_is_not_won_back():
    generator = np.random.default_rng(0)
    targets = torch.zeros(500, dtype=torch.long)
    targets[7] = IGNORED
    metric = make_metric("top1", nn.Identity(), torch.zeros(500, 3), targets)
    assert metric.counted == 499
    draws = generator.binomial(499, 0.8, size=20_000) / 499
    assert metric.find_standard_error(0.8) == pytest.approx(draws.std(), rel=0.02)
    assert metric.find_share_won_back(0.8, 0.79, 0.8) is None  # 1 point, with a standard error of 1.8
    assert metric.find_share_won_back(0.8, 0.6, 0.75) == pytest.approx(0.75)
    assert metric.describe_precision(0.8) == ["top1 counts 499 targets. Its standard error is 1.8 points."]


def test_a_loss_has_no_standard_error_of_shares():
    metric = make_metric("loss", nn.Identity(), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    assert metric.find_standard_error(2.0) == 0
    assert metric.describe_precision(2.0) == []
    assert metric.find_share_won_back(1.0, 1.5, 1.25) == pytest.approx(0.5)
    assert metric.find_share_won_back(1.0, 1.0, 0.9) is None


def raise_error(_):
    raise KeyError("nothing")


BAD = {
    "a function that raises": (lambda: Metric("mine", raise_error).evaluate(nn.Identity()), "metric mine fails: KeyError"),
    "no number": (lambda: Metric("mine", lambda _: "x").evaluate(nn.Identity()), "returns a number"),
    "no such name": (lambda: measure("f1", torch.randn(4, 3), torch.zeros(4).long()), "no metric is called 'f1'"),
    "no targets": (lambda: measure("top1", torch.randn(4, 3), None), "top1 needs targets"),
    "targets that are no classes": (lambda: measure("top1", torch.randn(4, 3), torch.rand(4)), "whole numbers as targets"),
    "too many classes": (lambda: measure("top1", torch.randn(4, 3), torch.full((4,), 3)), "answers 3 classes"),
    "below 0": (lambda: measure("loss", torch.randn(4, 3), torch.full((4,), -1)), "from -1 to -1"),
    "other rows": (lambda: measure("top1", torch.randn(4, 3), torch.zeros(5).long()), "for 4 rows"),
    "other shape": (lambda: measure("mse", torch.randn(4, 3), torch.randn(4, 2)), "answer's shape"),
    "all ignored": (lambda: measure("top1", torch.randn(4, 3), torch.full((4,), -100)), "no target counts"),
    "inputs of another network": (
        lambda: make_metric("top1", nn.Linear(3, 2), torch.randn(4, 5), torch.zeros(4).long()).evaluate(nn.Linear(3, 2)),
        "does not run on the rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_metric_is_refused_in_a_sentence(case):
    call, match = BAD[case]
    with pytest.raises(NetgraphError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_rows_and_targets_that_say_nothing_are_refused():
    network, rows = nn.Linear(4, 3), torch.randn(6, 4)
    spoiled = rows.masked_fill(torch.eye(6, 4, dtype=torch.bool), float("nan"))
    values = torch.randn(6, 3)
    with pytest.raises(NetgraphError, match=r"the rows of the metric hold numbers that are not finite, in 4 of 6 rows"):
        make_metric("error", network, spoiled, None)
    with pytest.raises(NetgraphError, match=r"the rows of the metric have no rows"):
        make_metric("error", network, rows[:0], None)
    with pytest.raises(NetgraphError, match=r"the targets hold numbers that are not finite, in 1 of 6 rows"):
        make_metric("mse", network, rows, values.index_fill(0, torch.tensor([2]), float("inf")))
    with pytest.raises(NetgraphError, match=r"top5 is 1 for every network, because the network answers 3 classes"):
        make_metric("top5", network, rows, torch.zeros(6, dtype=torch.long)).evaluate(network)


@pytest.mark.parametrize(
    ("shape", "targets", "fits"),
    [
        ((6, 2, 4), (6, 4, 2), False),
        ((6, 3, 2, 2), (6, 2, 2, 3), False),
        ((6, 6), (6, 2, 3), True),
        ((6, 1, 2, 2), (6, 4), True),
        ((6, 1), (6,), True),
    ],
)
def test_values_in_another_order_are_no_targets(shape, targets, fits):
    outputs, values = torch.randn(shape), torch.randn(targets)
    for run in (lambda: measure("mse", outputs, values), lambda: label_loss(outputs, values)):
        if fits:
            assert float(run()) > 0
        else:
            with pytest.raises(NetgraphError, match=r"Give targets of the answer's shape"):
                run()
    if fits:
        expected = np.mean((outputs.numpy().ravel() - values.numpy().ravel()) ** 2)
        assert measure("mse", outputs, values) == pytest.approx(float(expected), rel=1e-5)


def test_classes_in_another_order_are_no_targets():
    with pytest.raises(NetgraphError, match=r"Give one class"):
        measure("loss", torch.randn(6, 2, 4, 7), torch.zeros(6, 7, 2, dtype=torch.long))


def test_double_precision_is_judged_in_it():
    outputs = torch.randn(20, 3, dtype=torch.float64)
    assert measure("mse", outputs, outputs + 1e-9) == pytest.approx(1e-18, rel=1e-3)
