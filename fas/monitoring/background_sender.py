"""A bounded queue, and a thread that sends its items. Putting an item in never blocks.

A receiver that fails for longer than a timeout is lost: there is one warning, items wait in the queue, and the thread tries again
now and then. All times are of the monotonic clock, so a clock that is set changes nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from netgraph.errors import describe_root
from netgraph.utils.text import escape_controls

PAUSE, LONG_PAUSE = 0.2, 30.0  # seconds between two attempts, and between two at a receiver that is lost
logger = logging.getLogger("netgraph.tracking")


class BackgroundSender:
    """Send items in a background thread.

    Parameters
    ----------
    send : callable ``(list of items) -> None``
        Called in the thread with all items that have been gathered. It removes the items that it has sent from the list, and
        raises an error if the receiver fails.
    receiver : str
        Name of the receiver in messages.
    timeout : float
        Seconds of failures after which the receiver is lost.
    longest : float, optional
        Seconds after which a call that neither returns nor sends an item counts as lost. By default ``timeout``.
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
        True while the receiver is lost.
    refusal : Exception or None
        Error of the last attempt. None after a success.
    """

    def __init__(
        self,
        send: Callable[[list[Any]], None],
        receiver: str,
        *,
        timeout: float,
        longest: float | None = None,
        interval: float = 5.0,
        size: int = 10_000,
    ) -> None:
        self._send, self.receiver, self.timeout, self.interval = send, receiver, timeout, interval
        self.longest = timeout if longest is None else longest
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._closing, self._done, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._tried = threading.Event()  # once the first attempt has ended
        self._items: list[Any] = []  # those that are being sent
        self._call: tuple[float, int] | None = None  # time of the last progress in the call under way, and items left
        self.dropped, self.answered, self.lost, self._warned = 0, False, False, False
        self.refusal: Exception | None = None
        threading.Thread(target=self._run_thread, name="netgraph sender", daemon=True).start()

    def put(self, item: Any) -> None:
        """Put an item into the queue, or drop it if the queue is full. Never wait."""
        self._check_call()
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def wait_for_answer(self, seconds: float) -> bool:
        """Wait for the end of the first attempt, so that a receiver that refuses is told before work begins.

        Parameters
        ----------
        seconds : float
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether the receiver has refused.
        """
        self._tried.wait(seconds)
        if (error := self.refusal) is not None:
            self._warn(f"does not answer ({describe_root(error)})")
        return error is not None

    def close(self, patience: float) -> None:
        """Send the remaining items, and end the thread. A lost receiver is not waited for.

        Parameters
        ----------
        patience : float
            Seconds to wait for a receiver that has never answered. One that has answered is waited for until it is lost.
        """
        self._closing.set()
        begun = time.monotonic()
        while not self._done.wait(0.01) and not self.lost:
            self._check_call()
            if not self.answered and time.monotonic() - begun > patience:
                self._lose("it has not answered by the end of the run")
        dropped = self.dropped if self._done.is_set() else self.dropped + self._queue.qsize() + len(self._items)
        if dropped:
            level = logging.INFO if self._warned else logging.WARNING
            logger.log(level, "%s: %d records were dropped. The history of the run has them", self.receiver, dropped)

    def _check_call(self) -> None:
        """Mark the receiver as lost if a call hangs. A call that hangs raises no error itself."""
        call, left = self._call, len(self._items)
        if call is None:
            return
        if left < call[1]:
            self._call = (time.monotonic(), left)
        elif time.monotonic() - call[0] > self.longest + PAUSE:
            self._lose(f"no answer within {self.longest:g} seconds")

    def _lose(self, reason: str) -> None:
        """Mark the receiver as lost, and warn once."""
        with self._lock:
            first, self.lost = not self.lost, True
        if first:
            self._warn(f"does not answer ({reason})")

    def _warn(self, problem: str) -> None:
        """Log the one warning. Later problems are only noted."""
        level, self._warned = logging.INFO if self._warned else logging.WARNING, True
        sentence = "%s %s. Training continues, and up to %d records wait"
        logger.log(level, sentence, self.receiver, escape_controls(problem), self._queue.maxsize)

    def _run_thread(self) -> None:
        """Gather items and send them, until the queue is closed and empty, or closed and the receiver lost."""
        while not (self._closing.is_set() and (self.lost or self._queue.empty())):
            try:
                self._items = [self._queue.get(timeout=0.05)]
            except queue.Empty:
                continue
            self._closing.wait(self.interval if self.answered else 0.0)
            while not self._queue.empty() and len(self._items) < self._queue.maxsize:
                self._items.append(self._queue.get_nowait())
            self._send_items()
        self.dropped += self._queue.qsize() + len(self._items)
        self._done.set()

    def _send_items(self) -> None:
        """Send items, and repeat after an error until all are sent. A lost receiver is not tried again after closing."""
        last_success, left = time.monotonic(), len(self._items)
        while not (self._closing.is_set() and self.lost):
            try:
                self._call = (time.monotonic(), len(self._items))
                self._send(self._items)
            except Exception as error:  # an error of the receiver must not reach the training
                self.refusal = error
                if len(self._items) < left:  # some of them were sent
                    self.answered, last_success, left = True, time.monotonic(), len(self._items)
                if time.monotonic() - last_success > self.timeout:
                    self._lose(describe_root(error))
                self._end_call(answered=False)
                self._wait_before_next_attempt()
            else:
                self._items = []
                return self._end_call(answered=True)

    def _end_call(self, *, answered: bool) -> None:
        """Note that a call has ended, and how."""
        self._call = None
        if answered:
            self.answered, self.refusal = True, None
            with self._lock:
                back, self.lost = self.lost, False
            if back:
                logger.info("%s answers again", self.receiver)
        self._tried.set()

    def _wait_before_next_attempt(self) -> None:
        """Wait before the next attempt. Closing ends a long pause."""
        if not self._closing.is_set():
            self._closing.wait(LONG_PAUSE if self.lost else PAUSE)
        else:
            time.sleep(PAUSE)
