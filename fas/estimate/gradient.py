"""The gradient of several levels together, written to the finest of them, and the covariances of the gradients of one sample.

A coarse network at inject x is a function of the fine x. By the chain rule its gradient there is ``distribute(grad f_c(inject x))``,
because distribute is the transpose of inject. Levels of another resolution have the same parameters, and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from netgraph.fas.estimate.plan import Term
from netgraph.fas.estimate.samples import count_samples, cut_pool
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps
from netgraph.fas.levels.smoother import Value, check_gradient, compute_value, read_gradients
from netgraph.fas.levels.vectors import Vector, assign, dot


def inject_levels(maps: Maps, grids: Sequence[Grid], level: int, deepest: int) -> None:
    """Give all coarser levels, down to the deepest, the injected x of a level."""
    for i in range(level, deepest):
        assign(grids[i + 1].x, maps.inject(i, grids[i].x))


def evaluate_terms(
    maps: Maps, grids: Sequence[Grid], level: int, value: Value, pool: list[Any], terms: Sequence[Term], first: int = 0
) -> float:
    """Write the weighted sum of the gradients of some terms to ``.grad`` of a level, and return the same sum of losses.

    Parameters
    ----------
    maps : Maps
    grids : sequence of Grid
        All levels, the coarser ones at the injected x.
    level : int
        The level whose gradient is estimated.
    value : callable ``(model, minibatch) -> scalar``
    pool : list
        Minibatches that hold the samples.
    terms : sequence of Term
    first : int, default 0
        Sample of the pool from which the terms count.
    """
    deepest = max(term.level for term in terms)
    for grid in grids[level : deepest + 1]:
        grid.smoother.optimizer.zero_grad()
    total = 0.0
    for term in terms:
        parts = cut_pool(pool, first + term.start, first + term.stop)
        total += _accumulate_term(grids[term.level], value, parts, term.weight, term.stop - term.start)
    for i in reversed(range(level, deepest)):
        coarse = grids[i + 1].smoother
        add_to_gradients(maps.distribute(i, read_gradients(coarse)), grids[i].smoother.named)
        coarse.optimizer.zero_grad()
    return total


def _accumulate_term(grid: Grid, value: Value, parts: list[Any], weight: float, n: int) -> float:
    """Add the gradient of the mean over some samples, times a weight, to ``.grad`` of a level."""
    total = 0.0
    for part in parts:
        loss = compute_value(grid.model, value, part, bf16=grid.smoother.options.bf16)
        check_gradient(loss)
        scale = weight * count_samples(part) / n
        (loss if scale == 1 else loss * scale).backward()
        total += scale * float(loss.detach())
    return total


def add_to_gradients(vector: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> None:
    """Add a vector to the gradients in ``.grad``. A parameter without a gradient takes it as its own."""
    for name, tensor in vector.items():
        parameter = named.get(name)
        if parameter is not None:
            parameter.grad = tensor.clone() if parameter.grad is None else parameter.grad.add_(tensor)


def measure_covariances(
    maps: Maps, grids: Sequence[Grid], level: int, value: Value, pool: list[Any], n: int
) -> list[list[float]]:
    """Return the traces of the covariances of one sample's gradients, between a level and all coarser ones.

    Parameters
    ----------
    maps : Maps
    grids : sequence of Grid
        All levels, the coarser ones at the injected x.
    level : int
    value : callable ``(model, minibatch) -> scalar``
    pool : list
        Minibatches that hold the samples.
    n : int
        Samples to measure on.
    """
    n_levels = len(grids) - level
    sums: list[Vector] = [{} for _ in range(n_levels)]
    products = [[0.0] * n_levels for _ in range(n_levels)]
    for i in range(n):
        (sample,) = cut_pool(pool, i, i + 1)
        vectors = [_carry_gradient(maps, grids, level, level + j, value, sample) for j in range(n_levels)]
        for j, vector in enumerate(vectors):
            _add_vector(sums[j], vector)
            for k in range(j + 1):
                products[j][k] += dot(vector, vectors[k])
    covariances = [[0.0] * n_levels for _ in range(n_levels)]
    for j in range(n_levels):
        for k in range(j + 1):
            covariances[j][k] = covariances[k][j] = (products[j][k] - dot(sums[j], sums[k]) / n) / (n - 1)
    return covariances


def _carry_gradient(maps: Maps, grids: Sequence[Grid], level: int, source: int, value: Value, sample: Any) -> Vector:
    """Return the gradient of a coarse level on one sample, carried up to a level."""
    smoother = grids[source].smoother
    smoother.optimizer.zero_grad()
    _accumulate_term(grids[source], value, [sample], 1.0, 1)
    vector = read_gradients(smoother)
    smoother.optimizer.zero_grad()  # sets .grad to None, which leaves the tensors to the vector
    for i in reversed(range(level, source)):
        vector = maps.distribute(i, vector)
    return {name: tensor for name, tensor in vector.items() if name in grids[level].smoother.named}


def _add_vector(total: Vector, vector: Mapping[str, Tensor]) -> None:
    """Add a vector to another in place."""
    for name, tensor in vector.items():
        if name in total:
            total[name].add_(tensor)
        else:
            total[name] = tensor.clone()
