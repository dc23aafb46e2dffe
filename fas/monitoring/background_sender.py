"""A bounded queue, and a thread that sends what is in it: whoever puts something in never waits."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

PAUSE = 0.2  # seconds between two attempts
logger = logging.getLogger("netgraph.tracking")


class BackgroundSender:
    """Sends items in the background until the receiver is lost.

    Parameters
    ----------
    send : callable ``(list of items) -> None``
        Called in the thread with all that has come together; raises where the receiver fails.
    what : str
        The receiver, for the one warning.
    timeout : float
        Seconds without success after which the receiver is lost, and all that follows is dropped.
    interval : float
        Seconds that items are gathered for.
    size : int
        Items that wait at most; more are dropped.

    Attributes
    ----------
    dropped : int
        Items that were not sent.
    answered : bool
        Whether anything was.
    """

    def __init__(
        self, send: Callable[[list[Any]], None], what: str, *, timeout: float, interval: float = 5.0, size: int = 10_000
    ) -> None:
        self._send, self.what, self.timeout, self.interval = send, what, timeout, interval
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._closing, self._done, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._begun: float | None = None  # of the first attempt since the last success
        self.dropped, self.answered, self.lost = 0, False, False
        threading.Thread(target=self._run_thread, name="netgraph sender", daemon=True).start()

    def put(self, item: Any) -> None:
        """Put an item in, or drop it; never waits."""
        self._check_timeout()
        if self.lost:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def close(self, patience: float) -> None:
        """Wait until all is sent, as long as something was within the timeout; ``patience`` while nothing ever was."""
        self._closing.set()
        begun = time.monotonic()
        while not self._done.wait(0.01) and not self.lost:
            self._check_timeout()
            if not self.answered and time.monotonic() - begun > patience:
                self._give_up("it has not answered by the end of the run")
        left = self._queue.qsize()
        if self.dropped or (self.lost and left):
            logger.info("%s: %d records were dropped", self.what, self.dropped + left)

    def _check_timeout(self) -> None:
        """A call that hangs does not come back to say so."""
        begun = self._begun
        if begun is not None and time.monotonic() - begun > self.timeout + PAUSE:
            self._give_up(f"no answer within {self.timeout:g} seconds")

    def _give_up(self, why: str) -> None:
        with self._lock:
            first, self.lost = not self.lost, True
        if first:
            logger.warning("%s is given up (%s); training goes on, further records are dropped", self.what, why)

    def _run_thread(self) -> None:
        while not self.lost and not (self._closing.is_set() and self._queue.empty()):
            try:
                items = [self._queue.get(timeout=0.05)]
            except queue.Empty:
                continue
            self._closing.wait(self.interval if self.answered else 0.0)
            while not self._queue.empty() and len(items) < self._queue.maxsize:
                items.append(self._queue.get_nowait())
            self._send_until_timeout(items)
        self._done.set()

    def _send_until_timeout(self, items: list[Any]) -> None:
        """Send, again and again until the timeout is over."""
        begun = self._begun = time.monotonic()
        while not self.lost:
            try:
                self._send(items)
                self.answered, self._begun = True, None
                return
            except Exception as error:  # whatever a store does must not reach the training
                if time.monotonic() - begun > self.timeout:
                    self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
            self._closing.wait(PAUSE) if not self._closing.is_set() else time.sleep(PAUSE)
        self.dropped += len(items)
