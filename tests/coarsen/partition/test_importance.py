"""Importances of units against gates that are written into the network, closed forms, and means by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen import AxisGraph, magnitude
from netgraph.coarsen.matching.unit_importance import MOST, ROWS, measure_gates
from netgraph.coarsen.network.rewrite import coarse_network
from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.levels.rematch import compute_signatures

ROWS_OF_DATA = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Gated(nn.Module):
    """A layer of eight ReLU units, each behind a gate."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, gates=None):
        hidden = self.first(x).relu()
        return self.last(hidden if gates is None else hidden * gates)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Gated().double().eval()


def build(network, importance, **options):
    options = {"coarsener": "ward", "data": ROWS_OF_DATA} | options
    return ng.build_hierarchy(network, ROWS_OF_DATA[:2], importance=importance, **options).levels[1]


def differentiate_gates(network):
    """Return the mean square of the derivative by each gate, for the same projections of the outputs."""
    generator, squares = torch.Generator().manual_seed(0), []
    for rows in ROWS_OF_DATA.split(ROWS):
        gates = torch.ones(8, dtype=torch.float64, requires_grad=True)
        projection = torch.randn(len(rows), 3, generator=generator).double()
        (derivative,) = torch.autograd.grad((network(rows, gates) * projection).sum(), gates)
        squares.append(derivative.square())
    return torch.stack(squares).mean(0)


def test_fisher_importance_is_the_square_of_the_derivative_by_a_gate(network):
    spec = ng.trace(network, ROWS_OF_DATA[:2])
    recorded = coarse_network(network, spec, {}).eval()
    measured = measure_gates(recorded, spec, [ROWS_OF_DATA], absolute=False)["first"]
    # what makes a ReLU unit and what reads it both scale it, so their sum is twice the derivative
    torch.testing.assert_close(measured, 4 * differentiate_gates(network))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class Attention(nn.Module):
    """Four heads of two numbers each, beside a residual stream."""

    def __init__(self):
        super().__init__()
        self.first, self.qkv, self.out, self.head = (nn.Linear(*n) for n in ((5, 5), (5, 24), (8, 5), (5, 2)))

    def forward(self, x):
        x = self.first(x)
        q, k, v = self.qkv(x).view(len(x), -1, 3, 4, 2).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.out(mixed)).mean(1)


def make_convolutions():
    return nn.Sequential(
        nn.Conv1d(5, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 2, 3), nn.Flatten(), nn.Linear(2, 2)
    )


def make_groups():
    return nn.Sequential(nn.Conv1d(5, 12, 3), nn.GroupNorm(2, 12), nn.SiLU(), nn.Conv1d(12, 2, 3), nn.Flatten())


def rows_of(*places):
    """Return which parameters a unit owns, and where: (name, dimension, function from a unit to indices)."""
    return [(name, dim, index) for names, dim, index in places for name in names.split()]


def three_gates(j):
    return [j, 6 + j, 12 + j]


def one(j):
    return [j]


OWNED = {
    "recurrent": (Recurrent, "gru.weight_ih_l0#2", 6, rows_of(
        ("gru.weight_ih_l0 gru.weight_hh_l0 gru.bias_ih_l0 gru.bias_hh_l0", 0, three_gates), ("gru.weight_hh_l0 head.weight", 1, one),
    )),
    "heads": (Attention, "qkv#2", 4, rows_of(
        ("qkv.weight qkv.bias", 0, lambda h: [part * 8 + h * 2 + i for part in range(3) for i in range(2)]),
        ("out.weight", 1, lambda h: [h * 2, h * 2 + 1]),
    )),
    "residual stream": (Attention, "first", 5, rows_of(
        ("first.weight first.bias out.weight out.bias", 0, one), ("qkv.weight head.weight", 1, one),
    )),
    "batch norm": (make_convolutions, "0", 6, rows_of(("0.weight 0.bias 1.weight 1.bias", 0, one), ("3.weight", 1, one))),
    "channels of groups": (make_groups, "0#2", 12, rows_of(("0.weight 0.bias 1.weight 1.bias", 0, one), ("3.weight", 1, one))),
}  # fmt: skip


def scale_and_differentiate(network, owned, unit, inputs):
    """Return the derivative of the outputs when all that a unit owns grows by one factor, by central differences."""
    state, outputs, step = network.state_dict(), [], 1e-5
    for factor in (1 + step, 1 - step):
        scaled = {name: tensor.clone() for name, tensor in state.items()}
        for name, dim, index in owned:
            scaled[name].index_copy_(
                dim, torch.tensor(index(unit)), scaled[name].index_select(dim, torch.tensor(index(unit))) * factor
            )
        outputs.append(torch.func.functional_call(network, scaled, (inputs,)).detach())
    return (outputs[0] - outputs[1]) / (2 * step)


