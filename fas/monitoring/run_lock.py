"""One process at a time writes into an MLflow run: a lock on this machine, and a tag that names the process to others.

A resumed run continues the MLflow run of its checkpoint. If a folder of checkpoints was copied, two processes may want the same one.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from netgraph.errors import NetgraphError
from netgraph.io.files.locks import acquire_lock, release_lock
from netgraph.io.files.writers import Writer, identify_process

TAG = "netgraph.process"
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
