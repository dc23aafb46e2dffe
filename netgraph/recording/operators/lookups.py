"""Products of rows with matrices that are looked up by number, one for each row, without a copy of the matrix for every row.

A mixture of experts is recorded as ``bmm(table[numbers], rows)``. The look-up copies one matrix for each token and expert, which
takes far more memory than the table as soon as there are more rows than matrices. A coarse network then sorts the rows by their
numbers, and multiplies those of one number at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

INDEX, PRODUCT = torch.ops.aten.index.Tensor, torch.ops.aten.bmm.default
_plain: ContextVar[bool] = ContextVar("_plain", default=False)


@contextmanager
def plain_lookups() -> Iterator[None]:
    """Run look-ups and products one after the other in a block, as a recording of the run should show them."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def multiply_by_looked_up(rows: Tensor, table: Tensor, numbers: Tensor) -> Tensor:
    """Return ``bmm(rows, table[numbers])`` for rows (S, 1, n), a table (E, n, m) and numbers (S,)."""
    if len(numbers) <= len(table) or rows.shape[1] != 1 or _plain.get() or torch.compiler.is_compiling():
        return torch.bmm(rows, table[numbers])
    numbers = torch.where(numbers < 0, numbers + len(table), numbers)
    order = numbers.argsort()
    counts = torch.bincount(numbers, minlength=len(table)).tolist()
    parts = rows.squeeze(1)[order].split(counts)
    products = torch.cat([part @ matrix for part, matrix in zip(parts, table, strict=True) if len(part)])
    return products[order.argsort()].unsqueeze(1)


def multiply_looked_up(table: Tensor, numbers: Tensor, columns: Tensor) -> Tensor:
    """Return ``bmm(table[numbers], columns)`` for a table (E, m, n), numbers (S,) and columns (S, n, 1)."""
    return multiply_by_looked_up(columns.mT, table.mT, numbers).mT


def join_lookups(steps: Sequence[Any], find_reads: Callable[[Any], list[int]], kept: Iterable[int]) -> list[Any]:
    """Replace a product and the look-up that it alone reads by one step.

    Parameters
    ----------
    steps : list of `netgraph.recording.interpreter.Step`
    find_reads : callable ``(step) -> slots``
    kept : iterable of int
        Slots of the results.
    """
    readers = Counter([*(slot for step in steps for slot in find_reads(step)), *kept])
    lookups = {step.index: step for step in steps if _is_lookup(step) and readers[step.index] == 1}
    joined, gone = [], set()
    for step in steps:
        slots = [getattr(value, "index", None) for value in step.args] if step.function is PRODUCT else []
        found = next((i for i, slot in enumerate(slots) if slot in lookups), None)
        if found is not None:
            lookup = lookups[slots[found]]
            gone.add(lookup.index)
            step = _join(step, found, lookup.args[0], lookup.args[1].parts[0])
        joined.append(step)
    return [step for step in joined if step.index not in gone]


def _is_lookup(step: Any) -> bool:
    """Return True for ``table[numbers]`` with one list of numbers."""
    return step.function is INDEX and len(getattr(step.args[1], "parts", ())) == 1 and not step.kwargs


def _join(product: Any, place: int, table: Any, numbers: Any) -> Any:
    """Return the step of a product that looks up its operand at ``place``."""
    if place == 0:
        return replace(product, function=multiply_looked_up, args=(table, numbers, product.args[1]))
    return replace(product, function=multiply_by_looked_up, args=(product.args[0], table, numbers))
