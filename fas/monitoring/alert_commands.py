"""Work that an alert starts beside the training: a program, or a message. Training does not wait for it, and it is given up after `WAIT`.

A program runs in a process group of its own. At the end of its time the whole group is ended, so that a program which it
started does not stay behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence

WAIT = 60.0  # seconds that a command or a message may take
logger = logging.getLogger("netgraph.alert")


def start_command(arguments: Sequence[str], name: str) -> None:
    """Run a program without waiting for it.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments.
    name : str
        Name of the alert.
    """
    threading.Thread(target=_run_command, args=(list(arguments),), name=f"alert {name}").start()


def start_message(send: Callable[[], object], receiver: str, name: str) -> None:
    """Send a message without waiting for it.

    Parameters
    ----------
    send : callable ``() -> object``
        Sends the message. Its result is true if it was delivered.
    receiver : str
        Name of the receiver in warnings.
    name : str
        Name of the alert.
    """
    threading.Thread(target=_supervise, args=(send, receiver), name=f"alert {name}").start()


def _run_command(arguments: list[str]) -> None:
    """Run a program, end it and all that it started after `WAIT` seconds, and log a warning if it fails."""
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as any program that it started
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            logger.warning("the command of an alert failed: %s", error)
            return
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            _end_group(process)
            logger.warning("the command of an alert, %s, was ended after %g seconds", arguments[0], WAIT)
            return
        if process.returncode:
            output.seek(0)
            last = output.read().decode(errors="replace").strip()[-200:]
            logger.warning("the command of an alert, %s, ended with %d: %s", arguments[0], process.returncode, last)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _supervise(send: Callable[[], object], receiver: str) -> None:
    """Let another thread send a message, and give it up after `WAIT` seconds. That thread does not keep the process alive."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(send())
        except Exception as error:  # a service may fail in any way
            logger.warning("the message of an alert to %s failed: %s: %s", receiver, type(error).__name__, error)
            results.append(True)

    thread = threading.Thread(target=run, name=f"message to {receiver}", daemon=True)
    thread.start()
    thread.join(WAIT)
    if not results:
        logger.warning("the message of an alert to %s was given up after %g seconds", receiver, WAIT)
    elif not results[0]:
        logger.warning("the message of an alert was not delivered to %s", receiver)
