"""Shares: one piece of work for many parts, on as many threads as torch computes with.

Kernels release the interpreter's lock; each part writes what no other does, and products of matrices within a part
take one thread. So results do not depend on threads, and a core that others keep busy holds up its own parts only.
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
    """Return slices of ``step`` that cover 0 .. n."""
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def parallel_for(work: Callable[[Part], object], parts: Sequence[Part]) -> None:
    """Call ``work`` once for each part."""
    workers = min(torch.get_num_threads(), len(parts))
    with _blas_controller().limit(limits=1, user_api="blas"):
        if workers > 1:
            list(_thread_pool(workers, os.getpid()).map(work, parts))
        else:
            list(map(work, parts))


@cache
def _thread_pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return threads that stay: to start some takes longer than many a part. A forked process has none of its parent's."""
    return ThreadPoolExecutor(workers, thread_name_prefix=f"netgraph-{process}")


@cache
def _blas_controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
