"""Slow twins: plain loops and dense matrices that judge the fast code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgraph.coarsen.transfer import Transfer
from netgraph.spec import Term, UnitSpec, term_size


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


def dense_inject(spec: UnitSpec, transfers: Mapping[str, Transfer], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W_c = R_out W P_in with dense matrices, dimension by dimension."""
    out = {}
    for name, tensor in state.items():
        for dim, term in enumerate(spec.parameters[name]):
            summed = spec.sums.get((name, dim), frozenset())
            matrix = dense_of(
                term, transfers, spec.sizes, lambda a, t, s=summed: t.P.toarray().T if a in s else t.R.toarray()
            )
            assert matrix.shape[1] == term_size(term, spec.sizes)
            tensor = torch.tensordot(torch.from_numpy(matrix).to(tensor), tensor.movedim(dim, 0), 1).movedim(0, dim)
        out[name] = tensor
    return out
