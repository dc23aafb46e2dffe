"""Networks that take gradients or map functions in their forward. Judge: the network itself, its numbers and its gradients."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.environment.torch_internals import inside_transform
from netgraph.errors import TraceError
from netgraph.recording.recorder import record_network


def duplicate(first, second):
    """Make the second half of the units equal to the first half."""
    half = first.out_features // 2
    with torch.no_grad():
        first.weight[half:], first.bias[half:] = first.weight[:half], first.bias[:half]
    assert second.in_features == first.out_features


class Forces(nn.Module):
    """Energy and forces of points that attract one another, as interatomic potentials compute them."""

    def __init__(self, create_graph=True):
        super().__init__()
        self.a, self.b, self.create_graph = nn.Linear(6, 8), nn.Linear(8, 1), create_graph
        duplicate(self.a, self.b)

    def energy(self, x):
        return self.b(nn.functional.silu(self.a(x.sin())).tanh())

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(x)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=self.create_graph)
        return energy, -slope


class Neighbours(nn.Module):
    """Forces through distances and a sum over edges of a graph."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 8), nn.Linear(8, 1)
        duplicate(self.a, self.b)

    def forward(self, positions, edges):
        positions = positions.detach().requires_grad_(True)
        source, target = edges[0], edges[1]
        distance = (positions[source] - positions[target]).norm(dim=-1, keepdim=True)
        parts = self.b(self.a(distance).tanh())
        energies = torch.zeros(positions.shape[0], 1).index_add(0, target, parts)
        return energies.sum(), -torch.autograd.grad(energies.sum(), positions, create_graph=True)[0]


class Ensemble(nn.Module):
    def __init__(self, randomness="error"):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(3, 8, 6)), nn.Parameter(torch.randn(3, 2, 8))
        with torch.no_grad():
            self.w[:, 4:] = self.w[:, :4]

    def forward(self, x):
        return torch.vmap(lambda w, v: (x @ w.T).relu() @ v.T)(self.w, self.v).mean(0)


class Slopes(nn.Module):
    """The gradient of a function for each row, by composed transforms of torch.func."""

    def __init__(self, transform):
        super().__init__()
        self.a, self.b, self.transform = nn.Linear(6, 8), nn.Linear(8, 3), transform
        duplicate(self.a, self.b)

    def function(self, row):
        return self.b(self.a(row).tanh())

    def forward(self, x):
        if self.transform == "grad":
            return torch.vmap(torch.func.grad(lambda row: self.function(row).square().sum()))(x)
        return torch.vmap(torch.func.jacrev(self.function))(x)


NETWORKS = {
    "forces": Forces,
    "ensemble": Ensemble,
    "gradients by row": lambda: Slopes("grad"),
    "jacobians by row": lambda: Slopes("jacobian"),
}


