"""Networks that begin alike run from where they differ, and give the numbers of a whole run, bit for bit."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.coarsen.network.functional_error import FunctionErrorJudge, compute_outputs, function_error
from netgraph.errors import TraceError
from netgraph.models import mlp, resnet20
from netgraph.models.transformer import Encoder
from netgraph.recording import shared_steps
from netgraph.recording.shared_steps import SharedSteps, count_shared_steps


class InPlace(nn.Module):
    """Writes into a result of an early step, of which there is a view, after the layers that merge."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        early = self.first(x)
        rows = early.view(-1, 2, 4)
        hidden = torch.relu(self.second(early))
        early.mul_(2.0)  # changes `rows` too
        return self.third(hidden) + rows.sum(1)[:, :3]


class Recurrent(nn.Module):
    """An LSTM before a linear layer."""

    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(5, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


NETWORKS = {
    "perceptron": (lambda: mlp((6, 16, 16, 3)), lambda: torch.randn(12, 6)),
    "residual network": (lambda: resnet20(width=8), lambda: torch.randn(6, 3, 16, 16)),
    "in place": (InPlace, lambda: torch.randn(12, 6)),
    "recurrent": (Recurrent, lambda: torch.randn(6, 4, 5)),
    "attention": (lambda: Encoder(50, width=16, n_hidden=32, n_heads=4), lambda: torch.randint(2, 50, (6, 8))),
}


def make_judge(name, n_batches=2):
    torch.manual_seed(0)
    make, draw = NETWORKS[name]
    network, rows = make().eval(), draw()
    spec, batches = ng.trace(network, rows[:2]), list(rows.chunk(n_batches))
    return FunctionErrorJudge(network, spec, {}, batches, compute_outputs(network, batches))


def merge_pairs(spec, axis):
    size = spec.axes[axis].size
    return ng.Transfer(torch.arange(size).div(2, rounding_mode="floor").numpy())


def measure_whole(judge, transfers):
    """The error by whole runs of a network with layers."""
    network = ng.coarse_network(judge.model, judge.spec, transfers).eval()
    return function_error(judge.expected, compute_outputs(network, judge.batches))


@pytest.mark.parametrize("name", NETWORKS)
def test_errors_are_those_of_whole_runs(name):
    judge = make_judge(name)
    axes = [axis.name for axis in judge.spec.free if axis.size % 2 == 0]
    assert axes
    for axis in [*axes, *reversed(axes)]:  # backwards the base begins anew
        transfer = merge_pairs(judge.spec, axis)
        assert judge(axis, transfer) == measure_whole(judge, {axis: transfer}) > 0


def test_steps_before_a_merged_layer_run_once(monkeypatch):
    judge = make_judge("residual network")
    last = [axis.name for axis in judge.spec.free if axis.name.startswith("stage3.2")][-1]
    judge(last, merge_pairs(judge.spec, last))
    taken = []
    monkeypatch.setattr(shared_steps, "run_step", lambda step, slots: taken.append(step))
    before = judge._shared_steps.done
    judge(last, merge_pairs(judge.spec, last))
    assert taken == []
    assert before > len(judge._shared_steps.base.steps("eval").steps) / 2


def test_a_network_with_other_first_weights_shares_nothing():
    judge = make_judge("perceptron")
    base = ng.coarse_network(judge.model, judge.spec, {}, has_layers=False).eval()
    other = ng.coarse_network(judge.model, judge.spec, {}, has_layers=False).eval()
    n_steps = len(base.steps("eval").steps)
    assert count_shared_steps(base, other) == n_steps - 1
    with torch.no_grad():
        dict(other.named_parameters())["0.weight"].add_(1.0)
    assert count_shared_steps(base, other) == 0
    (result,) = SharedSteps(base, judge.batches[:1]).iterate_results(other)
    assert torch.equal(result, other(judge.batches[0]))


def test_results_that_are_too_large_are_not_kept(monkeypatch):
    monkeypatch.setattr(shared_steps, "KEPT", 0)
    judge = make_judge("perceptron")
    axis = judge.spec.free[-1].name
    transfer = merge_pairs(judge.spec, axis)
    assert judge(axis, transfer) == measure_whole(judge, {axis: transfer})
    assert judge._shared_steps.runs == []


def test_networks_without_layers_compute_the_same():
    torch.manual_seed(0)
    network, images = resnet20(width=8), torch.randn(4, 3, 16, 16)
    spec = ng.trace(network, images[:2])
    with_layers, without = (ng.coarse_network(network, spec, {}, has_layers=has) for has in (True, False))
    assert any(isinstance(m, nn.Conv2d) for m in with_layers.modules())
    assert not any(isinstance(m, nn.Conv2d) for m in without.modules())
    for mode in (True, False):
        assert torch.equal(with_layers.train(mode)(images), without.train(mode)(images))
    functional.mse_loss(without(images), torch.zeros(4, 10)).backward()
    assert all(p.grad is not None for p in without.parameters())


def test_inputs_of_another_shape_are_refused_before_any_step():
    judge = make_judge("residual network")
    axis = judge.spec.free[-1].name
    wrong = FunctionErrorJudge(judge.model, judge.spec, {}, [torch.randn(2, 3, 24, 24)], judge.expected)
    with pytest.raises(TraceError, match="has shape"):
        wrong(axis, merge_pairs(judge.spec, axis))
