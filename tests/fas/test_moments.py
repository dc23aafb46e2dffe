"""Optimizer state between levels and after a correction, against torch's own optimizers."""

import copy
import math
from functools import partial

import pytest
import torch
from fasnets import OPEN, batches, hierarchy_of, mean_loss, network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.fas.integrations.optimizer import Multigrid
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.levels.moments import carry_moments_down, correct_moments, read_moments, set_moments
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.data.datasets import load_dataset
from netgraph.models.data.loader import Loader
from netgraph.models.perceptron import mlp

pytestmark = pytest.mark.no_cover
AVERAGES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
}
OTHERS = {  # as such, and with state that no map takes
    "amsgrad": (partial(torch.optim.Adam, amsgrad=True), 1e-2),
    "no momentum": (partial(torch.optim.Adam, betas=(0.0, 0.99)), 1e-2),
    "no bound": (partial(torch.optim.Adam, betas=(0.9, 0.5)), 1e-2),
    "centered": (partial(torch.optim.RMSprop, centered=True, momentum=0.5), 1e-3),
    "nadam": (torch.optim.NAdam, 1e-2),
    "adagrad": (torch.optim.Adagrad, 1e-1),
    "adadelta": (torch.optim.Adadelta, 1.0),
    "adamax": (torch.optim.Adamax, 1e-2),
    "rprop": (torch.optim.Rprop, 1e-3),
}


def largest(betas, steps=5000):
    """The largest |m| / sqrt(v) there can be, by the Cauchy-Schwarz inequality term by term."""
    first, second = betas
    return math.sqrt(sum((1 - first) ** 2 / (1 - second) * (first**2 / second) ** k for k in range(steps)))


def levels(make, *, dtype=torch.float32, seed=0):
    """Two levels and a smoother for each."""
    model = network(seed).to(dtype)
    maps = HierarchyMaps(ng.build_hierarchy(model, torch.randn(2, 6, dtype=dtype), n_levels=2, coarsener="random"))
    return maps, *(Smoother(m, make, 1e-2) for m in maps.models)


def gradients(smoother, seed, spread):
    """Gradients of which some are zero and all differ in size."""
    random = torch.Generator().manual_seed(seed)
    gradients = {}
    for name, p in smoother.named.items():
        g, size, alive = (torch.randn(p.shape, generator=random, dtype=torch.float64) for _ in range(3))
        gradients[name] = (g * 10 ** (spread * size) * (alive > -1)).to(p.dtype)
    return gradients


def take(smoother, gradient):
    for name, p in smoother.named.items():
        p.grad = gradient[name].clone()
    smoother.optimizer.step()


def corrected(make, before, after, seed, spread):
    maps, fine, coarse = levels(make, seed=seed % 5)
    for i in range(before):
        take(fine, gradients(fine, seed + i, spread))
    set_moments(coarse, carry_moments_down(maps, 0, fine))
    for i in range(after):
        take(coarse, gradients(coarse, seed + 100 + i, spread))
    correct_moments(maps, 0, fine, coarse)
    return fine, coarse


runs = given(
    before=st.integers(1, 12), after=st.integers(1, 12), seed=st.integers(0, 10**6), spread=st.floats(0.0, 2.0)
)


@settings(max_examples=8, deadline=None)  # of each of eight optimizers
@runs
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99), (0.5, 0.9), (0.9, 0.82)])
def test_after_any_correction_moments_are_such_as_adam_can_have(betas, amsgrad, before, after, seed, spread):
    for level in corrected(partial(torch.optim.Adam, betas=betas, amsgrad=amsgrad), before, after, seed, spread):
        moments = read_moments(level)
        for name, v in moments["exp_avg_sq"].items():
            m = moments["exp_avg"][name]
            assert m.isfinite().all()
            assert v.isfinite().all()
            assert (v >= 0).all()
            assert (m.abs() <= largest(betas) * v.sqrt() * 1.0001 + 1e-15).all()
            assert not amsgrad or (moments["max_exp_avg_sq"][name] >= v).all()


