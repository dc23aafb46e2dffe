"""Checkpoints: save a run while it trains, and resume it after it was stopped or killed.

A checkpoint is one file with sha256 sums (`netgraph.io.bundle`). It is written under another name, flushed to disk and renamed,
so a folder never holds half a file under the name of a checkpoint. On a CPU a resumed run ends with the same weights, bit for
bit, as a run that was never stopped.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph import __version__
from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.fas.checkpoint.fingerprint import describe_difference, describe_missing, fingerprint_run
from netgraph.fas.checkpoint.run_state import Tensors, capture_state, gather_random_states, restore_state
from netgraph.fas.solver.run import Run
from netgraph.io.bundle import read_bundle, read_document, write_bundle
from netgraph.io.files.atomic_writes import remove_temporaries
from netgraph.io.files.locks import NAME as LOCK
from netgraph.io.files.locks import acquire_lock, release_lock
from netgraph.io.files.output_files import check_path

FORMAT = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT)
NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
logger = logging.getLogger("netgraph.checkpoint")
_threads: dict[str, list[int]] = {}  # thread of each run that has a folder, by its path. The lock is one of processes
_guard = threading.Lock()


class Checkpoints:
    """A callback that saves a run every few cycles, at its end, and when it is told to stop.

    On SIGTERM or SIGINT the run ends after the current step, in the middle of a cycle too, and is saved. A second signal has
    its usual effect. If a checkpoint cannot be written, for example because the disk is full, a warning says so and training
    goes on.

    The first of several processes writes, and all of them read. Their folder is one, on a disk that they share.

    Parameters
    ----------
    folder : path
        Created if it does not exist.
    every : int, default 1
        Cycles between two checkpoints.
    keep : int, default 3
        Number of checkpoints of this run to keep. Older ones of it are deleted, and those of other runs stay.
    seconds : float, default 300
        Seconds after which a long visit to one level is saved too, with the next record of smoothing.

    Raises
    ------
    NetgraphError
        The folder cannot be created, or a number is below 1. When a run begins: another process or thread has the folder, or it is a new run
        and the folder holds checkpoints of another.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import Checkpoints, resume
    >>> def begin_run(callbacks):
    ...     _ = torch.manual_seed(0)
    ...     model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    ...     hierarchy = ng.build_hierarchy(model, torch.randn(2, 4), n_levels=2)
    ...     batches = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(3)]
    ...     solver = ng.FAS(epochs=4)
    ...     return solver, solver.begin(hierarchy, ng.Problem(batches, torch.nn.functional.mse_loss), callbacks=callbacks)
    >>> def stop_early(run, record):
    ...     if record["event"] == "cycle":
    ...         run.stop("enough for today")
    >>> folder = tempfile.TemporaryDirectory()
    >>> solver, run = begin_run([stop_early, Checkpoints(folder.name)])
    >>> solver.finish(run).reason
    'enough for today'
    >>> solver, run = begin_run([Checkpoints(folder.name)])
    >>> resume(run, folder.name).partition(", from")[0]
    'resumed at step 8 of 12, after 1 cycles'
    >>> solver.finish(run).reason
    'the 4 epochs are spent'
    >>> folder.cleanup()
    """

    on_every_rank = True  # of several processes, which stop together and whose random states are saved

    def __init__(self, folder: str | Path, every: int = 1, keep: int = 3, *, seconds: float = 300.0) -> None:
        if every < 1 or keep < 1:
            raise NetgraphError(f"every is {every} and keep is {keep}. Give 1 or more for both.")
        check_path(Path(folder))
        self.folder, self.every, self.keep, self.seconds = Path(folder), every, keep, seconds
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NetgraphError(f"checkpoints cannot be written to {folder} ({error}). Give another folder.") from error
        self._handlers: dict[int, Any] = {}
        self._own: set[str] = set()  # names of the checkpoints of this run
        self._place = ""  # the folder without links, while this run has it
        self._at = 0.0
        self._signal = ""  # name of the one that ended the run
        self._identity: dict[str, Any] | None = None

    def __call__(self, run: Run, record: Mapping[str, Any]) -> None:
        """Save the run if it is due.

        Parameters
        ----------
        run : Run
        record : dict
            The event.
        """
        event = record["event"]
        if event == "begin":
            self._begin_run(run)
        elif self._is_due(run, event):
            path = self.write(run)
            if event == "finish" and self._signal:
                run.reason = f"{self._signal} arrived. {self._describe_end(path)}"
        if event in ("finish", "failed"):
            self._restore_signals()
            self._unlock_folder()

    def _is_due(self, run: Run, event: str) -> bool:
        """Return True if an event calls for a checkpoint."""
        if event == "smooth":
            return run.ranks.share(time.monotonic() - self._at > self.seconds)
        return event == "finish" or (event == "cycle" and run.cycles % self.every == 0)

    def write(self, run: Run) -> Path | None:
        """Save a run that is between two steps.

        Parameters
        ----------
        run : Run

        Returns
        -------
        path : Path or None
            None if writing failed, which is logged as a warning.
        """
        if self._identity is None:
            raise NetgraphError("no run has begun with these checkpoints. Give them to the run as a callback.")
        others = gather_random_states(run)
        self._at = time.monotonic()
        return run.ranks.run_on_first(lambda: self._write_file(run, others))

    def _write_file(self, run: Run, others: Tensors) -> Path | None:
        """Write the file of a run, with the random states of the other processes."""
        path = self.folder / f"checkpoint-{run.steps:09d}.safetensors"
        tensors, state = capture_state(run, others)
        document = {
            "format": FORMAT,
            "version": __version__,
            "torch": torch.__version__,
            "identity": self._identity,
            "run": state,
        }
        if path.exists() and path.name not in self._own:
            logger.warning("no checkpoint was written at step %d: %s is of another run", run.steps, path)
            return None
        try:
            write_bundle(path, tensors, document)
        except LoadError as error:
            logger.warning("no checkpoint was written at step %d: %s", run.steps, error)
            return None
        self._own.add(path.name)
        logger.debug("wrote %s", path)
        self._remove_old()
        return path

    def _list_own(self) -> list[Path]:
        """Return the checkpoints of this run, newest first. The number of steps counts, not the time of a file."""
        return [path for path in list_checkpoints(self.folder) if path.name in self._own]

    def _remove_old(self) -> None:
        """Remove the checkpoints that are not to stay."""
        for old in self._list_own()[self.keep :]:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s is not removed (%s)", old, error.strerror or error)
            self._own.discard(old.name)

    def _describe_end(self, path: Path | None) -> str:
        """Return the sentence about the checkpoint of a run that a signal has ended."""
        if path is not None:
            return f"The run is saved in {self.folder} and can be resumed"
        last = next(iter(self._list_own()), None)
        if last is None:
            return f"The run could not be saved in {self.folder}"
        return f"The run could not be saved in {self.folder}, and can be resumed from {last.name}"

    def _begin_run(self, run: Run) -> None:
        """Lock and check the folder, and catch signals until the run ends."""
        self._identity = fingerprint_run(run)
        run.ranks.run_on_first(lambda: self._take_folder(run))
        self._at = time.monotonic()
        self._catch_signals(run)

    def _take_folder(self, run: Run) -> None:
        """Lock and check the folder, on the process that writes."""
        self._lock_folder()
        try:
            self._check_folder(run)
        except BaseException:
            self._unlock_folder()
            raise

    def _lock_folder(self) -> None:
        """Let neither another process nor a run in another thread of this one write into the folder."""
        place, thread = os.path.realpath(self.folder), threading.get_ident()
        with _guard:
            if set(_threads.get(place, ())) - {thread}:
                raise NetgraphError(
                    f"the folder of checkpoints {self.folder} is in use by a run in another thread. Wait for it, or give another "
                    "folder."
                )
            acquire_lock(self.folder / LOCK, f"the folder of checkpoints {self.folder}")
            _threads.setdefault(place, []).append(thread)
            self._place = place

    def _unlock_folder(self) -> None:
        """Give the folder back, if this run has it."""
        with _guard:
            if self._place:
                _threads[self._place].pop()
                if not _threads[self._place]:
                    del _threads[self._place]
                release_lock(self.folder / LOCK)
            self._place = ""

    def _check_folder(self, run: Run) -> None:
        """Refuse a folder with checkpoints of another run, and find those of this one."""
        remove_temporaries(self.folder)
        existing = list_checkpoints(self.folder)
        if existing and not run.steps:
            raise NetgraphError(
                f"{self.folder} holds checkpoints up to {existing[0].name}, and this is a new run. Resume the old run, or give "
                "another folder."
            )
        self._own = {path.name for path in existing if _belongs_to(path, self._identity or {})}

    def _catch_signals(self, run: Run) -> None:
        """End the run after the current step when SIGTERM or SIGINT arrives."""
        if threading.current_thread() is not threading.main_thread():
            logger.info("signals are not caught, because the run is not in the main thread")
            return

        def stop(number: int, frame: object) -> None:
            self._restore_signals()
            self._signal = signal.Signals(number).name
            run.stop(f"{self._signal} arrived")

        self._handlers = {number: signal.signal(number, stop) for number in SIGNALS}

    def _restore_signals(self) -> None:
        """Put the signal handlers back that were there before the run."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _belongs_to(path: Path, identity: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint is of a run with this fingerprint."""
    try:
        document = read_document(path)
    except LoadError:
        return False
    return describe_difference(dict(identity), document.get("identity", {})) is None


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    numbered = [(int(match[1]), path) for path in Path(folder).glob("*") if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def resume(run: Run, folder: str | Path) -> str | None:
    """Resume a run from its newest undamaged checkpoint in a folder.

    Parameters
    ----------
    run : Run
        A run that has not begun, from `netgraph.fas.FAS.begin`, made in the same way as the one that was saved.
    folder : path
        Folder of the checkpoints.

    Returns
    -------
    message : str or None
        The position at which the run goes on, in words. None if the folder has no checkpoint.

    Raises
    ------
    NetgraphError
        All checkpoints are damaged, or all others have another network, other levels, options, settings or data.

    Examples
    --------
    See `netgraph.fas.Checkpoints`. In a folder without checkpoints the run stays as it is:

    >>> import tempfile
    >>> import netgraph as ng
    >>> from netgraph.fas import resume
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(resume(None, folder))
    None
    """
    paths = list_checkpoints(folder)
    damaged: list[str] = []
    refusals: list[NetgraphError] = []
    for path in paths:
        try:
            tensors, document = read_bundle(path, newest=FORMAT)
        except LoadError as error:
            logger.warning("skipped a checkpoint: %s", error)
            damaged.append(path.name)
            continue
        try:
            return _restore_run(run, path, tensors, document, damaged)
        except NetgraphError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]
    if damaged:
        raise NetgraphError(
            f"all checkpoints of {folder} are damaged ({', '.join(damaged)}). Delete them to begin a new run."
        )
    return None


