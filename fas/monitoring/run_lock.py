"""One process at a time writes into an MLflow run, and opens a local store.

A resumed run continues the MLflow run of its checkpoint. If a folder of checkpoints was copied, two processes may want the same one. A
lock tells them apart on one machine, and a tag names the process to others. MLflow makes the tables of a new store in many steps, and
two processes that do so at once disturb one another.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from netgraph.errors import NetgraphError
from netgraph.io.files.locks import NAME as LOCK
from netgraph.io.files.locks import acquire_lock, release_lock
from netgraph.io.files.writers import Writer, identify_process

TAG = "netgraph.process"
WAIT = 0.1  # seconds between two looks at the lock of a store
logger = logging.getLogger("netgraph.tracking")


class RunLock:
    """The lock of an MLflow run, in the folder of temporary files."""

    def __init__(self) -> None:
        self._path: Path | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The tag that names this process."""
        return {TAG: str(identify_process())}

    def acquire(self, run_id: str) -> str:
        """Take the lock of a run. Return the sentence why not, empty if this process has it."""
        self.release()
        digest = hashlib.sha256(run_id.encode("utf-8", "backslashreplace")).hexdigest()[:32]
        path = Path(tempfile.gettempdir()) / f".netgraph-lock-mlflow-{digest}"
        try:
            acquire_lock(path, f"the MLflow run {run_id}")
        except NetgraphError as error:
            return str(error)
        self._path = path
        return ""

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        if self._path is not None:
            release_lock(self._path)
            self._path = None

    def warn_of_others(self, tags: Mapping[str, str], run_id: str, *, running: bool) -> None:
        """Log a warning if a process of another machine or container may still write into a run."""
        try:
            writer = Writer.parse(tags.get(TAG, ""))
        except NetgraphError:
            return
        here = identify_process()
        if running and (writer.host, writer.space) != (here.host, here.space):
            logger.warning(
                "the MLflow run %s was begun by process %d on %s and has not ended. If that process still runs, both write into it",
                run_id,
                writer.pid,
                writer.host,
            )


@contextlib.contextmanager
def open_store_alone(store: Path, *, longest: float) -> Iterator[None]:
    """Let no other process of netgraph open a local store within a block.

    Parameters
    ----------
    store : path
        File of the store.
    longest : float
        Seconds to wait for another process. Then the store is opened beside it.
    """
    lock, end = store.with_name(f"{LOCK}-{store.name}"), time.monotonic() + longest
    while time.monotonic() < end:
        try:
            acquire_lock(lock, f"the tracking store {store}")
            break
        except NetgraphError:
            time.sleep(WAIT)
    try:
        yield
    finally:
        release_lock(lock)
