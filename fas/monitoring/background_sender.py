"""A bounded queue, and a thread that sends its items. Putting an item in never blocks."""

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
    """Send items in a background thread until the receiver is lost.

    Parameters
    ----------
    send : callable ``(list of items) -> None``
        Called in the thread with all items that have been gathered. It removes the items that it has sent from the list, and
        raises an error if the receiver fails.
    receiver : str
        Name of the receiver in the one warning.
    timeout : float
        Seconds without success after which the receiver is lost. All further items are dropped.
    interval : float
        Seconds for which items are gathered.
    size : int
        Largest number of waiting items. Further items are dropped.

    Attributes
    ----------
    dropped : int
        Number of items that were not sent.
    answered : bool
        True if anything was sent.
    lost : bool
        True if the receiver was given up.
    """

    def __init__(
        self,
        send: Callable[[list[Any]], None],
        receiver: str,
        *,
        timeout: float,
        interval: float = 5.0,
        size: int = 10_000,
    ) -> None:
        self._send, self.receiver, self.timeout, self.interval = send, receiver, timeout, interval
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._closing, self._done, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._attempt_begun: float | None = None  # time of the first attempt since the last success
        self.dropped, self.answered, self.lost = 0, False, False
        threading.Thread(target=self._run_thread, name="netgraph sender", daemon=True).start()

    def put(self, item: Any) -> None:
        """Put an item into the queue, or drop it if the queue is full. Never wait."""
        self._check_timeout()
        if self.lost:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def close(self, patience: float) -> None:
        """Send the remaining items, and end the thread.

        Parameters
        ----------
        patience : float
            Seconds to wait for a receiver that has never answered. A receiver that has answered gets the full timeout.
        """
        self._closing.set()
        begun = time.monotonic()
        while not self._done.wait(0.01) and not self.lost:
            self._check_timeout()
            if not self.answered and time.monotonic() - begun > patience:
                self._give_up("it has not answered by the end of the run")
        remaining = self._queue.qsize()
        if self.dropped or (self.lost and remaining):
            logger.info("%s: %d records were dropped", self.receiver, self.dropped + remaining)

    def _check_timeout(self) -> None:
        """Give the receiver up if a call hangs. A call that hangs raises no error itself."""
        begun = self._attempt_begun
        if begun is not None and time.monotonic() - begun > self.timeout + PAUSE:
            self._give_up(f"no answer within {self.timeout:g} seconds")

    def _give_up(self, reason: str) -> None:
        """Mark the receiver as lost, and log one warning."""
        with self._lock:
            first, self.lost = not self.lost, True
        if first:
            logger.warning(
                "%s is given up (%s). Training continues, further records are dropped", self.receiver, reason
            )

    def _run_thread(self) -> None:
        """Gather items and send them, until the queue is closed and empty."""
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
        """Send items, and repeat after an error until the timeout is over."""
        begun = self._attempt_begun = time.monotonic()
        while not self.lost:
            try:
                self._send(items)
                self.answered, self._attempt_begun = True, None
                return
            except Exception as error:  # an error of the receiver must not reach the training
                if time.monotonic() - begun > self.timeout:
                    self._give_up(f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
            self._closing.wait(PAUSE) if not self._closing.is_set() else time.sleep(PAUSE)
        self.dropped += len(items)
