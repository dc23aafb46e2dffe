"""Quadratics on two levels for the solver, and their slow twin in numpy."""

import numpy as np
import torch
from torch import nn


class Quadratic(nn.Module):
    def __init__(self, A, f):
        super().__init__()
        self.A, self.f = A, f
        self.x = nn.Parameter(torch.zeros(len(f), dtype=torch.float64))

    def forward(self):
        return self.x @ self.A @ self.x / 2 - self.f @ self.x


class Lines:
    """A quadratic on two levels, with dense P, R and any coarse matrix."""

    def __init__(self, A, f, A_c, P, R):
        self.models = [Quadratic(A, f), Quadratic(A_c, torch.zeros(len(A_c), dtype=torch.float64))]
        self.flops = [1.0, 0.5]
        self.P, self.R = P, R

    def inject(self, level, state):
        return {name: self.R @ x for name, x in state.items()}

    def prolong(self, level, correction):
        return {name: self.P @ x for name, x in correction.items()}

    def restrict(self, level, gradient, *, squared=False):
        return {name: self.P.T @ x for name, x in gradient.items()}

    def family(self, level, name):
        return (name,)


def dense_two_level(A, f, A_c, P, R, lr, *, pre, post, coarse, cycles):
    """The slow twin: FAS on a quadratic in numpy, equation by equation."""
    x, norms = np.zeros(len(f)), [np.linalg.norm(f)]
    for _ in range(cycles):
        for _ in range(pre):
            x = x - lr * (A @ x - f)
        y = x_c = R @ x
        b_c = A_c @ x_c + P.T @ (0 - (A @ x - f))
        for _ in range(coarse):
            y = y - lr * (A_c @ y - b_c)
        x = x + P @ (y - x_c)
        for _ in range(post):
            x = x - lr * (A @ x - f)
        norms.append(np.linalg.norm(A @ x - f))
    return x, norms