def _restore_run(
    run: Run, path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], damaged: list[str]
) -> str:
    """Check that a checkpoint fits a run, restore the run, and return the message."""
    if "run" not in document:
        raise LoadError(f"{path} is no checkpoint of a run. Move it away.")
    here = fingerprint_run(run)
    try:
        there, version = document["identity"], document["torch"]
        difference = describe_difference(here, there)
        if difference is None:
            restore_state(run, tensors, document["run"])
    except NetgraphError:
        raise
    except Exception as error:  # the digest is right and the form is wrong
        raise LoadError(
            f"{path} is no checkpoint of this version of netgraph ({describe_error(error)}). Move it away."
        ) from error
    if difference is not None:
        raise NetgraphError(f"{path} is a checkpoint of {difference}. Resume it with the same, or begin a new run.")
    message = f"resumed at step {run.steps} of {run.total_steps}, after {run.cycles} cycles, from {path}"
    if damaged:
        message += f" (skipped as damaged: {', '.join(damaged)})"
    logger.info("%s", message)
    if (count := document["run"].get("ranks", 1)) != run.ranks.count:
        logger.warning(
            "%s was written by a run of %d processes, and this one has %d. Other units are dropped, and sums are rounded otherwise",
            path,
            count,
            run.ranks.count,
        )
    if missing := describe_missing(here, there):
        logger.warning(
            "%s is of an older version that did not save its %s. They are taken to be those of this run", path, missing
        )
    if version != torch.__version__:
        logger.warning(
            "%s was written with torch %s, and this is torch %s. Results may differ",
            path,
            version,
            torch.__version__,
        )
    return message
