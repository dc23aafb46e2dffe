"""How many samples of each level make the gradient of a step, for the cost of a plain one.

Levels c_0 < c_1 < ... < c_k, c_0 the smoothed one, g_j the gradient of f of level c_j at the injected x, carried up by injection's
transpose. The mean over n samples is [.]_n::

    multilevel       g = [g_k]_{n_k} + sum_{j<k} [g_j - g_{j+1}]_{n_j}              independent samples for each term
    multifidelity    g = [g_0]_{n_0} + sum_{j>0} a_j ([g_j]_{n_j} - [g_j]_{n_{j-1}})    the first n_{j-1} of the n_j samples

Both have the expectation of g_0, whatever the coarse levels are. Both have the variance sum_j V_j / n_j, with V of one sample::

    multilevel       V_j = var(g_j - g_{j+1}),  V_k = var(g_k)
    multifidelity    V_j = (r_j^2 - r_{j+1}^2) var(g_0),   r_j = cov(g_0, g_j) / sqrt(var(g_0) var(g_j)),   r_{k+1} = 0,
                     for a_j = cov(g_0, g_j) / var(g_j)

At a given cost sum_j C_j n_j it is least for n_j ~ sqrt(V_j / C_j). Variances are traces of covariances. Every choice of coarse levels is
compared with every other, and with none of them, which is a plain gradient.

Giles, "Multilevel Monte Carlo path simulation", Oper. Res. 56, 2008; "Multilevel Monte Carlo methods", Acta Numerica 24, 2015.
Peherstorfer, Willcox, Gunzburger, "Optimal model management for multifidelity Monte Carlo estimation", SIAM J. Sci. Comput. 38, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

LEAST = 2  # samples of a term: two halves show its variance
Matrix = Sequence[Sequence[float]]


class Term(NamedTuple):
    """One part of an estimate: the mean over samples ``start`` to ``stop`` on a level, times a weight."""

    level: int
    start: int
    stop: int
    weight: float


@dataclass(frozen=True)
class SamplePlan:
    """Levels, samples of each, and coefficients.

    Parameters
    ----------
    kind : str
        ``multilevel`` or ``multifidelity``.
    levels : tuple of int
        c_0, c_1, ..., finest first.
    sizes : tuple of int
        n_0, n_1, ...
    coefficients : tuple of float
        1 and a_1, a_2, ... All are 1 for ``multilevel``.
    """

    kind: str
    levels: tuple[int, ...]
    sizes: tuple[int, ...]
    coefficients: tuple[float, ...]

    @property
    def n_samples(self) -> int:
        """Different samples that one estimate takes."""
        return self.sizes[-1] if self.kind == "multifidelity" else sum(self.sizes)

    def list_terms(self) -> list[Term]:
        """Return the parts of the estimate. Parts of no weight are left out."""
        terms = [Term(self.levels[0], 0, self.sizes[0], 1.0)]
        first = 0
        for j, level in enumerate(self.levels[1:], start=1):
            before, here = self.sizes[j - 1], self.sizes[j]
            if self.kind == "multifidelity":
                a = self.coefficients[j]
                terms += [
                    Term(level, 0, before, a * (before / here - 1)),
                    Term(level, before, here, a * (1 - before / here)),
                ]
            else:
                terms += [
                    Term(level, first, first + before, -1.0),
                    Term(level, first + before, first + before + here, 1.0),
                ]
                first += before
        return [term for term in terms if term.weight]

    def halve(self) -> tuple[SamplePlan, SamplePlan]:
        """Return two plans of half of the samples each. The mean of their estimates has the variance of this plan's."""
        lower = tuple(n // 2 for n in self.sizes)
        upper = tuple(n - half for n, half in zip(self.sizes, lower, strict=True))
        return (
            SamplePlan(self.kind, self.levels, lower, self.coefficients),
            SamplePlan(self.kind, self.levels, upper, self.coefficients),
        )


def count_evaluations(terms: Sequence[Term]) -> dict[int, int]:
    """Return by level the samples whose gradients the parts of an estimate need."""
    counts: dict[int, int] = {}
    for term in terms:
        counts[term.level] = counts.get(term.level, 0) + term.stop - term.start
    return counts


class Moments(NamedTuple):
    """Variances V_j and costs C_j of one sample of each term, and coefficients."""

    variances: list[float]
    costs: list[float]
    coefficients: list[float]


def find_moments(kind: str, covariances: Matrix, costs: Sequence[float], chain: Sequence[int]) -> Moments | None:
    """Return variances, costs and coefficients of some levels, or None where they do not fit the kind.

    Parameters
    ----------
    kind : str
    covariances : matrix
        Traces of the covariances of the gradients of all levels, of one sample.
    costs : sequence of float
        Cost of the gradient of one sample by level.
    chain : sequence of int
        Rows of the matrix that take part, the first one 0.
    """
    own = [covariances[j][j] for j in chain]
    if kind == "multifidelity":
        if min(own) <= 0:
            return None
        shares = [covariances[0][j] ** 2 / (own[0] * var) for j, var in zip(chain, own, strict=True)] + [0.0]
        variances = [own[0] * (shares[j] - shares[j + 1]) for j in range(len(chain))]
        coefficients = [covariances[0][j] / var for j, var in zip(chain, own, strict=True)]
        fits = len(chain) == 1 or min(variances) > 0
        return Moments(variances, [costs[j] for j in chain], coefficients) if fits else None
    pairs = list(pairwise(chain))
    variances = [max(covariances[a][a] + covariances[b][b] - 2 * covariances[a][b], 0.0) for a, b in pairs] + [own[-1]]
    return Moments(variances, [costs[a] + costs[b] for a, b in pairs] + [costs[chain[-1]]], [1.0] * len(chain))


def allocate_samples(variances: Sequence[float], costs: Sequence[float], budget: float) -> list[int] | None:
    """Return the numbers of samples with the least variance at a cost, or None where the cost allows no `LEAST` of each.

    n_j ~ sqrt(V_j / C_j), at least `LEAST`, rounded down. What rounding leaves goes to where it lowers the variance most for its cost.

    Parameters
    ----------
    variances, costs : sequence of float
        V_j and C_j of one sample of each term.
    budget : float
        Largest sum of C_j n_j.
    """
    left = budget - LEAST * sum(costs)
    if left < 0:
        return None
    free = list(range(len(costs)))
    sizes = [float(LEAST)] * len(costs)
    while free:
        spent = sum(LEAST * c for j, c in enumerate(costs) if j not in free)
        total = sum(math.sqrt(variances[j] * costs[j]) for j in free)
        if total == 0:
            break
        ideal = {j: (budget - spent) / total * math.sqrt(variances[j] / costs[j]) for j in free}
        small = [j for j in free if ideal[j] < LEAST]
        if not small:
            sizes = [ideal.get(j, n) for j, n in enumerate(sizes)]
            break
        free = [j for j in free if j not in small]
    return _spend_rest([math.floor(n) for n in sizes], variances, costs, budget)


def _spend_rest(sizes: list[int], variances: Sequence[float], costs: Sequence[float], budget: float) -> list[int]:
    """Add samples one by one, as long as the budget lasts."""
    left = budget - sum(n * c for n, c in zip(sizes, costs, strict=True))
    while True:
        fitting = [j for j, c in enumerate(costs) if c <= left * (1 + 1e-12)]
        if not fitting:
            return sizes
        best = max(fitting, key=lambda j: variances[j] / (sizes[j] * (sizes[j] + 1)) / costs[j])
        if variances[best] == 0:
            return sizes
        sizes[best] += 1
        left -= costs[best]


class Choice(NamedTuple):
    """A plan, its predicted variance, and variances and costs of one sample of each term."""

    plan: SamplePlan
    predicted: float
    moments: Moments


def choose_plan(kind: str, covariances: Matrix, costs: Sequence[float], budget: float, *, level: int = 0) -> Choice:
    """Return the plan with the least predicted variance at a cost, over all choices of coarse levels.

    Parameters
    ----------
    kind : str
    covariances : matrix
        Traces of the covariances of the gradients of all levels, of one sample, the smoothed level first.
    costs : sequence of float
        Cost of the gradient of one sample by level.
    budget : float
    level : int, default 0
        Number of the smoothed level.
    """
    n_plain = max(math.floor(budget / costs[0] * (1 + 1e-12)), 1)
    plain = Moments([covariances[0][0]], [costs[0]], [1.0])
    best = Choice(SamplePlan(kind, (level,), (n_plain,), (1.0,)), covariances[0][0] / n_plain, plain)
    if not all(math.isfinite(number) for row in covariances for number in row):
        return best
    coarse = range(1, len(costs))
    for chain in ((0, *rest) for n in coarse for rest in combinations(coarse, n)):
        moments = find_moments(kind, covariances, costs, chain)
        sizes = moments and allocate_samples(moments.variances, moments.costs, budget)
        if not moments or not sizes or (kind == "multifidelity" and sizes != sorted(sizes)):
            continue
        predicted = predict_variance(moments.variances, sizes)
        if predicted < best.predicted:
            levels = tuple(level + j for j in chain)
            best = Choice(SamplePlan(kind, levels, tuple(sizes), tuple(moments.coefficients)), predicted, moments)
    return best


def predict_variance(variances: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the variance of an estimate, sum of V_j / n_j."""
    return sum(var / n for var, n in zip(variances, sizes, strict=True))
