"""The Bratu problem -Δu - λ exp(u) = r on the unit square as levels of the solver: a nonlinear multigrid classic.

Energies are weighted by h², so that the gradient of one level is comparable to the restricted one of the next.
"""

import math

import torch
from torch import nn


class Bratu(nn.Module):
    """h² sum(½ |grad u|² - λ exp(u) - r u) on n × n inner points; its gradient is h² (A u - λ exp(u) - r)."""

    def __init__(self, n, rate, source=None):
        super().__init__()
        self.u = nn.Parameter(torch.zeros(n, n, dtype=torch.float64))
        self.n, self.rate, self.source = n, rate, source

    def forward(self):
        h = 1 / (self.n + 1)
        u = nn.functional.pad(self.u, (1, 1, 1, 1))
        slopes = (u[1:] - u[:-1]).square().sum() + (u[:, 1:] - u[:, :-1]).square().sum()
        rest = self.rate * self.u.exp().sum() + (0 if self.source is None else (self.source * self.u).sum())
        return slopes / 2 - h * h * rest


class Squares:
    """Grids of 2^k - 1 points a side: bilinear prolongation, its transpose, and injection at the coarse points."""

    def __init__(self, sizes, rate, sources=None):
        self.models = [Bratu(n, rate, None if sources is None else sources[i]) for i, n in enumerate(sizes)]
        self.flops = [10.0 * n * n for n in sizes]

    def inject(self, level, state):
        return {name: u[1::2, 1::2].clone() for name, u in state.items()}

    def prolong(self, level, correction):
        P = interpolation(self.models[level].n)
        return {name: P @ u @ P.T for name, u in correction.items()}

    def restrict(self, level, gradient, *, squared=False):
        P = interpolation(self.models[level].n)
        return {name: P.T @ u @ P for name, u in gradient.items()}

    def distribute(self, level, dual, *, squared=False):
        raise AssertionError("the smoother of these tests has no moments")

    def zero_sum(self, level, noise):
        return {name: torch.zeros_like(u) for name, u in noise.items()}

    def family(self, level, name):
        return (name,)


def interpolation(n):
    """Linear interpolation from (n - 1) / 2 to n points, zero at both ends."""
    P = torch.zeros(n, (n - 1) // 2, dtype=torch.float64)
    for j in range(P.shape[1]):
        P[2 * j, j], P[2 * j + 1, j], P[2 * j + 2, j] = 0.5, 1.0, 0.5
    return P


class Energy:
    """The problem: no data, one minibatch that is nothing."""

    batches = (None,)

    def value(self, model, batch):
        return model()


def points(n):
    """Coordinates of the inner points, (n, n) each."""
    x = torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    return torch.meshgrid(x, x, indexing="ij")


def manufactured(n, rate):
    """The solution sin(πx) sin(πy) and the source that makes it one."""
    x, y = points(n)
    u = torch.sin(math.pi * x) * torch.sin(math.pi * y)
    return u, 2 * math.pi**2 * u - rate * u.exp()
