"""Runs that have begun, for tests of trackers and reports."""

import torch
from torch.nn.functional import cross_entropy

import netgraph as ng
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Gate, Smoothing, Tau
from netgraph.fas.solver.problem import Problem
from netgraph.fas.solver.solver import FAS
from netgraph.models.perceptron import mlp


def begun(callbacks, cycles=2, ema=None):
    random = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 6, generator=random), torch.randint(0, 3, (8,), generator=random)) for _ in range(6)]
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(mlp((6, 16, 8, 3)), torch.randn(2, 6), n_levels=2)
    options = Options(
        Smoothing(2, 2, 3, ema=ema),
        Tau("common", 2),
        Gate(gap=float("inf"), tau=float("inf"), kappa=0.0, share=float("inf")),
    )
    solver = FAS("v", torch.optim.Adam, 1e-2, cycles=cycles, options=options)
    problem = Problem(batches, cross_entropy, valid=lambda model: {"accuracy": 0.5, "loss": 1.5})
    return solver, solver.begin(hierarchy, problem, callbacks=callbacks, every=1)
