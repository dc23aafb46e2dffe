"""Batch norms without momentum average over all batches. Judge: PyTorch's own layers, on the same batches."""

import copy

import pytest
import torch
from torch import nn

import netgraph as ng


class Twice(nn.Module):
    """One norm used twice in a forward, beside one with momentum and one without statistics."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.norm, self.plain = nn.BatchNorm1d(8, momentum=None), nn.BatchNorm1d(8)
        self.last = nn.BatchNorm1d(3, momentum=None, track_running_stats=False)

    def forward(self, x):
        h = self.norm(self.a(x)).relu()
        return self.last(self.b(self.plain(self.norm(h + x.mean()))))


NETWORKS = {
    "one": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 3)),
    "images": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, momentum=None, affine=False), nn.ReLU(),
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.Linear(24, 3),
    ),
    "twice": Twice,
}  # fmt: skip


def train(network, batches):
    network.train()
    for batch in batches:
        network(batch).square().mean().backward()
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_running_averages_are_those_of_pytorch_after_many_batches(name, tmp_path):
    torch.manual_seed(0)
    net, batches = NETWORKS[name](), [torch.randn(n, 6) for n in (4, 7, 3, 5)]
    same = ng.coarse_network(net, ng.trace(net, batches[0]), {})
    assert same.document()["format"] == 2
    ng.save(same, tmp_path / "same.safetensors")
    loaded, copied = ng.load(tmp_path / "same.safetensors"), copy.deepcopy(same)
    train(net, batches)
    for network in (same, loaded, copied):
        train(network, batches)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(network.state_dict()[key], value)
    for p, q in zip(net.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


def test_merged_duplicates_keep_the_averages():
    torch.manual_seed(0)
    net = NETWORKS["one"]()
    with torch.no_grad():
        net[0].weight[4:], net[0].bias[4:] = net[0].weight[:4], net[0].bias[:4]
    coarse = ng.build_hierarchy(net, torch.randn(4, 6), n_levels=2).levels[1].model
    batches = [torch.randn(n, 6) for n in (4, 7, 3)]
    train(net, batches)
    train(coarse, batches)
    x = torch.randn(5, 6)
    torch.testing.assert_close(coarse(x), net(x))


def test_the_network_stays_as_it_was_and_a_recorded_network_is_traced_again():
    net, batches = Twice(), [torch.randn(n, 6) for n in (4, 7, 3)]
    first = ng.coarse_network(net, ng.trace(net, batches[0]), {})
    assert net.norm.momentum is None
    second = ng.coarse_network(first, ng.trace(first, batches[0]), {})
    for network in (net, first, second):
        train(network, batches)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value)
        torch.testing.assert_close(first.state_dict()[key], value)
