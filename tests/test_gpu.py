"""What a GPU answers is what a CPU answers. NETGRAPH_TEST_DEVICE=cpu runs these tests without a GPU."""

import copy
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import netgraph as ng
from netgraph.coarsen import fine_tune, repair_network
from netgraph.coarsen.transfer.parameter_maps import inject, prolong
from netgraph.fas import Checkpoints, Gate, Options, Problem, Smoothing, Tau, resume
from netgraph.models import ResidualNet, mlp

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("NETGRAPH_TEST_DEVICE", "cuda")


def convolutions():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


NETS = {
    "perceptron": (lambda: mlp((6, 16, 12, 4)), (6,), {}),
    "convolutions": (convolutions, (3, 9, 9), {}),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (5, 8), {}),
    "levels in space": (lambda: ResidualNet(2, width=4), (3, 8, 8), {"directions": "space"}),
    "levels in depth": (lambda: ResidualNet(4, width=4), (3, 8, 8), {"directions": "depth"}),
}


def build(name, device):
    """A hierarchy of two levels in double precision and its inputs, on a device, the same at each call."""
    make, shape, options = NETS[name]
    torch.manual_seed(0)
    model, inputs = make().double(), torch.randn(32, *shape, dtype=torch.float64)
    model, inputs = model.eval().to(device), inputs.to(device)
    return ng.build_hierarchy(model, inputs[:2], n_levels=2, **options), inputs


def assert_same_state(here, there):
    """Compare two state dicts, one on DEVICE and one on a CPU."""
    assert here.keys() == there.keys()
    for key, value in here.items():
        assert value.device.type == torch.device(DEVICE).type
        torch.testing.assert_close(value.cpu(), there[key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NETS)
def test_levels_are_those_of_a_cpu_and_stay_on_the_device(name):
    (here, inputs), (there, same) = build(name, DEVICE), build(name, "cpu")
    for a, b in zip(here.levels, there.levels, strict=True):
        assert a.n_parameters == b.n_parameters
        assert_same_state(a.model.state_dict(), b.model.state_dict())
        torch.testing.assert_close(a.model(inputs).cpu(), b.model(same), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("affinity", ["cosine", "correlation"])
def test_affinities_are_those_of_a_cpu(affinity):
    found = []
    for device in (DEVICE, "cpu"):
        hierarchy, inputs = build("perceptron", device)
        model = hierarchy.levels[0].model
        again = ng.build_hierarchy(model, inputs[:2], n_levels=2, affinity=affinity, data=inputs)
        graph = ng.unit_graph(model, again.levels[0].spec)
        aggregates = {axis: transfer.aggregates for axis, transfer in again.levels[1].transfers.items()}
        found.append({**aggregates, **{f"block {key}": value for key, value in graph.blocks.items()}})
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        np.testing.assert_allclose(value, found[1][key], rtol=1e-9)


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "encoder"])
def test_both_oracles_pass(name):
    hierarchy, inputs = build(name, DEVICE)
    level = hierarchy.levels[0]
    verdicts = ng.verify(level.model, level.spec, inputs[:2])
    assert {verdict.oracle for verdict in verdicts} == {"duplicate", "dead"}
    assert max(verdict.error for verdict in verdicts) < 1e-9


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "encoder"])
def test_transfers_move_weights_as_on_a_cpu(name):
    moved = []
    for device in (DEVICE, "cpu"):
        hierarchy, _ = build(name, device)
        spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
        down = inject(spec, transfers, dict(hierarchy.levels[0].model.named_parameters()))
        moved.append((down, prolong(spec, transfers, down)))
    for here, there in zip(*moved, strict=True):
        assert_same_state({k: v.detach() for k, v in here.items()}, {k: v.detach() for k, v in there.items()})


def make_solver(cycle):
    options = Options(Smoothing(pre=2, post=1, coarse=3), Tau("common", 2), Gate.open(search=()))
    return ng.FAS(cycle, torch.optim.SGD, 1e-2, epochs=4, schedule="constant", options=options)


def make_problem(name, inputs):
    """A problem whose minibatches are on the CPU, as a loader's are."""
    torch.manual_seed(1)
    inputs = inputs.cpu()
    if name.startswith("levels"):
        return Problem(list(zip(inputs.split(8), inputs.flip(0).split(8), strict=True)), mse_loss)
    return Problem(list(zip(inputs.split(8), torch.randint(0, 4, (32,)).split(8), strict=True)), cross_entropy)


@pytest.mark.parametrize("cycle", ["kaskade", "v", "full"])
@pytest.mark.parametrize("name", ["perceptron", "convolutions", "levels in depth"])
def test_training_ends_with_the_weights_of_a_cpu(name, cycle):
    ends = []
    for device in (DEVICE, "cpu"):
        hierarchy, inputs = build(name, device)
        solution = make_solver(cycle).solve(hierarchy, make_problem(name, inputs))
        assert len(solution.events("smooth")) > 0
        ends.append(solution.model.state_dict())
    assert_same_state(*ends)


def test_a_run_that_was_stopped_resumes_with_the_weights_of_an_uninterrupted_one(tmp_path):
    def stop(run, record):
        if record["event"] == "smooth" and run.steps >= 6:
            run.stop("enough for today")

    ends = []
    for callbacks in ([], [Checkpoints(tmp_path, every=1), stop]):
        hierarchy, inputs = build("perceptron", DEVICE)
        solution = make_solver("v").solve(hierarchy, make_problem("perceptron", inputs), callbacks=callbacks, every=1)
        ends.append(solution.model.state_dict())
    assert any(not torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))
    hierarchy, inputs = build("perceptron", DEVICE)
    solver = make_solver("v")
    run = solver.begin(hierarchy, make_problem("perceptron", inputs), every=1)
    assert resume(run, tmp_path)
    resumed = solver.finish(run).model.state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in ends[0].items())


@pytest.mark.parametrize("rung", ["rescale", "norms", "ridge"])
def test_repair_gives_the_weights_of_a_cpu(rung):
    states = []
    for device in (DEVICE, "cpu"):
        hierarchy, inputs = build("convolutions", device)
        fine, coarse = hierarchy.levels[0], copy.deepcopy(hierarchy.levels[1].model)
        repair_network(fine.model, fine.spec, hierarchy.levels[1].transfers, coarse, rung=rung, data=inputs)
        states.append(coarse.state_dict())
    assert_same_state(*states)


def tune(device, **options):
    (hierarchy, inputs), targets = build("perceptron", device), torch.arange(32) % 4
    small, model = hierarchy.levels[1].model, hierarchy.levels[0].model
    options["losses"] = ("labels", "knowledge", "hint", "relational")
    losses = fine_tune(small, model, inputs.cpu(), targets, epochs=30, lr=1e-2, hierarchy=hierarchy, **options)
    return small, losses


def test_tuning_on_rows_of_a_cpu_gives_the_weights_of_a_cpu():
    (here, losses), (there, same) = tune(DEVICE), tune("cpu")
    np.testing.assert_allclose(losses, same, rtol=1e-6)
    for name, value in here.state_dict().items():
        assert value.device.type == torch.device(DEVICE).type
        torch.testing.assert_close(value.cpu(), there.state_dict()[name], rtol=1e-5, atol=1e-7)
    rounded = tune(DEVICE, bf16=True)[1]
    assert rounded[-1] < rounded[0]
