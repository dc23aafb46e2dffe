"""Muon for matrices of hidden layers: against torch's own optimizers, with muP between widths, and as a name that may be missing."""

import copy
import math

import pytest
import torch
from fasnets import OPEN, assert_same_bits, batches, hierarchy_of, mean_loss, network, state
from torch import nn
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.analysis.hidden_matrices import list_hidden_matrices
from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.errors import NetgraphError
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.levels.moments import carry_moments_down, correct_moments, read_moments, set_moments
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.levels.width_scaling import compute_rate_factors
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS, make_plain_solver
from netgraph.models.cnn import resnet
from netgraph.models.perceptron import mlp
from netgraph.models.transformer import Decoder, Encoder
from netgraph.optim.muon import MuonWithAdamW
from netgraph.optim.optimizers import find_optimizer

SMALL = {"width": 16, "n_hidden": 24, "n_heads": 2, "length": 12, "depth": 1}
TOKENS = torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(0))
OF_A_BLOCK = [*(f"attention.{name}.weight" for name in ("query", "key", "value", "out")), "up.weight", "down.weight"]


@pytest.mark.parametrize(
    ("model", "example", "wanted"),
    [
        (mlp((4, 8, 7, 3)), torch.zeros(2, 4), ["2.weight"]),
        (mlp((4, 8, 3)), torch.zeros(2, 4), []),
        (Encoder(50, 2, **SMALL), TOKENS, [f"blocks.0.{name}" for name in OF_A_BLOCK]),
        (Decoder(50, **SMALL), TOKENS, [f"blocks.0.{name}" for name in OF_A_BLOCK]),
        (resnet(1, width=4), torch.zeros(2, 3, 16, 16), []),  # kernels have four dimensions
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 3)), torch.zeros(2, 4), ["2.weight"]),
    ],
    ids=["three layers", "two layers", "encoder", "tied decoder", "convolutions", "norm"],
)  # fmt: skip
def test_hidden_matrices_lie_between_units_that_are_computed_and_read(model, example, wanted):
    assert sorted(list_hidden_matrices(ng.trace(model, example))) == sorted(wanted)


def test_training_is_that_of_torchs_own_two_optimizers_bit_for_bit():
    ours, own = network(), network()
    levels = build_single_level(ours, torch.randn(2, 6))
    make_plain_solver(optimizer=MuonWithAdamW, lr=1e-2, epochs=2, schedule="constant", weight_decay=0.1).solve(
        levels, Problem(batches(), cross_entropy)
    )
    hidden, others = own[2].weight, [p for p in own.parameters() if p is not own[2].weight]
    muon = torch.optim.Muon([hidden], 1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [p for p in others if p.ndim > 1], "weight_decay": 0.1}, {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0}], 1e-2
    )  # fmt: skip
    for x, y in batches() * 2:
        cross_entropy(own(x), y).backward()
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
    assert_same_bits(state(own), state(ours))


def test_a_copy_and_a_loaded_state_go_on_alike():
    model = network()
    smoother = Smoother(model, MuonWithAdamW, 1e-2, matrices=["2.weight"])
    data = batches(4)

    def take(smoother, data):
        for x, y in data:
            smoother.step(lambda m, b: cross_entropy(m(b[0]), b[1]), [(x, y)], {})

    take(smoother, data[:2])
    twin = copy.deepcopy(smoother)
    third = Smoother(copy.deepcopy(model), MuonWithAdamW, 1e-2, matrices=["2.weight"])
    third.optimizer.load_state_dict(copy.deepcopy(smoother.optimizer.state_dict()))
    for one in (smoother, twin, third):
        take(one, data[2:])
        assert_same_bits(state(model), state(one.model))


