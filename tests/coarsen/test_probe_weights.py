"""Laws of the weights on which the oracles compare networks."""

import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.probe_weights import probe_state
from netgraph.coarsen.network.rewrite import traced_state
from netgraph.utils.module_state import swap_state


def gated(depth: int = 6) -> nn.Module:
    """A residual chain that doubles its signal, with a gate behind each norm."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.gate = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            y = self.norm(self.conv(x))
            return x + y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))

    return nn.Sequential(*[Block() for _ in range(depth)]).double()


def test_fresh_statistics_become_those_of_a_batch_in_training():
    model, x = gated(), torch.randn(16, 8, 9, 9, dtype=torch.float64)
    state = probe_state(model.eval(), x, 0)
    with torch.no_grad(), swap_state(model, state):
        settled = model(x)
        whitened = model.train()(x)
    torch.testing.assert_close(settled, whitened, rtol=1e-9, atol=1e-9)


def test_trained_statistics_stay_as_they_are():
    model, x = gated(2), torch.randn(16, 8, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        model.train()(x)
    state = probe_state(model.eval(), x, 0)
    for name, tensor in traced_state(model).items():
        if "running" in name:
            assert torch.equal(state[name], tensor)


def test_estimating_statistics_does_not_change_the_network():
    model, x = gated(2).eval(), torch.randn(4, 8, 9, 9, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in traced_state(model).items()}
    probe_state(model, x, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in traced_state(model).items())


def test_verify_reports_progress_and_runs_both_oracles_on_every_axis_and_on_all():
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 6)
    spec, told = ng.trace(model, x), []
    verdicts = ng.verify(model, spec, x, progress=lambda *words: told.append(words))
    names = [axis.name for axis in spec.free]
    assert told == [(name, i, 3) for i, name in enumerate([*names, "all"])]
    assert [(v.oracle, v.axes) for v in verdicts] == [
        (oracle, axes) for axes in [*((n,) for n in names), tuple(names)] for oracle in ("duplicate", "dead")
    ]
