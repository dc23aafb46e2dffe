"""Repair, judged by least squares on dense matrices, by torch's own batch norm, and by networks that need none."""

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.judging import function_error, outputs
from netgraph.coarsen.network import coarse_network
from netgraph.coarsen.normscale import fold
from netgraph.coarsen.repair import RUNGS, repair
from netgraph.coarsen.rescale import variance_share
from netgraph.coarsen.ridge import Fit
from netgraph.coarsen.transfer import Transfer
from netgraph.coarsen.weights import prolong
from netgraph.models.mlp import mlp


def conv_net():
    layers = [
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    for norm in (net[1], net[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval().double()


NETS = {
    "perceptron": (lambda: mlp((6, 16, 12, 4)).double(), (6,)),
    "convolutions": (conv_net, (3, 9, 9)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().double(), (5, 8)),
}


def merged(name, *, alike=False, ratio=0.5):
    make, shape = NETS[name]
    model, data = make(), torch.randn(64, *shape, dtype=torch.float64)
    hierarchy = ng.build_hierarchy(model, data[:2], ratio=ratio)
    spec, transfers = hierarchy.levels[0].spec, hierarchy.levels[1].transfers
    if alike:
        state = prolong(spec, transfers, hierarchy.levels[1].model.tensors())
        model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    return model, spec, transfers, coarse_network(model, spec, transfers).eval(), data


def error(model, coarse, data):
    return function_error(outputs(model, [data]), outputs(coarse, [data]))


@pytest.mark.parametrize("name", ["perceptron", "encoder"])
@pytest.mark.parametrize("rung", ["rescale", "norms", "ridge"])
def test_what_lost_nothing_is_left_as_it_is(name, rung):
    model, spec, transfers, coarse, data = merged(name, alike=True)
    before = {n: t.clone() for n, t in coarse.tensors().items()}
    repair(model, spec, transfers, coarse, rung=rung, data=data)
    for tensor, was in zip(coarse.tensors().values(), before.values(), strict=True):
        torch.testing.assert_close(tensor, was, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_each_rung_with_data_comes_nearer_to_the_function(name):
    errors = {}
    for rung in ("none", "ridge", "tune"):
        torch.manual_seed(1)
        model, spec, transfers, coarse, data = merged(name)
        done = repair(model, spec, transfers, coarse, rung=rung, data=data)
        errors[rung] = error(model, coarse, data)
        assert rung == "none" or (
            done.fitted and all(after <= before + 1e-12 for before, after in done.fitted.values())
        )
    assert errors["tune"] < errors["ridge"] < errors["none"]


@pytest.mark.parametrize("centred", [True, False])
def test_the_ridge_is_the_least_squares_solution_of_the_stacked_system(centred):
    _, spec, transfers, _, _ = merged("perceptron")
    transfer = transfers["0"]
    fine, coarse = (
        torch.randn(50, 16, dtype=torch.float64) + 2,
        torch.randn(50, transfer.n_coarse, dtype=torch.float64) - 1,
    )
    fit = Fit(spec, transfers, "2.weight", centred=centred)
    for part in (slice(0, 20), slice(20, 50)):
        fit.add(fine[part], coarse[part])
    M, shift, _ = fit.solved(0.1)
    x, y = (fine - fine.mean(0), coarse - coarse.mean(0)) if centred else (fine, coarse)
    s = 0.1 * float((y.T @ y).diagonal().mean())
    P = torch.from_numpy(transfer.P.toarray())
    k = transfer.n_coarse
    stacked = torch.cat([y, s**0.5 * torch.eye(k, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(stacked, torch.cat([x, s**0.5 * P.T])).solution.T
    torch.testing.assert_close(M, wanted)
    if centred:
        torch.testing.assert_close(shift, fine.mean(0) - wanted @ coarse.mean(0))


def test_norm_statistics_are_those_that_torch_finds_in_one_training_step():
    model, spec, transfers, coarse, data = merged("convolutions")
    repair(model, spec, transfers, coarse, rung="norms", data=data, batch=13)
    weights = coarse.tensors()
    norm = nn.BatchNorm2d(len(weights["1.running_mean"]), momentum=1.0).double().train()
    norm(nn.functional.conv2d(data, weights["0.weight"]))
    torch.testing.assert_close(weights["1.running_mean"], norm.running_mean)
    torch.testing.assert_close(weights["1.running_var"], norm.running_var)


def fused(weights, conv, norm, eps=1e-5):
    """Return weight and bias of a convolution and its norm in one, by torch's own fusion."""
    names = [f"{norm}.{n}" for n in ("running_mean", "running_var", "weight", "bias")]
    mean, variance, scale, shift = (weights[n] for n in names)
    return torch.nn.utils.fusion.fuse_conv_bn_weights(
        weights[f"{conv}.weight"], weights.get(f"{conv}.bias"), mean, variance, eps, scale, shift
    )


def test_a_layer_and_its_norm_are_averaged_as_the_one_map_that_they_are():
    model, spec, transfers, coarse, _ = merged("convolutions")
    with torch.no_grad():
        model[1].weight.uniform_(-2, 2)
        model[1].bias.normal_()
    fold(model, spec, transfers, coarse)
    weight, bias = fused(model.state_dict(), "0", "1")
    weight_c, bias_c = fused(coarse.tensors(), "0", "1")
    R = torch.from_numpy(transfers["0"].R.toarray())
    torch.testing.assert_close(weight_c, torch.tensordot(R, weight, 1))
    torch.testing.assert_close(bias_c, R @ bias)


def test_merging_in_the_scale_of_norms_keeps_the_function_of_channels_that_differ_by_scale_alone():
    model, data = conv_net(), torch.randn(16, 3, 9, 9, dtype=torch.float64)
    factors = torch.tensor([1.0, 7.0] * 4).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model[1], name).copy_(torch.randn(4).repeat_interleave(2))
        model[0].weight.copy_(torch.randn(4, 3, 3, 3).repeat_interleave(2, 0) * factors[:, None, None, None])
        model[1].running_mean.copy_(torch.randn(4).repeat_interleave(2) * factors)
        model[1].running_var.copy_((torch.rand(4).repeat_interleave(2) + 1) * factors.square())
        model[1].eps = 1e-12
    spec, transfers = ng.trace(model, data[:2]), {"0": Transfer([0, 0, 1, 1, 2, 2, 3, 3])}
    coarse = coarse_network(model, spec, transfers).eval()
    assert error(model, coarse, data) > 0.01
    fold(model, spec, transfers, coarse)
    assert error(model, coarse, data) < 1e-9


def test_the_variance_that_averaging_takes_is_that_of_white_inputs():
    rows = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    share = variance_share(rows, Transfer([0, 0, 1, 1, 2]))
    torch.testing.assert_close(share, torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))
    x = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = x @ rows.T.double()
    torch.testing.assert_close((z[:, 2] + z[:, 3]).div(2).var() / z[:, 2:4].var(0).mean(), share[1], atol=0.01, rtol=0)


def test_the_fine_network_and_its_mode_are_left_alone():
    for rung in RUNGS:
        model, spec, transfers, coarse, data = merged("convolutions")
        before = {n: t.clone() for n, t in model.state_dict().items()}
        coarse.train()
        repair(model, spec, transfers, coarse, rung=rung, data=data, steps=3)
        assert coarse.training
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"repair": "magic"}, "no repair is called 'magic'; choose one of none"),
        ({"repair": "ridge"}, "repair 'ridge' needs calibration data"),
        ({"repair": "ridge", "data": torch.randn(8, 7)}, "does not run on the calibration data"),
        ({"affinity": "correlation"}, "axis '0': this affinity compares activations and was given no data"),
        ({"budget": "parameters"}, "is not KIND=SHARE"),
        ({"budget": "parameters=1.5"}, "is not KIND=SHARE"),
        ({"budget": "parameters=0.001"}, "cannot be met"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(options, says):
    with pytest.raises(ng.NetgraphError, match=says):
        ng.build_hierarchy(mlp((6, 16, 12, 4)), torch.randn(2, 6), **options)
