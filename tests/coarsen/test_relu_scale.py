"""ReLU units of any scale merge exactly if they are multiples, and by the pseudo-inverse of P otherwise."""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.repair.relu_scale import find_scalable_axes, merge_relu_units
from netgraph.coarsen.repair.variance import rescale_units
from netgraph.coarsen.transfer.transfer import Transfer


def mlp():
    return nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 8), nn.LeakyReLU(), nn.Linear(8, 3)).double()


def cnn():
    pool = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), pool, nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5)
    ).double()


class Moves(nn.Module):
    """Moves, repeats and copies the numbers of its first dimension's rows, and leaves the units in the last dimension."""

    def forward(self, x):
        y = x.unsqueeze(1).expand(-1, 3, -1).swapaxes(0, 1)[1:].select(0, 1).clone().to(torch.float64)
        return -torch.nn.functional.dropout(
            y.broadcast_to(2, *y.shape).narrow(0, 0, 1).squeeze(0).type_as(torch.ones(1).double()), 0.5, False
        )


def moves():
    return nn.Sequential(nn.Linear(7, 12), nn.ReLU(), Moves(), nn.Linear(12, 3)).double()


EXAMPLES = {"mlp": (mlp, (20, 7)), "cnn": (cnn, (4, 2, 12, 12)), "moves": (moves, (20, 7))}


def multiples(layer, seed):
    """Make the second half of a layer's units multiples of the first half, and the last one dead."""
    n = len(layer.weight) // 2
    factor = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 0.2
    factor[-1] = 0
    with torch.no_grad():
        layer.weight[n:] = layer.weight[:n] * factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        layer.bias[n:] = layer.bias[:n] * factor


def halves(n):
    return Transfer(np.arange(n) % (n // 2))


def merged(model, x, rung):
    """Return the outputs of the network whose first half of units merges with the second half."""
    spec = ng.trace(model, x)
    transfers = {axis.name: halves(axis.size) for axis in spec.free}
    coarse = coarse_network(model, spec, transfers).eval()
    if rung == "rescale":
        rescale_units(model, spec, transfers, coarse)
    return coarse(x)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("seed", range(3))
def test_units_that_are_positive_multiples_merge_exactly_and_dead_ones_with_any(name, seed):
    torch.manual_seed(seed)
    make, shape = EXAMPLES[name]
    model, x = make().eval(), torch.randn(*shape, dtype=torch.float64)
    for layer in [m for m in model if isinstance(m, nn.Linear | nn.Conv2d)][:-1]:
        multiples(layer, seed)
    wanted = model(x)
    assert (merged(model, x, "none") - wanted).norm() > 0.01 * wanted.norm()
    assert (merged(model, x, "rescale") - wanted).norm() < 1e-12 * wanted.norm()


def test_coarse_weights_are_those_of_p_and_its_pseudo_inverse():
    torch.manual_seed(0)
    model, x = mlp().eval(), torch.randn(4, 7, dtype=torch.float64)
    spec = ng.trace(model, x)
    transfers = {"0": Transfer(np.array([0, 0, 1, 2, 1, 1, 3, 2, 4, 4, 4, 4])), "2": halves(8)}
    coarse = coarse_network(model, spec, transfers)
    entries = merge_relu_units(model, spec, transfers, coarse)
    P = {axis: t.P.toarray() * entries[axis].numpy()[:, None] for axis, t in transfers.items()}
    R = {axis: np.linalg.pinv(p) for axis, p in P.items()}
    for axis, t in transfers.items():
        np.testing.assert_allclose(R[axis] @ P[axis], np.eye(t.n_coarse), atol=1e-12)
        np.testing.assert_allclose(t.R @ entries[axis].numpy(), 1)  # coarse units have the mean scale of their members
    fine, small = ({k: v.detach().numpy() for k, v in m.items()} for m in (model.state_dict(), coarse.tensors()))
    np.testing.assert_allclose(small["0.weight"], R["0"] @ fine["0.weight"], atol=1e-12)
    np.testing.assert_allclose(small["0.bias"], R["0"] @ fine["0.bias"], atol=1e-12)
    np.testing.assert_allclose(small["2.weight"], R["2"] @ fine["2.weight"] @ P["0"], atol=1e-12)
    np.testing.assert_allclose(small["4.weight"], fine["4.weight"] @ P["2"], atol=1e-12)


class Residual(nn.Module):
    """A stream that two layers write to."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(torch.relu(x + self.second(x)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)), (2, 5)),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU6(), nn.Linear(8, 3)), (2, 5)),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3)), (2, 5)),
        (nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), (2, 5)),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU()), (2, 5)),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Flatten()), (2, 3, 5, 5)),
        (Residual(), (2, 5)),
    ],
)  # fmt: skip
def test_units_that_a_factor_does_not_pass_through_are_left_alone(model, shape):
    x = torch.randn(*shape)
    spec = ng.trace(model.eval(), x)
    assert not find_scalable_axes(spec)
    transfers = {axis.name: halves(axis.size) for axis in spec.free if axis.equal is None}
    coarse = coarse_network(model, spec, transfers)
    before = {name: tensor.clone() for name, tensor in coarse.tensors().items()}
    assert not merge_relu_units(model, spec, transfers, coarse)
    assert all(torch.equal(before[name], tensor) for name, tensor in coarse.tensors().items())
