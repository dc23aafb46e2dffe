"""Checkpoints: a run written down while it trains, and found again after it was killed.

Each is one file with sha256 sums (`netgraph.io.bundle`), written aside, flushed to disk and renamed, so that a folder never
holds half of one under its name. On a CPU a resumed run ends with the very weights of one that nobody stopped.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph.errors import LoadError, NetgraphError
from netgraph.fas.checkpoint.fingerprint import describe_difference, describe_missing, fingerprint_run
from netgraph.fas.checkpoint.run_state import capture_state, restore_state
from netgraph.fas.solver.run import Run
from netgraph.io.bundle import read_bundle, write_bundle

FORMAT = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT)
NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
logger = logging.getLogger("netgraph.checkpoint")


class Checkpoints:
    """A callback that writes a run down every few cycles, where it ends, and when it is told to stop.

    On SIGTERM or SIGINT the run ends after the current step, in the middle of a cycle too, and is written down; a second
    signal does what it did before. A checkpoint that cannot be written (a full disk, say) is a warning: training goes on.

    Parameters
    ----------
    folder : path
        Made where it does not exist.
    every : int
        Cycles between two checkpoints.
    keep : int
        The newest so many stay; older ones are deleted.
    seconds : float
        In a long turn of one level a checkpoint is written with the next record of smoothing after this time.

    Raises
    ------
    NetgraphError
        The folder cannot be made, or a number is below 1; as the run begins, it already holds checkpoints of another.
    """

    def __init__(self, folder: str | Path, every: int = 1, keep: int = 3, *, seconds: float = 300.0) -> None:
        if every < 1 or keep < 1:
            raise NetgraphError(f"checkpoints every {every} cycles, of which {keep} stay: give 1 or more for both")
        self.folder, self.every, self.keep, self.seconds = Path(folder), every, keep, seconds
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NetgraphError(f"checkpoints cannot be written to {folder} ({error}); give another folder") from error
        self._handlers: dict[int, Any] = {}
        self._at = 0.0

    def __call__(self, run: Run, record: Mapping[str, Any]) -> None:
        """Write where it is due."""
        event = record["event"]
        if event == "begin":
            self._begin(run)
        elif self._due(run, event):
            self.write(run)
        if event in ("finish", "failed"):
            self._restore_signals()

    def _due(self, run: Run, event: str) -> bool:
        if event == "smooth":
            return time.monotonic() - self._at > self.seconds
        return event == "finish" or (event == "cycle" and run.cycles % self.every == 0)

    def write(self, run: Run) -> Path | None:
        """Write a run that is between two steps; None, and a warning, where that fails."""
        path = self.folder / f"checkpoint-{run.steps:09d}.safetensors"
        tensors, document = capture_state(run)
        whole = {"format": FORMAT, "torch": torch.__version__, "identity": self._identity, "run": document}
        self._at = time.monotonic()
        try:
            write_bundle(path, tensors, whole)
        except LoadError as error:
            logger.warning("no checkpoint at step %d: %s", run.steps, error)
            return None
        for old in list_checkpoints(self.folder)[self.keep :]:
            old.unlink(missing_ok=True)
        logger.debug("wrote %s", path)
        return path

    def _begin(self, run: Run) -> None:
        found = list_checkpoints(self.folder)
        if found and not run.steps:
            raise NetgraphError(
                f"{self.folder} holds checkpoints up to {found[0].name}, and this run begins anew; resume it, or give "
                "another folder"
            )
        self._identity, self._at = fingerprint_run(run), time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            logger.info("signals are not caught: the run is not in the main thread")
            return

        def stop(number: int, frame: object) -> None:
            self._restore_signals()
            run.stop(
                f"{signal.Signals(number).name} arrived; the run is written down in {self.folder} and can be resumed"
            )

        self._handlers = {number: signal.signal(number, stop) for number in SIGNALS}

    def _restore_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("*") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def resume(run: Run, folder: str | Path) -> str | None:
    """Put a run that has not begun where the newest whole checkpoint of a folder was.

    Parameters
    ----------
    run : Run
        From `netgraph.fas.solver.solver.FAS.begin`, made as the other was.
    folder : path

    Returns
    -------
    str or None
        What was resumed, in words; None where the folder has no checkpoint.

    Raises
    ------
    NetgraphError
        All checkpoints are damaged, or the newest whole one is of another network, other levels, options, settings or data.
    """
    paths, damaged = list_checkpoints(folder), []
    for path in paths:
        try:
            tensors, document = read_bundle(path)
        except LoadError as error:
            logger.warning("skipped a checkpoint: %s", error)
            damaged.append(path.name)
            continue
        return _restore_run(run, path, tensors, document, damaged)
    if damaged:
        raise NetgraphError(
            f"all checkpoints of {folder} are damaged ({', '.join(damaged)}); delete them to begin anew"
        )
    return None


def _restore_run(
    run: Run, path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], damaged: list[str]
) -> str:
    if document.get("format") != FORMAT or "run" not in document:
        raise LoadError(f"{path} is no checkpoint of this version of netgraph; resume it with the one that wrote it")
    here, there = fingerprint_run(run), document["identity"]
    other = describe_difference(here, there)
    if other is not None:
        raise NetgraphError(f"{path} is a checkpoint of {other}; resume with what it was begun with, or begin anew")
    restore_state(run, tensors, document["run"])
    said = f"resumed at step {run.steps} of {run.total_steps}, after {run.cycles} cycles, from {path}"
    if damaged:
        said += f" (skipped as damaged: {', '.join(damaged)})"
    logger.info("%s", said)
    if missing := describe_missing(here, there):
        logger.warning("%s, of an older version, does not tell its %s; they are taken to be these", path, missing)
    if document["torch"] != torch.__version__:
        logger.warning(
            "%s was written with torch %s, this is %s: results may differ", path, document["torch"], torch.__version__
        )
    return said
