"""Compile numba kernels, and cache them on disk where that is possible.

numba keeps compiled kernels beside their source, in ``NUMBA_CACHE_DIR``, or in the cache folder of the user. Where none of these
can be written, as in a container of another user, it refuses to import the kernel. Here a folder of the user under the temporary
folder is tried then, and without that a kernel is compiled again in each process. A folder that fills up or is locked later costs
the cache, never the run.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba


def compile_kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function on its first call, as `numba.njit` does, and caches it on disk.

    Parameters
    ----------
    **options
        Options of `numba.njit`, such as ``nogil``.

    Examples
    --------
    >>> from netgraph.environment.kernel_cache import compile_kernel
    >>> @compile_kernel(nogil=True)
    ... def double(x):
    ...     return 2 * x
    >>> double(4)
    8
    """

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(**options)(function)
        if hasattr(kernel, "enable_caching"):  # else NUMBA_DISABLE_JIT is set, and the function is as it was
            with contextlib.suppress(RuntimeError):  # no folder was found, and the kernel stays uncached
                _enable_cache(kernel)
                _guard_cache(kernel)
        return kernel

    return decorate


def _enable_cache(kernel: Any) -> None:
    """Let numba choose a folder for compiled kernels, and offer the temporary one if there is no other."""
    try:
        kernel.enable_caching()
    except RuntimeError:
        folder = find_temporary_folder()
        if folder is None:
            raise
        with _set_cache_folder(folder):
            kernel.enable_caching()


@contextlib.contextmanager
def _set_cache_folder(folder: Path) -> Iterator[None]:
    """Set the folder that numba looks at first in a block."""
    settings: Any = numba.config
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


@cache
def find_temporary_folder() -> Path | None:
    """Return the folder for kernels under the temporary folder, or None if there is none that only this user can write.

    Compiled kernels are code. A folder that another user made, or may write to, is not used.
    """
    try:
        number = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir(), f"netgraph-kernels-{number}")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = not hasattr(os, "getuid") or (status.st_uid == number and not stat.S_IMODE(status.st_mode) & 0o022)
    return folder if stat.S_ISDIR(status.st_mode) and private and os.access(folder, os.W_OK | os.X_OK) else None


def _guard_cache(kernel: Any) -> None:
    """Let the kernel go on without its cache where the files of the cache cannot be read or written."""
    if hasattr(kernel, "_cache"):
        kernel._cache = _GuardedCache(kernel._cache)


class _GuardedCache:
    """The cache of a kernel. A failing disk counts as an empty cache."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def load_overload(self, *args: Any) -> Any:
        """Return a compiled kernel, or None if the cache has none or cannot be read. A damaged cache begins anew."""
        try:
            return self._files.load_overload(*args)
        except Exception:  # locked, cut short or damaged: numba raises what its reader raises
            with contextlib.suppress(Exception):
                self._files.flush()
            return None

    def save_overload(self, *args: Any) -> None:
        """Keep a compiled kernel if the disk lets it."""
        with contextlib.suppress(Exception):  # full, locked or damaged
            self._files.save_overload(*args)