@pytest.mark.parametrize("kind", OWNED)
def test_fisher_importance_is_that_of_finite_differences_of_all_that_a_unit_owns(kind):
    make, axis, n, owned = OWNED[kind]
    torch.manual_seed(5)
    network = make().double().eval()
    shape = (40, 5, 5) if isinstance(network, nn.Sequential) else (40, 4, 5)
    inputs = torch.randn(shape, dtype=torch.float64)
    if kind == "batch norm":
        network.train()(inputs)
        network.eval()
    spec = ng.trace(network, inputs[:2])
    measured = measure_gates(coarse_network(network, spec, {}).eval(), spec, [inputs], absolute=False)[axis]
    generator, squares = torch.Generator().manual_seed(0), torch.zeros(n, dtype=torch.float64)
    for rows in inputs.split(ROWS):
        derivatives = torch.stack([scale_and_differentiate(network, owned, unit, rows) for unit in range(n)])
        projection = torch.randn(derivatives.shape[1:], generator=generator).double()
        squares += (derivatives * projection).flatten(1).sum(1).square()
    torch.testing.assert_close(measured, squares / 3, rtol=1e-5, atol=1e-10)


def test_units_that_merge_alike_in_all_groups_weigh_by_their_sum_over_the_groups():
    torch.manual_seed(5)
    network, inputs = make_groups().double().eval(), torch.randn(40, 5, 5, dtype=torch.float64)
    spec = ng.trace(network, inputs[:2])
    pairs = measure_gates(coarse_network(network, spec, {}).eval(), spec, [inputs], absolute=False)["0#2"]
    options = {"importance": "fisher", "coarsener": "ward", "data": inputs}
    for ratio, alike in (({"0": 1.0}, True), ({}, False)):
        hierarchy = ng.build_hierarchy(network, inputs[:2], ratio={"*": 1.0, "0#2": 0.5, **ratio}, **options)
        transfer = hierarchy.levels[1].transfers["0#2"]
        if alike:
            np.testing.assert_allclose(transfer.weights, (pairs[:6] + pairs[6:]).numpy())
        else:
            for part, rows in zip(transfer.parts, pairs.split(6), strict=True):
                np.testing.assert_allclose(part.weights, rows.numpy())


def test_networks_in_half_precision_have_the_importances_of_their_numbers(network):
    spec = ng.trace(network, ROWS_OF_DATA[:2])
    exact = measure_gates(coarse_network(network, spec, {}).eval(), spec, [ROWS_OF_DATA], absolute=False)["first"]
    half = Gated().eval()
    half.load_state_dict(network.state_dict())
    half, rows = half.bfloat16(), ROWS_OF_DATA.bfloat16()
    spec = ng.trace(half, rows[:2])
    rough = measure_gates(coarse_network(half, spec, {}).eval(), spec, [rows], absolute=False)["first"]
    torch.testing.assert_close(rough, exact, rtol=0.2, atol=0.05 * float(exact.max()))