def test_corrected_moments_are_those_of_muon_that_took_the_coarse_gradients():
    model = network().double()
    maps = HierarchyMaps(ng.build_hierarchy(model, torch.randn(2, 6).double(), n_levels=2, coarsener="random"))
    fine, coarse = (Smoother(m, MuonWithAdamW, 1e-3, matrices=["2.weight"]) for m in maps.models)
    random = torch.Generator().manual_seed(0)

    def take(smoother, gradient):
        for name, p in smoother.named.items():
            p.grad = gradient[name].clone()
        smoother.optimizer.step()

    def draw(smoother):
        return {n: torch.randn(p.shape, generator=random, dtype=torch.float64) for n, p in smoother.named.items()}

    for _ in range(3):
        take(fine, draw(fine))
    twin = copy.deepcopy(fine)
    set_moments(coarse, carry_moments_down(maps, 0, fine))
    for _ in range(5):
        gradient = draw(coarse)
        take(coarse, gradient)
        take(twin, maps.distribute(0, gradient))
    correct_moments(maps, 0, fine, coarse)
    corrected, expected = read_moments(fine), read_moments(twin)
    assert corrected["momentum_buffer"].keys() == {"2.weight"}
    for key, vector in expected.items():
        for name, value in vector.items():
            torch.testing.assert_close(corrected[key][name], value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("cycle", ["kaskade", "full", "v"])
def test_every_level_learns_with_muon(cycle):
    model, data = network(), batches()
    before = mean_loss(model, data)
    options = Options(Smoothing(2, 2, 4, mup=True), gate=OPEN)
    solution = FAS(cycle, find_optimizer("muon"), 5e-2, epochs=6, options=options).solve(
        hierarchy_of(model), Problem(data, cross_entropy)
    )
    assert mean_loss(model, data) < before / 1.4
    assert {r["level"] for r in solution.events("smooth")} == {0, 1, 2}


def test_muon_is_refused_by_name_where_torch_has_none(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(NetgraphError, match="has no Muon"):
        find_optimizer("muon")
    with pytest.raises(NetgraphError, match="has no Muon"):
        MuonWithAdamW([torch.nn.Parameter(torch.zeros(()))])


def test_groups_that_do_not_say_whose_they_are_and_levels_without_layers_are_refused():
    with pytest.raises(NetgraphError, match="does not say whether it holds these"):
        MuonWithAdamW(network().parameters())

    class OwnLevels:
        models, flops = [network(), network()], [2.0, 1.0]

    with pytest.raises(NetgraphError, match="only a hierarchy of networks knows"):
        FAS("v", MuonWithAdamW, cycles=1).begin(OwnLevels(), Problem(batches(), cross_entropy))


def test_a_network_without_hidden_matrices_is_trained_by_adamw_bit_for_bit_and_the_run_says_so(caplog):
    """Its first and last layer go to AdamW, and so it has none for Muon."""
    states = []
    for name in ("adamw", "muon"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        solver = FAS("kaskade", find_optimizer(name), 1e-2, epochs=1)
        solver.solve(ng.build_hierarchy(model, torch.randn(2, 6)), Problem(batches(), cross_entropy))
        states.append(state(model))
        assert ("muon is AdamW of all parameters" in caplog.text) == (name == "muon")
    assert_same_bits(*states)


# widths


def test_rates_of_muon_grow_with_the_root_of_the_width():
    """An orthogonal step of root mean square 0.2 has norm 0.2 sqrt(n) for width n, and should have a norm that does not depend on n."""
    maps = HierarchyMaps(ng.build_hierarchy(mlp((4, 64, 64, 3)), torch.zeros(2, 4), n_levels=3))
    factors = compute_rate_factors(maps, 2, MuonWithAdamW)
    assert factors["2.weight"] == pytest.approx(math.sqrt(4))
    assert (factors["0.weight"], factors["4.weight"]) == (1, 4)  # AdamW's: 1 / fan_in


def test_an_embedding_keeps_its_rate_because_it_sums_over_nothing():
    maps = HierarchyMaps(ng.build_hierarchy(Encoder(50, 2, **SMALL), TOKENS))
    factors = compute_rate_factors(maps, 1, torch.optim.AdamW)
    assert (factors["embedding.weight"], factors["positions.weight"]) == (1, 1)
    assert (factors["head.weight"], factors["blocks.0.up.weight"]) == (2, 2)


class Wide(nn.Module):
    """Three layers of one width, whose hidden activations are outputs too."""

    def __init__(self, n=256):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, n), nn.Linear(n, n), nn.Linear(n, 4)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(h)))


def changes(mup, make_optimizer):
    """The change of the second layer's output by a step of its weights, root mean square, on levels of widths 256, 64 and 16."""
    torch.manual_seed(0)
    model, x = Wide(), torch.randn(64, 8)
    hierarchy = ng.build_hierarchy(model, x[:2], n_levels=3, ratio=0.25)
    ng.init_coarse_weights(hierarchy)
    options = Options(Smoothing(mup=mup))
    solver = FAS("kaskade", make_optimizer, 1e-3, epochs=1, options=options)
    maps, found = HierarchyMaps(hierarchy), []
    for level in range(3):
        grid = solver.make_grid(maps, level)

        h = torch.relu(nn.functional.linear(x, grid.x["first.weight"], grid.x["first.bias"])).detach()
        before = grid.x["second.weight"].detach().clone()
        grid.smoother.step(lambda m, b: m(b).square().mean(), [x], {})
        found.append(float((h @ (grid.x["second.weight"] - before).T).square().mean().sqrt()))
    return found


@pytest.mark.parametrize("make_optimizer", [torch.optim.Adam, MuonWithAdamW], ids=["adam", "muon"])
def test_activations_change_by_the_same_size_at_every_width_with_mup(make_optimizer):
    """The coordinate check of Yang et al., arXiv:2203.03466, appendix D.1."""
    scaled, same = changes(True, make_optimizer), changes(False, make_optimizer)
    assert max(scaled) / min(scaled) < 2
    assert max(same) / min(same) > 3
