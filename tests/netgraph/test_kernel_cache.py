"""Compiled kernels and their cache: where no folder can be written, and where the disk fails later."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from netgraph.environment import kernel_cache

PROGRAM = textwrap.dedent(
    """
    import json, os, sys

    WRITABLE = {writable!r}

    def refuse_writes(event, args):  # every folder is read-only but one, for root too
        if event == "os.mkdir" or (event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            if not (WRITABLE and os.path.abspath(args[0]).startswith(WRITABLE)) and not args[0].startswith("/dev/"):
                raise PermissionError(13, "Permission denied", args[0])

    sys.addaudithook(refuse_writes)
    import torch
    import netgraph as ng
    from netgraph.models import mlp

    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(mlp((8, 12, 3)), torch.randn(2, 8), n_levels=2)
    print(json.dumps([level.n_units for level in hierarchy.levels]))
    """
)


def build_hierarchy(writable, temporary):
    """Return the units of each level, as a process finds them that may write to one folder alone."""
    surroundings = {
        **os.environ,
        "HOME": "/dev/null/home",
        "XDG_CACHE_HOME": "/dev/null/cache",
        "TMPDIR": str(temporary),
    }
    surroundings |= {"NUMBA_CACHE_DIR": "/dev/null/kernels", "PYTHONDONTWRITEBYTECODE": "1"}
    program = [sys.executable, "-c", PROGRAM.format(writable=writable)]
    done = subprocess.run(program, env=surroundings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kernels_are_cached_in_a_temporary_folder_where_no_other_can_be_written(tmp_path):
    assert build_hierarchy(str(tmp_path), tmp_path) == [12, 6]
    (folder,) = tmp_path.glob("netgraph-kernels-*")
    assert list(folder.rglob("*.nbc"))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_hierarchy_is_built_where_nothing_can_be_written_at_all(tmp_path):
    assert build_hierarchy("", tmp_path) == [12, 6]
    assert not list(tmp_path.iterdir())


def double(x):
    return 2 * x


def make_kernel(folder, monkeypatch):
    monkeypatch.setattr(kernel_cache.numba.config, "CACHE_DIR", str(folder))
    kernel = kernel_cache.compile_kernel()(double)
    assert kernel(np.int64(4)) == 8
    return kernel


def test_a_kernel_is_read_from_its_cache(tmp_path, monkeypatch):
    make_kernel(tmp_path, monkeypatch)
    again = make_kernel(tmp_path, monkeypatch)
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("damage", [b"", b"\x80\x04 no pickle"])
def test_a_damaged_cache_costs_the_cache_and_not_the_run(damage, tmp_path, monkeypatch):
    make_kernel(tmp_path, monkeypatch)
    for path in (*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")):
        path.write_bytes(damage)
    assert not make_kernel(tmp_path, monkeypatch).stats.cache_hits
    assert make_kernel(tmp_path, monkeypatch).stats.cache_hits  # and the cache is whole again


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", refuse)
    make_kernel(tmp_path, monkeypatch)
    assert not list(tmp_path.rglob("*.nb?"))


def test_a_function_stays_a_function_where_numba_is_switched_off(monkeypatch):
    monkeypatch.setattr(kernel_cache.numba.config, "DISABLE_JIT", 1)
    assert kernel_cache.compile_kernel(nogil=True)(double) is double


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no owners of this kind")
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"netgraph-kernels-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    kernel_cache.find_temporary_folder.cache_clear()
    assert kernel_cache.find_temporary_folder() is None
    folder.chmod(0o700)
    kernel_cache.find_temporary_folder.cache_clear()
    assert kernel_cache.find_temporary_folder() == folder
    folder.rmdir()
    folder.symlink_to(tmp_path)
    kernel_cache.find_temporary_folder.cache_clear()
    assert kernel_cache.find_temporary_folder() is None
    kernel_cache.find_temporary_folder.cache_clear()
