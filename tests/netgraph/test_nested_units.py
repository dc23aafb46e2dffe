"""Neurons inside experts, and channels inside groups, merge in a way of their own in each expert and in each group."""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.oracles import check_dead_units, check_duplicate_units
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.coarsen.transfer.nested_transfer import NestedTransfer, compose_transfers
from netgraph.coarsen.transfer.parameter_maps import distribute, inject, prolong, restrict

TOKENS = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Experts(nn.Module):
    """Six experts with fused gate and up projections. Each token takes the k best."""

    def __init__(self, k=2, inner=8):
        super().__init__()
        self.k = k
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(6, 2 * inner, 8))
        self.bias = nn.Parameter(torch.randn(6, 2 * inner))
        self.down = nn.Parameter(torch.randn(6, 8, inner))

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(self.k, -1)
        numbers = chosen.reshape(-1)
        rows = x.repeat_interleave(self.k, 0).unsqueeze(-1)
        hidden = torch.bmm(self.up[numbers], rows).squeeze(-1) + self.bias[numbers]
        gate, up = hidden.chunk(2, -1)
        out = torch.bmm(self.down[numbers], (gate.sigmoid() * up).unsqueeze(-1)).squeeze(-1)
        return self.last((out.view(len(x), self.k, -1) * weights.unsqueeze(-1)).sum(1))


def make_experts(**sizes):
    torch.manual_seed(0)
    return Experts(**sizes).double().eval()


def find_axis(spec):
    return next(axis for axis in spec.free if axis.within is not None)


def clone_neurons(network, *, even):
    """Make the neurons of each expert copies of four, in another way in each: pairs, or groups of other sizes."""
    generator = np.random.default_rng(0)
    inner = network.down.shape[-1]
    with torch.no_grad():
        for expert in range(6):
            others = np.arange(4) if even else generator.integers(0, 4, inner - 4)
            labels = generator.permutation(np.concatenate([np.arange(4), others]))
            first = torch.as_tensor([int(np.flatnonzero(labels == label)[0]) for label in labels])
            both = torch.cat([first, first + inner])
            network.up[expert], network.bias[expert] = network.up[expert, both], network.bias[expert, both]
            network.down[expert] = network.down[expert][:, first]
    return network


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("coarsener", "even"), [("hem", True), ("ward", True), ("ward", False), ("kmeans", False)])
def test_neurons_that_are_copies_in_another_way_in_each_expert_merge_without_a_change(k, coarsener, even):
    network = clone_neurons(make_experts(k=k), even=even)
    axis = find_axis(ng.trace(network, TOKENS))
    hierarchy = ng.build_hierarchy(network, TOKENS, ratio={"*": 1.0, axis.name: 0.5}, n_levels=2, coarsener=coarsener)
    coarse = hierarchy.levels[1].model
    assert coarse.get_parameter("down").shape == (6, 8, 4)
    with torch.no_grad():
        torch.testing.assert_close(coarse(TOKENS), network(TOKENS))


def test_both_oracles_hold_with_aggregates_of_its_own_in_each_expert():
    network = make_experts()
    spec = ng.trace(network, TOKENS)
    for axes in ([find_axis(spec)], spec.free):
        assert check_duplicate_units(network, spec, TOKENS, axes).error < 1e-12
        assert check_dead_units(network, spec, TOKENS, axes).error < 1e-12


def make_transfers(spec, seed=1):
    axis, generator = find_axis(spec), np.random.default_rng(seed)
    rows = [generator.permutation(np.arange(8) % 5) for _ in range(6)]
    outer = ng.Transfer(np.array([0, 1, 0, 2, 1, 2]))
    return {axis.name: NestedTransfer.of(axis.within, rows), axis.within: outer}


def test_four_maps_of_nested_axes_keep_their_laws():
    network = make_experts()
    spec = ng.trace(network, TOKENS)
    transfers = make_transfers(spec)
    state = {name: p.detach() for name, p in network.named_parameters()}
    coarse = inject(spec, transfers, state)
    assert coarse["up"].shape == (3, 10, 8)
    again = inject(spec, transfers, prolong(spec, transfers, coarse))
    for name, tensor in coarse.items():
        torch.testing.assert_close(again[name], tensor)
    dual = {name: torch.randn_like(t) for name, t in coarse.items()}
    fine_dual = {name: torch.randn_like(t) for name, t in state.items()}

    def dot(x, y):
        return sum(float((x[name] * y[name]).sum()) for name in x)

    assert dot(prolong(spec, transfers, dual), fine_dual) == pytest.approx(
        dot(dual, restrict(spec, transfers, fine_dual))
    )
    assert dot(inject(spec, transfers, fine_dual), dual) == pytest.approx(
        dot(fine_dual, distribute(spec, transfers, dual))
    )


def test_the_injection_of_one_expert_is_that_of_a_layer():
    network = make_experts()
    spec = ng.trace(network, TOKENS)
    axis = find_axis(spec)
    nested = make_transfers(spec)[axis.name]
    coarse = inject(spec, {axis.name: nested}, {"down": network.down.detach(), "bias": network.bias.detach()})
    for expert, part in enumerate(nested.parts):
        torch.testing.assert_close(
            coarse["down"][expert], network.down.detach()[expert] @ torch.from_numpy(part.P.toarray())
        )
        halves = network.bias.detach()[expert].view(2, 8) @ torch.from_numpy(part.R.toarray()).T
        torch.testing.assert_close(coarse["bias"][expert], halves.flatten())


