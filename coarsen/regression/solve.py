"""The way to a ridge regression that memory allows, and the number of rows that it reads."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from netgraph.coarsen.regression.dual_ridge import fit_dual
from netgraph.coarsen.regression.gradient_ridge import fit_by_gradients
from netgraph.coarsen.regression.ridge import GRAM_BYTES, RidgeFit, fit_sums, fits_in_memory
from netgraph.coarsen.regression.rows import HOLD_OUT_EVERY, RowBlock, count_chunk_rows

MIN_ROWS = 32_768  # at least, if there are that many
ROWS_PER_COLUMN = 32  # and never fewer than HOLD_OUT_EVERY for each column
MAX_PRODUCTS = 2e11  # multiplications for the sums of a layer, beyond which fewer rows are taken


def choose_solver(n: int, groups: int, d: int) -> str:
    """Return the way to solve a ridge regression of n rows and d columns for each group: dual, sums or gradients."""
    if n < d and fits_in_memory(groups, n):
        return "dual"
    return "sums" if fits_in_memory(groups, d) else "gradients"


def bound_rows(groups: int, o: int, d: int) -> int:
    """Return the largest number of rows for o outputs and d columns of each group.

    Where the sums of d columns are too large, the targets of all rows are kept. These too have at most `GRAM_BYTES`.
    """
    if fits_in_memory(groups, d):
        return max(min(max(ROWS_PER_COLUMN * d, MIN_ROWS), int(MAX_PRODUCTS / d**2)), HOLD_OUT_EVERY * d)
    return max(1, min(MIN_ROWS, GRAM_BYTES // (8 * groups * o)))


def fit_ridge(blocks: Iterable[RowBlock], n: int, start: Tensor, strength: float | None, *, free: bool) -> RidgeFit:
    """Fit weights to the targets of rows.

    Parameters
    ----------
    blocks : iterable of RowBlock
    n : int
        Number of rows in all.
    start : Tensor of shape (g, o, d)
        Merged weights, that the ridge pulls towards.
    strength : float or None
        Share of the mean square of the columns. None chooses it on the rows that are held out.
    free : bool
        If there is a bias.
    """
    groups, o, d = start.shape
    solver = choose_solver(n, groups, d)
    if solver == "sums":
        return fit_sums(blocks, start, strength, free=free)
    dtype = torch.promote_types(start.dtype, torch.float32)
    kept = [block.keep_targets(dtype, count_chunk_rows(groups, d, o)) for block in blocks]
    return (fit_dual if solver == "dual" else fit_by_gradients)(kept, start.to(dtype), strength, free=free)