def tensors_of(answer):
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("name", NETWORKS)
def test_merged_duplicates_keep_forces_and_maps(name):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    spec = ng.trace(net, torch.randn(4, 6))
    (axis,) = (axis.name for axis in spec.free if axis.size == 8)
    coarse = ng.coarse_network(net, spec, {axis: ng.Transfer(np.arange(8) % 4)}).eval()
    assert sum(p.numel() for p in coarse.parameters()) < 0.7 * sum(p.numel() for p in net.parameters())
    for rows in (1, 4, 7):
        x = torch.randn(rows, 6)
        for expected, result in zip(tensors_of(net.eval()(x)), tensors_of(coarse(x)), strict=True):
            torch.testing.assert_close(result, expected)
        with torch.no_grad():
            torch.testing.assert_close(tensors_of(coarse(x))[-1], tensors_of(net(x))[-1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recording_trains_as_the_network_does(name):
    torch.manual_seed(0)
    net = NETWORKS[name]().train()
    same = ng.coarse_network(net, ng.trace(net, torch.randn(4, 6)), {}).train()
    x = torch.randn(5, 6)
    for network in (net, same):
        sum(t.square().sum() for t in tensors_of(network(x))).backward()
    for p, q in zip(net.parameters(), same.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.parametrize("way", ["fake", "real", "meta"])
@pytest.mark.parametrize("name", ["gradients by row", "ensemble"])
def test_a_refused_map_is_left_again(name, way):
    with contextlib.suppress(Exception):  # this way cannot record all of them
        record_network(NETWORKS[name](), torch.randn(4, 6), training=False, way=way)
    assert not inside_transform()
    assert torch.randn(2).shape == (2,)  # a map that was not left refuses random numbers


def test_forces_without_a_graph_give_parameters_no_gradient():
    net = Forces(create_graph=False)
    with torch.no_grad():
        assert not net(torch.randn(2, 6))[1].requires_grad
    same = ng.coarse_network(net, ng.trace(net, torch.randn(4, 6)), {}).train()
    x = torch.randn(5, 6)
    expected, result = net(x), same(x)
    torch.testing.assert_close(result[1], expected[1])
    assert result[0].requires_grad
    assert not result[1].requires_grad


def test_forces_on_a_graph_of_another_size():
    torch.manual_seed(0)
    net = Neighbours()

    def make(nodes, edges):
        source = torch.randint(0, nodes, (edges,))
        return torch.randn(nodes, 3), torch.stack([source, (source + 1) % nodes])

    coarse = ng.coarse_network(net, ng.trace(net, make(5, 9)), {"a": ng.Transfer(np.arange(8) % 4)}).eval()
    for nodes, edges in ((5, 9), (5, 12), (8, 9), (9, 20)):
        example = make(nodes, edges)
        for expected, result in zip(net(*example), coarse(*example), strict=True):
            torch.testing.assert_close(result, expected)


def test_blocks_without_gradients_and_detached_values_stay_so():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 1)

        def forward(self, x):
            with torch.no_grad():
                teacher = self.a(x).tanh()
            x = x.detach().requires_grad_(True)
            h = self.a(x).tanh()
            slope = torch.autograd.grad(self.b(h).sum(), x, create_graph=True)[0]
            return self.c(teacher), self.c(h.detach()), slope

    net = Mixed().train()
    same = ng.coarse_network(net, ng.trace(net, torch.randn(4, 6)), {}).train()
    x = torch.randn(5, 6)
    for which in range(3):
        for network in (net, same):
            network.zero_grad()
            network(x)[which].square().sum().backward()
        for p, q in zip(net.parameters(), same.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                torch.testing.assert_close(q.grad, p.grad)


def test_a_level_with_forces_survives_the_file_and_another_trace(tmp_path):
    coarse = ng.build_hierarchy(Forces(), torch.randn(4, 6), n_levels=2).levels[1].model.eval()
    ng.save(coarse, tmp_path / "coarse.safetensors")
    loaded, x = ng.load(tmp_path / "coarse.safetensors"), torch.randn(3, 6)
    again = ng.coarse_network(loaded, ng.trace(loaded, x), {}).eval()
    for network in (loaded, again):
        for expected, result in zip(coarse(x), network(x), strict=True):
            torch.testing.assert_close(result, expected)


def test_a_transform_without_rules_is_named_with_its_line():
    class Tangent(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x):
            return torch.func.jvp(self.a, (x,), (torch.ones_like(x),))[1]

    with pytest.raises(TraceError, match=r"inside its forward at .*test_inner_gradients.py:\d+"):
        ng.trace(Tangent(), torch.randn(4, 6))


def test_backward_in_a_forward_is_refused_by_name():
    class Trains(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x):
            self.a(x).sum().backward()
            return self.a(x)

    with pytest.raises(TraceError, match=r"backward\(\) at .*test_inner_gradients.py:\d+"):
        ng.trace(Trains(), torch.randn(4, 6))


def test_a_map_beside_other_layers_is_recorded_by_its_operators_alone():
    class Masked(nn.Module):
        """Attention under a mask that a function of two positions makes, as transformers do it."""

        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, x, present):
            places = torch.arange(x.shape[1])
            rows = torch.arange(x.shape[0])
            rule = torch.vmap(
                torch.vmap(
                    torch.vmap(lambda b, q, k: (q - k).abs().le(2) & (b >= 0), in_dims=(None, None, 0)),
                    in_dims=(None, 0, None),
                ),
                in_dims=(0, None, None),
            )
            mask = rule(rows, places, places) & present[:, None, :]
            h = self.norm(self.a(x))[:, None]
            return self.b(nn.functional.scaled_dot_product_attention(h, h, h, attn_mask=mask[:, None])[:, 0])

    torch.manual_seed(0)
    net = Masked().eval()
    example = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    recording = record_network(net, example, training=False)
    assert recording.way == "meta"
    targets = {str(node.target) for node in recording.graph.nodes}
    assert {"aten.layer_norm.default", "aten.linear.default", "aten.scaled_dot_product_attention.default"} <= targets
    same = ng.coarse_network(net, ng.trace(net, example), {})
    present = torch.ones(3, 5, dtype=torch.bool)
    present[1, 3:] = False
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(same(x, present), net(x, present))


def test_an_empty_tensor_that_is_filled_later_is_recorded_on_meta():
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x):
            kept = torch.tensor([], dtype=x.dtype, device=x.device)
            return torch.cat([kept, self.a(x)], dim=-1)

    net, x = Cache(), torch.randn(4, 6)
    assert record_network(net, x, training=False).way == "meta"
    same, x = ng.coarse_network(net, ng.trace(net, x), {}), torch.randn(5, 6)
    torch.testing.assert_close(same(x), net(x))