def test_transfers_compose_through_experts_that_have_merged():
    network = make_experts()
    spec = ng.trace(network, TOKENS)
    first = make_transfers(spec)
    axis = find_axis(spec)
    second = {
        axis.name: NestedTransfer.of(
            axis.within, [np.array([0, 1, 1, 0, 0]), np.array([0, 0, 1, 1, 1]), np.array([1, 0, 1, 0, 1])]
        )
    }
    composed = compose_transfers(first, second)
    spec_c = spec.with_sizes({name: t.n_coarse for name, t in first.items()})
    once = inject(spec_c, second, inject(spec, first, network.state_dict()))
    fine = prolong(spec, composed, once)
    step = prolong(spec, first, prolong(spec_c, second, once))
    for name in fine:
        assert once[name].shape == inject(spec, composed, network.state_dict())[name].shape
        torch.testing.assert_close(inject(spec, composed, step)[name], once[name])
    state = {"up": fine["up"], "down": fine["down"]}
    assert (inject(spec, composed, state)["up"] - once["up"]).abs().max() < 1e-12


def test_two_levels_and_a_file_keep_the_aggregates_of_each_expert(tmp_path):
    network = clone_neurons(make_experts(k=2), even=True)
    hierarchy = ng.build_hierarchy(network, TOKENS, n_levels=3, ratio=0.5)
    axis = find_axis(hierarchy.levels[0].spec)
    assert [level.model.get_parameter("down").shape[-1] for level in hierarchy.levels] == [8, 4, 2]
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    again = ng.load(tmp_path / "net.hierarchy", arch=make_experts)
    for level, other in zip(hierarchy.levels[1:], again.levels[1:], strict=True):
        assert (level.transfers[axis.name].each == other.transfers[axis.name].each).all()
        with torch.no_grad():
            torch.testing.assert_close(other.model(TOKENS), level.model(TOKENS))


class MixesNeurons(Experts):
    """Neurons of the two experts of a token are added up before they are read."""

    def forward(self, x):
        x = self.first(x)
        weights, chosen = self.gate(x).softmax(-1).topk(self.k, -1)
        hidden = torch.einsum("td,tkhd->tkh", x, self.up[chosen]) + self.bias[chosen]
        gate, up = hidden.chunk(2, -1)
        mixed = (gate.sigmoid() * up * weights[..., None]).sum(1)
        return self.last(torch.einsum("th,tdh->td", mixed, self.down[chosen[:, 0]]))


class ComparesNeurons(Experts):
    """Neurons of all experts meet in a softmax over the experts."""

    def forward(self, x):
        x = self.first(x)
        hidden = torch.einsum("td,ehd->teh", x, self.up) + self.bias
        gate, up = hidden.chunk(2, -1)
        return self.last(torch.einsum("teh,edh->td", gate.softmax(1) * up, self.down))


@pytest.mark.parametrize("kind", [MixesNeurons, ComparesNeurons])
def test_neurons_that_meet_those_of_other_experts_merge_alike_in_all(kind):
    torch.manual_seed(0)
    network = kind().double().eval()
    spec = ng.trace(network, TOKENS)
    assert not [axis for axis in spec.free if axis.within is not None]
    assert check_duplicate_units(network, spec, TOKENS, spec.free).error < 1e-12


def make_group_network(groups=4, width=16):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.GroupNorm(groups, width),
        nn.SiLU(),
        nn.Conv2d(width, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def test_channels_that_are_copies_in_another_order_in_each_group_merge_without_a_change():
    network, generator = make_group_network(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in range(4):
            order = torch.randperm(4, generator=generator)
            rows = group * 4 + order
            for p in (network[0].weight, network[0].bias, network[1].weight, network[1].bias):
                p[rows[2:]] = p[rows[:2]].clone()
    images = torch.randn(3, 3, 8, 8, generator=generator)
    hierarchy = ng.build_hierarchy(network, images, ratio={"*": 1.0, "0#2": 0.5}, n_levels=2)
    assert hierarchy.levels[1].model.state_dict()["0.weight"].shape[0] == 8
    with torch.no_grad():
        torch.testing.assert_close(hierarchy.levels[1].model(images), network(images), rtol=1e-4, atol=1e-5)


def test_a_coarse_network_of_nested_transfers_trains_and_prolongs():
    network = make_experts()
    spec = ng.trace(network, TOKENS)
    transfers = make_transfers(spec)
    coarse = coarse_network(
        network, spec, {name: t for name, t in transfers.items() if name == find_axis(spec).name}
    ).train()
    coarse(TOKENS).square().sum().backward()
    assert all(p.grad is not None for p in coarse.parameters())


def test_importances_inside_experts_are_those_of_each_expert():
    network = make_experts()
    axis = find_axis(ng.trace(network, TOKENS))
    options = {"ratio": {"*": 1.0, axis.name: 0.5}, "coarsener": "ward", "data": TOKENS}
    transfer = ng.build_hierarchy(network, TOKENS, importance="magnitude", **options).levels[1].transfers[axis.name]
    both = torch.cat([network.up.detach(), network.bias.detach()[..., None]], 2)  # (experts, 2 · neurons, inputs)
    squares = both.square().sum(2).unflatten(1, (2, 8)).sum(1)  # of gate and up
    for expert, part in enumerate(transfer.parts):
        np.testing.assert_allclose(part.weights, squares[expert].numpy(), rtol=1e-5)
    fisher = ng.build_hierarchy(network, TOKENS, importance="fisher", **options).levels[1]
    parts = fisher.transfers[axis.name].parts
    assert len({part.weights.tobytes() for part in parts}) > 3  # experts that no token reaches have zeros
    state = {"bias": network.bias.detach()}
    moved = inject(ng.trace(network, TOKENS), {axis.name: fisher.transfers[axis.name]}, state)["bias"]
    for expert, part in enumerate(parts):
        halves = [part.average(half, 0) for half in network.bias.detach()[expert].chunk(2)]
        torch.testing.assert_close(moved[expert], torch.cat(halves))
