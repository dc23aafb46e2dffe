"""Slow twins: plain loops and dense matrices that judge the fast code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.coarsen.transfer.transfer import Transfer
from netgraph.tracing.unit_spec import Term, UnitSpec


def greedy_matching(weights: np.ndarray) -> set[tuple[int, int]]:
    """Take the heaviest edge whose ends are free, again and again."""
    n = len(weights)
    edges = sorted(
        ((weights[i, j], i, j) for i in range(n) for j in range(i + 1, n) if weights[i, j] > 0), reverse=True
    )
    free, pairs = set(range(n)), set()
    for _, i, j in edges:
        if i in free and j in free:
            pairs.add((i, j))
            free -= {i, j}
    return pairs


def agglomerated(weights: np.ndarray, n_coarse: int) -> set[frozenset[int]]:
    """Match greedily by mean affinity, merge the heaviest pairs, and again, until ``n_coarse`` groups are left."""
    groups = [frozenset([i]) for i in range(len(weights))]
    while len(groups) > n_coarse:
        means = np.array([[mean_affinity(weights, a, b) for b in groups] for a in groups])
        pairs = sorted(greedy_matching(means), key=lambda p: -means[p])[: len(groups) - n_coarse]
        if not pairs:
            break
        paired = {i for pair in pairs for i in pair}
        groups = [groups[i] | groups[j] for i, j in pairs] + [g for i, g in enumerate(groups) if i not in paired]
    return set(groups)


def mean_affinity(weights: np.ndarray, a: frozenset[int], b: frozenset[int]) -> float:
    """Average linkage, unit by unit."""
    return 0.0 if a == b else sum(float(weights[i, j]) for i in a for j in b) / (len(a) * len(b))


def nearest(weights: np.ndarray, k: int) -> np.ndarray:
    """Keep an edge where it is among the k heaviest of either end."""
    kept = np.zeros_like(weights)
    for i in range(len(weights)):
        for j in sorted((j for j in range(len(weights)) if j != i), key=lambda j: -weights[i, j])[:k]:
            kept[i, j] = kept[j, i] = weights[i, j]
    return kept


def dense_P(aggregates: np.ndarray) -> np.ndarray:
    """Write the ones of P, unit by unit."""
    P = np.zeros((len(aggregates), int(max(aggregates, default=-1)) + 1))
    for unit, a in enumerate(aggregates):
        if a >= 0:
            P[unit, a] = 1
    return P


def dense_R(aggregates: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average the units of each aggregate, by their weights if any of them has one."""
    P = dense_P(aggregates)
    rows = []
    for column in P.T:
        weighted = column if weights is None or column @ weights == 0 else column * weights
        rows.append(weighted / sum(weighted))
    return np.array(rows).reshape(P.shape[::-1])


def dense_of(term: Term, transfers: Mapping[str, Transfer], sizes: Mapping[str, int], which: Any) -> np.ndarray:
    """Return the dense matrix of a term: Kronecker products of factors, blocks of parts; ``which`` picks P, R or transposes."""
    matrix = np.eye(1)
    for factor in term:
        if isinstance(factor, str):
            block = which(factor, transfers[factor]) if factor in transfers else np.eye(sizes[factor])
        else:
            parts = [dense_of(part, transfers, sizes, which) for part in factor]
            block = np.zeros((sum(p.shape[0] for p in parts), sum(p.shape[1] for p in parts)))
            r = c = 0
            for p in parts:
                block[r : r + p.shape[0], c : c + p.shape[1]] = p
                r, c = r + p.shape[0], c + p.shape[1]
        matrix = np.kron(matrix, block)
    return matrix


def dense_moved(
    spec: UnitSpec, transfers: Mapping[str, Transfer], state: Mapping[str, Tensor], *, outgoing: Any, incoming: Any
) -> dict[str, Tensor]:
    """Multiply every dimension of every tensor by the dense matrix that ``outgoing`` or ``incoming`` makes of a transfer."""
    out = {}
    for name, tensor in state.items():
        for dim, term in enumerate(spec.parameters[name]):
            summed = spec.sums.get((name, dim), frozenset())
            matrix = dense_of(
                term, transfers, spec.sizes, lambda a, t, s=summed: incoming(t) if a in s else outgoing(t)
            )
            tensor = torch.tensordot(torch.from_numpy(matrix).to(tensor), tensor.movedim(dim, 0), 1).movedim(0, dim)
        out[name] = tensor
    return out


def dense_inject(spec: UnitSpec, transfers: Mapping[str, Transfer], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W_c = R_out W P_in with dense matrices, dimension by dimension."""
    return dense_moved(
        spec,
        transfers,
        state,
        outgoing=lambda t: dense_R(t.aggregates, t.weights),
        incoming=lambda t: dense_P(t.aggregates).T,
    )
