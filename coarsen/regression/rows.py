"""Rows of a regression that are made when they are needed, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # the columns of a chunk in double precision. About four arrays of this size live at a time
HOLD_OUT_EVERY = 4  # one input in four is held out to choose the strength of the ridge


@dataclass(frozen=True)
class RowBlock:
    """Rows of one batch of a layer.

    Parameters
    ----------
    columns, targets : callable ``(indices (m,)) -> Tensor``
        Columns (m, g, d) and targets (m, g, o) of some rows, for each group g.
    held_out : Tensor of shape (n,)
        True for rows that are held out.
    """

    columns: Callable[[Tensor], Tensor]
    targets: Callable[[Tensor], Tensor]
    held_out: Tensor

    def keep_targets(self, dtype: torch.dtype, rows: int) -> RowBlock:
        """Return the block with its targets in memory, computed ``rows`` rows at a time."""
        every = torch.arange(len(self.held_out), device=self.held_out.device).split(rows)
        kept = torch.cat([self.targets(index).to(dtype) for index in every])
        return replace(self, targets=kept.__getitem__)


def count_chunk_rows(groups: int, d: int, o: int) -> int:
    """Return the number of rows in a chunk, for d columns and o targets in each group."""
    return max(1, CHUNK_BYTES // (8 * groups * max(d, o)))


def iterate_chunks(
    blocks: Iterable[RowBlock], rows: int, parts: Sequence[bool] = (False, True)
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yield columns (m, g, d), targets (m, g, o), and whether they are held out, of at most ``rows`` rows.

    ``parts`` chooses rows that are held out, or those that are not. Both come in one fixed order.
    """
    for block in blocks:
        for held in parts:
            for index in (block.held_out == held).nonzero()[:, 0].split(rows):
                if len(index):
                    yield block.columns(index), block.targets(index), held


def gather_chunks(blocks: Iterable[RowBlock], rows: int, at_once: int) -> Iterator[Tensor]:
    """Yield the columns (m, g, d) of consecutive chunks of ``rows`` rows in one tensor, of at most ``at_once`` rows or one chunk."""
    waiting: list[Tensor] = []
    for columns, _, _ in iterate_chunks(blocks, rows):
        if waiting and sum(map(len, waiting)) + len(columns) > at_once:
            yield torch.cat(waiting)
            waiting = []
        waiting.append(columns)
    yield torch.cat(waiting)


def average_columns(
    blocks: Iterable[RowBlock], rows: int, parts: Sequence[bool] = (False, True)
) -> tuple[Tensor, Tensor, int]:
    """Return the means of columns (g, d) and of targets (g, o) in double precision, and the number of rows."""
    sums: list[Tensor] = []
    n = 0
    for columns, targets, _ in iterate_chunks(blocks, rows, parts):
        n += len(columns)
        new = [columns.sum(0, dtype=torch.float64), targets.sum(0, dtype=torch.float64)]
        sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
    return sums[0] / n, sums[1] / n, n
