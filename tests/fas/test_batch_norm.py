"""Statistics of batch norms where a level starts: judged by layers written out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Split
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS

N, STEPS = 3, 4  # minibatches of the estimate, and steps before it


def normed(width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3),
    )  # fmt: skip


def images(n=12, rows=8):
    random = torch.Generator().manual_seed(0)
    return [(torch.randn(rows, 3, 8, 8, generator=random) + i / n, torch.arange(rows) % 3) for i in range(n)]


def started(directions, norms):
    """Train the coarse level, and return the state of the fine network at its start, and the costs of the run."""
    torch.manual_seed(0)
    model, started_state = normed(), {}
    hierarchy = ng.build_hierarchy(model, images()[0][0][:2], directions=directions)

    def keep(run, record):
        if record["event"] == "start":
            started_state.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

    solver = FAS(
        "kaskade", torch.optim.SGD, 0.01, epochs=8 / 12, share=(0.5, 0.5), options=Options(split=Split(norms=norms))
    )
    solution = solver.solve(hierarchy, Problem(images(), cross_entropy), callbacks=[keep])
    return started_state, solution.ledger, hierarchy


@pytest.mark.parametrize("directions", ["channels", "space", "channels+space"])
def test_each_norm_has_the_mean_and_variance_of_its_inputs_on_the_next_minibatches(directions):
    started_state, ledger, hierarchy = started(directions, N)
    network = normed()
    network.load_state_dict(started_state)
    x = torch.cat([inputs for inputs, _ in images()[STEPS : STEPS + N]])
    with torch.no_grad():
        first = network[0](x)
        torch.testing.assert_close(started_state["1.running_mean"], first.mean((0, 2, 3)))
        torch.testing.assert_close(started_state["1.running_var"], first.var((0, 2, 3)))
        second = network[3](relu(network[1].eval()(first)))
        torch.testing.assert_close(started_state["4.running_mean"], second.mean((0, 2, 3)))
        torch.testing.assert_close(started_state["4.running_var"], second.var((0, 2, 3)))
    assert ledger.flops[0, "statistics"] == N * 8 * HierarchyMaps(hierarchy).flops[0]
    assert ledger.seconds[0, "statistics"] > 0


def test_statistics_are_prolonged_by_default():
    prolonged, ledger, _ = started("space", 0)
    estimated, _, _ = started("space", N)
    assert not any(kind == "statistics" for _, kind in ledger.seconds)
    for name, tensor in prolonged.items():
        assert torch.equal(tensor, estimated[name]) == (not name.endswith(("running_mean", "running_var")))


def test_statistics_that_cannot_be_estimated_are_refused_in_a_sentence():
    solver = FAS("kaskade", torch.optim.SGD, 0.01, epochs=1, options=Options(split=Split(norms=1)))
    hierarchy = ng.build_hierarchy(normed(), images()[0][0][:2])

    def value(model, inputs):
        return model(inputs).square().mean()

    with pytest.raises(NetgraphError, match=r"pairs of inputs and targets, and got a Tensor\. Set it to 0"):
        solver.solve(hierarchy, SimpleNamespace(batches=[inputs for inputs, _ in images()], value=value))
    levels = SimpleNamespace(models=[normed(), normed()], flops=[1.0, 1.0])
    with pytest.raises(NetgraphError, match=r"these levels are your own\. Set it to 0"):
        solver.solve(levels, Problem(images(), cross_entropy))