def test_gate_importance_estimates_the_change_of_the_outputs(network):
    spec = ng.trace(network, ROWS_OF_DATA[:2])
    rows = torch.randn(ROWS * MOST, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    measured = measure_gates(coarse_network(network, spec, {}).eval(), spec, [rows], absolute=False)["first"]
    hidden = network.first(rows).relu().detach()
    change = hidden.square().sum(0) * network.last.weight.detach().square().sum(
        0
    )  # |outputs without a unit - outputs|²
    torch.testing.assert_close(measured * MOST / 4, change, rtol=0.6, atol=0)  # 64 squares of projections
    assert np.corrcoef(measured, change)[0, 1] > 0.9


def test_taylor_importance_adds_up_absolute_products_of_everything_that_makes_and_reads_a_unit(network):
    spec = ng.trace(network, ROWS_OF_DATA[:2])
    measured = measure_gates(coarse_network(network, spec, {}).eval(), spec, [ROWS_OF_DATA], absolute=True)["first"]
    generator, squares = torch.Generator().manual_seed(0), []
    for rows in ROWS_OF_DATA.split(ROWS):
        network.zero_grad()
        (network(rows) * torch.randn(len(rows), 3, generator=generator).double()).sum().backward()
        first, bias, last = ((p * p.grad).abs() for p in list(network.parameters())[:3])
        squares.append((first.sum(1) + bias + last.sum(0)).square())
    network.zero_grad()
    torch.testing.assert_close(measured, torch.stack(squares).mean(0).detach())


@pytest.mark.parametrize("kind", ["magnitude", "activation", "taylor", "fisher"])
def test_merged_weights_are_means_by_importance(network, kind):
    level = build(network, kind)
    transfer = level.transfers["first"]
    if kind == "magnitude":
        weights = torch.cat([network.first.weight, network.first.bias[:, None]], 1).square().sum(1)
    elif kind == "activation":
        weights = network.first(ROWS_OF_DATA).relu().square().mean(0)
    else:
        weights = torch.as_tensor(transfer.weights)
    for aggregate in range(transfer.n_coarse):
        members = np.flatnonzero(transfer.aggregates == aggregate)
        share = (weights[members] / weights[members].sum())[:, None]
        mean = (network.first.weight[members] * share).sum(0)
        torch.testing.assert_close(level.model.first.weight[aggregate], mean, rtol=1e-6, atol=0)
    assert (transfer.sizes > 1).any()


def test_importance_tells_which_units_magnitude_keeps(network):
    kept = build(network, "fisher", coarsener="magnitude").transfers["first"]
    strongest = differentiate_gates(network).argsort(descending=True)[:4]
    assert set(np.flatnonzero(kept.aggregates >= 0)) == set(strongest.tolist())
    assert kept.weights is None


def test_units_that_are_copies_merge_exactly_by_any_importance(network):
    torch.manual_seed(3)
    copies = Gated().double().eval()
    with torch.no_grad():
        for p in (copies.first.weight, copies.first.bias):
            p[4:] = p[:4]
    level = build(copies, "fisher")
    assert not np.allclose(level.transfers["first"].shares, 0.5)
    torch.testing.assert_close(level.model(ROWS_OF_DATA), copies(ROWS_OF_DATA))


def test_a_saved_hierarchy_keeps_the_weights_of_units(network, tmp_path):
    hierarchy = ng.build_hierarchy(network, ROWS_OF_DATA[:2], importance="fisher", data=ROWS_OF_DATA)
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    loaded = ng.load(tmp_path / "net.hierarchy")
    saved, read = (h.levels[1].transfers["first"] for h in (hierarchy, loaded))
    np.testing.assert_allclose(read.R.toarray(), saved.R.toarray(), rtol=1e-14)
    assert loaded.options.importance == "fisher"
    assert compute_signatures(HierarchyMaps(loaded)) == compute_signatures(HierarchyMaps(hierarchy))
    plain = ng.build_hierarchy(network, ROWS_OF_DATA[:2])
    assert compute_signatures(HierarchyMaps(plain)) != compute_signatures(HierarchyMaps(hierarchy))


def test_frozen_parameters_count_and_stay_frozen(network):
    frozen = Gated().double().eval().requires_grad_(False)
    frozen.load_state_dict(network.state_dict())
    np.testing.assert_allclose(
        build(frozen, "fisher").transfers["first"].weights, build(network, "fisher").transfers["first"].weights
    )
    assert not any(p.requires_grad for p in frozen.parameters())


def test_what_cannot_be_measured_is_refused_by_name(network):
    class Detached(Gated):
        def forward(self, x):
            with torch.no_grad():
                return super().forward(x)

    class Multiplied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.scale = nn.Linear(5, 8), nn.Parameter(torch.ones(8))

        def forward(self, x):
            return (self.first(x).relu() * self.scale).sum(1)

    with pytest.raises(NetgraphError, match=r"no importance is called 'hessian'\. Choose one of none, magnitude"):
        build(network, "hessian")
    with pytest.raises(NetgraphError, match="importance 'taylor' needs calibration data"):
        build(network, "taylor", data=None)
    with pytest.raises(NetgraphError, match="outputs of the network have none"):
        build(Detached().double(), "fisher")
    with pytest.raises(NetgraphError, match="no linear layer or convolution reads the units of axis 'scale'"):
        build(Multiplied().double(), "activation")
    with pytest.raises(NetgraphError, match="an importance weighs units that merge, but 'space' merges no units"):
        build(network, "magnitude", directions="space")


@pytest.mark.parametrize("wrong", [np.ones(3), np.array([1.0, np.nan]), np.array([1.0, -1.0]), np.array(["a", "b"])])
def test_wrong_importances_make_no_graph(wrong):
    with pytest.raises(NetgraphError, match="importance"):
        AxisGraph("fc1", ng.affinity.AllPairs(np.zeros((2, 2))), np.ones(2), importance=wrong)


def test_fixed_units_stay_whatever_their_importance():
    affinity = ng.affinity.AllPairs(np.zeros((4, 4)))
    graph = AxisGraph(
        "fc1", affinity, np.ones(4), fixed=np.array([True, False, False, False]), importance=np.array([0, 3, 1, 2])
    )
    assert magnitude(graph, 2).tolist() == [0, 1, -1, -1]
