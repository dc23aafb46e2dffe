"""Rates of nested iteration: the decay on the finest level, and the warm-up of a level that has begun."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import netgraph as ng
from netgraph.coarsen.hierarchy.hierarchy import build_single_level
from netgraph.errors import NetgraphError
from netgraph.fas import FAS, Multigrid, Options, Problem, Smoothing, TrainOptions
from netgraph.models import load_dataset, make_task
from netgraph.models.training.tasks import TrainingDefaults
from netgraph.optim.optimizers import ALIKE_RATES
from netgraph.utils.options import list_flags

STEPS = (20, 40, 140)  # of three levels, finest first


def train(cycle="kaskade", *, share=STEPS, smoothing=None, **settings):
    """Return the rate of every step, and the level that took it, of a run with a largest rate of 1e-3."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    batches = [(torch.randn(4, 3), torch.randn(4, 2))]
    example = batches[0][0]
    levels = (
        ng.build_hierarchy(network, example, n_levels=len(share))
        if len(share) > 1
        else build_single_level(network, example)
    )
    solver = FAS(
        cycle, torch.optim.SGD, 1e-3, epochs=sum(share), share=share, options=Options(smoothing or Smoothing()), **settings
    )  # fmt: skip
    solution = solver.solve(levels, Problem(batches, torch.nn.functional.mse_loss), every=1)
    smoothing_events = solution.events("smooth")
    return [record["lr"] / 1e-3 for record in smoothing_events], [record["level"] for record in smoothing_events]


def test_the_rate_of_nested_iteration_falls_on_the_finest_level_alone():
    """200 steps: 4 of warm-up, and a linear fall over the 20 of the finest level, which are fewer than a quarter."""
    rates, levels = train()
    i = np.arange(200)
    np.testing.assert_allclose(rates, np.minimum(np.minimum((i + 1) / 4, 1), (200 - i) / 20), rtol=1e-12)
    assert levels == [2] * 140 + [1] * 40 + [0] * 20
    assert [level for level, rate in zip(levels[4:], rates[4:], strict=True) if rate < 1] == [0] * 19


def test_a_long_finest_level_decays_over_the_last_quarter():
    rates, _ = train(share=(100, 60, 40))
    assert rates[149:152] == pytest.approx([1, 1, 49 / 50])


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, "wsd"), ({"cycle": "full"}, "wsd"), ({"schedule": "wsd"}, "wsd"), ({"cycle": "v"}, "one-cycle"),
        ({"share": (200,)}, "wsd"), ({"schedule": "one-cycle"}, "one-cycle"),
    ],
)  # fmt: skip
def test_nested_iteration_alone_has_a_stable_phase_by_default(settings, shape):
    rates, _ = train(**settings)
    middle = rates[len(rates) // 4 : len(rates) // 2]
    assert (max(middle) - min(middle) < 1e-12) == (shape == "wsd")


def test_a_finer_level_warms_up_again_over_its_own_steps():
    """The rates of the schedule times (1, 2, 3, 4, 5) / 5 in the first steps of level 1. The coarsest has the schedule's own."""
    plain, levels = train()
    warm, _ = train(smoothing=Smoothing(rewarm=5))
    begun = levels.index(1), levels.index(0)
    wanted = np.array(plain)
    for first in begun:
        wanted[first : first + 5] *= np.arange(1, 6) / 5
    np.testing.assert_allclose(warm, wanted, rtol=1e-12)


def test_accumulated_minibatches_are_one_step_of_the_warm_up():
    plain, levels = train(smoothing=Smoothing(accumulate=2), share=(10, 10))
    warm, _ = train(smoothing=Smoothing(accumulate=2, rewarm=2), share=(10, 10))
    changed = [i for i, (a, b) in enumerate(zip(plain, warm, strict=True)) if a != b]
    assert changed == [levels.index(0)]


@pytest.mark.parametrize(
    ("options", "n_levels", "kind"),
    [
        ({}, 3, None), ({"schedule": "cosine"}, 3, "cosine"), ({"cycle": "full"}, 2, None), ({"cycle": "v"}, 3, "one-cycle"),
        ({}, 1, "one-cycle"),
    ],
)  # fmt: skip
def test_the_command_takes_the_schedule_of_the_task_where_no_level_starts_another(options, n_levels, kind):
    assert TrainOptions(**options).make_solver(TrainingDefaults(), n_levels).schedule == kind


@pytest.mark.parametrize(
    ("network", "data", "wanted"),
    [
        ("cnn", "digits", {"": 0.2, "sgd": 0.2, "adam": 2e-3, "adamw": 2e-3, "muon": 2e-3, "rmsprop": 1e-3}),
        ("mlp", "digits", {"": 2e-3, "adamw": 2e-3, "muon": 2e-3, "rmsprop": 1e-3, "sgd": 0.2}),
    ],
)
def test_the_default_rate_is_one_of_the_optimizer_that_is_asked_for(network, data, wanted):
    defaults = make_task(network, load_dataset(data)).defaults
    for optimizer, lr in wanted.items():
        assert TrainOptions(optimizer=optimizer or None).make_solver(defaults, 1).lr == pytest.approx(lr, rel=1e-12)
        assert TrainOptions(optimizer=optimizer or None, lr=0.03).make_solver(defaults, 1).lr == 0.03
    transformer = TrainingDefaults(lr=1e-3)
    assert TrainOptions(optimizer="muon").make_solver(transformer, 1).lr == 1e-3
    assert TrainOptions(optimizer="sgd").make_solver(transformer, 1).lr == pytest.approx(0.1)


def test_the_help_states_the_default_rate_of_every_optimizer():
    (text,) = [flag.help for name, flag in list_flags(TrainOptions) if name == "lr"]
    for optimizer, lr in ALIKE_RATES.items():
        clause = next(part for part in re.split(", (?=1e-3)| and (?=0.2)", text) if optimizer in re.split(r"\W+", part))
        assert f"{lr:g}".replace("0.002", "2e-3").replace("0.001", "1e-3") in clause


@pytest.mark.parametrize("setting", [{"rewarm": 5}, {"accumulate": 2}, {"ema": 0.9}, {"mup": True}])
def test_an_optimizer_in_a_loop_of_its_own_refuses_what_belongs_to_the_loop(setting):
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    levels = ng.build_hierarchy(network, torch.ones(2, 3), n_levels=2)
    with pytest.raises(NetgraphError, match="rewarm belong to your loop"):
        Multigrid(torch.optim.SGD(network.parameters(), lr=0.1), levels, options=Options(Smoothing(**setting)))
