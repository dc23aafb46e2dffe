"""Run one function on many parts of an array, with as many threads as torch uses.

Kernels release the global interpreter lock. Each part writes to its own memory, and matrix products within a part use one
thread. Results therefore do not depend on the number of threads, and a busy core delays only its own parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


def split_range(n: int, step: int) -> list[slice]:
    """Return slices of length ``step`` that cover 0 .. n.

    Examples
    --------
    >>> from netgraph.utils.parallel import split_range
    >>> split_range(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def parallel_for(work: Callable[[Part], object], parts: Sequence[Part]) -> None:
    """Call ``work`` once for each part, on as many threads as torch uses."""
    workers = min(torch.get_num_threads(), len(parts))
    with _blas_controller().limit(limits=1, user_api="blas"):
        if workers > 1:
            list(_thread_pool(workers, os.getpid()).map(work, parts))
        else:
            list(map(work, parts))


@cache
def _thread_pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return a pool of threads that is reused, since starting threads costs more than many parts. A fork gets its own pool."""
    return ThreadPoolExecutor(workers, thread_name_prefix=f"netgraph-{process}")


@cache
def _blas_controller() -> Any:
    """Return the controller that limits the threads of BLAS."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