@settings(max_examples=20, deadline=None)
@runs
def test_after_any_correction_rmsprop_has_a_variance(before, after, seed, spread):
    fine, coarse = corrected(partial(torch.optim.RMSprop, centered=True), before, after, seed, spread)
    for level in (fine, coarse):
        moments = read_moments(level)
        for name, v in moments["square_avg"].items():
            assert (v - moments["grad_avg"][name] ** 2 >= 0).all()
    take(fine, gradients(fine, seed + 200, spread))
    assert all(p.isfinite().all() for p in fine.named.values())


@pytest.mark.parametrize("name", AVERAGES)
def test_corrected_moments_are_those_of_the_fine_optimizer_that_took_the_coarse_gradients(name):
    maps, fine, coarse = levels(AVERAGES[name], dtype=torch.float64)
    for i in range(5):
        take(fine, gradients(fine, i, 0.5))
    twin = copy.deepcopy(fine)
    set_moments(coarse, carry_moments_down(maps, 0, fine))
    for i in range(7):
        gradient = gradients(coarse, 100 + i, 0.5)
        take(coarse, gradient)
        take(twin, maps.distribute(0, gradient))
    correct_moments(maps, 0, fine, coarse)
    corrected, expected = read_moments(fine), read_moments(twin)
    assert corrected.keys() == expected.keys()
    for key, vector in expected.items():
        for n, value in vector.items():
            torch.testing.assert_close(
                torch.as_tensor(corrected[key][n]), torch.as_tensor(value), rtol=1e-10, atol=1e-14
            )


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("cycle", ["kaskade", "v"])
def test_any_optimizer_goes_on_from_the_state_of_another_level_or_without_state(cycle, name):
    optimizer, lr = OTHERS[name]
    model, data = network(), batches(4)
    before = mean_loss(model, data)
    FAS(cycle, optimizer, lr, epochs=15, options=Options(gate=OPEN)).solve(
        hierarchy_of(model), Problem(data, cross_entropy)
    )
    assert mean_loss(model, data) < before


def digits(optimizer, seed, moments):
    data = load_dataset("digits").flat()
    torch.manual_seed(seed)
    hierarchy = ng.build_hierarchy(mlp((64, 128, 64, 10)), data.train.inputs[:2], n_levels=2, seed=seed)
    options = Options(Smoothing(moments=moments), gate=Gate(share=math.inf))
    solution = FAS("v", optimizer, 4e-3, epochs=4, seed=seed, options=options).solve(
        hierarchy, Problem(Loader(data, 64, seed=seed), cross_entropy)
    )
    assert any(record["length"] for record in solution.events("up"))
    with torch.no_grad():
        return float(cross_entropy(solution.model(data.train.inputs), data.train.targets))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_on_digits_corrected_moments_lower_the_loss_more_than_none(optimizer, seed):
    assert digits(optimizer, seed, True) < digits(optimizer, seed, False)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_in_a_users_loop_no_step_after_a_coarse_one_exceeds_the_bound_of_adam(optimizer):
    model, data = network(), batches()
    wrapper = Multigrid(
        optimizer(model.parameters(), 1e-2), hierarchy_of(model, 2), every=5, options=Options(gate=OPEN)
    )
    longest = 0.0
    for inputs, targets in data * 4:
        before = copy.deepcopy(model.state_dict())
        n = sum(r["event"] == "up" for r in wrapper.history)
        wrapper.step(lambda m, x, y: cross_entropy(m(x), y), inputs, targets)
        if sum(r["event"] == "up" for r in wrapper.history) == n:  # a fine step alone
            longest = max(
                longest, *(float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters())
            )
    assert sum(bool(r["length"]) for r in wrapper.history if r["event"] == "up") >= 8
    assert longest <= 1.01 * largest((0.9, 0.999)) * 1e-2
    assert mean_loss(model, data) < 0.5
