"""One input under watch: what may come out of a reader of netgraph, and what is a fault.

An input of a stranger is accepted, or refused by a `NetgraphError` with a message of one line. All else is a fault: another
exception, more than `SECONDS` of processor time, more than `BYTES` of memory, a refusal that the allocator wrote, a process, a socket
or a file that the reader was not asked for, and an answer that an independent judge contradicts (`WrongAnswerError`).
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netgraph.errors import NetgraphError

SECONDS, BYTES = 2.0, 512 * 2**20
ALLOCATOR = re.compile(r"MemoryError|allocate memory|[Uu]nable to allocate|bad_alloc|not enough memory")
FORBIDDEN = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.bind",
    "socket.getaddrinfo", "urllib.Request", "os.chmod", "os.chown", "os.symlink", "os.link", "pty.spawn", "webbrowser.open",
}  # fmt: skip


class WrongAnswerError(Exception):
    """An independent judge disagrees with an answer."""


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Parameters
    ----------
    name : str
    check : callable ``(data, folder) -> None``
        Gives the bytes to the reader, and its answer to a judge. It may write files into the folder.
    seeds : callable ``() -> list of bytes``
        Inputs to begin with, which the reader accepts.
    mutate : callable ``(data, draw) -> bytes or None``, optional
        Changes an input within its structure. None lets libFuzzer change its bytes.
    """

    name: str
    check: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, Any], bytes | None] | None = None


@dataclass(frozen=True)
class Fault:
    """What went wrong with an input, and where."""

    kind: str
    place: str
    text: str

    @property
    def signature(self) -> str:
        """The same for inputs that fail in the same way at the same place."""
        return f"{self.kind} at {self.place}"


class Watch:
    """Give inputs to a target, one at a time.

    Parameters
    ----------
    target : Target
    audit : bool, default=True
        Also report events of `FORBIDDEN`, and files that are written outside the folder of the target. The hook stays in the process.
    seconds : float, default=`SECONDS`
        Processor time of an input.
    """

    def __init__(self, target: Target, *, audit: bool = True, seconds: float = SECONDS) -> None:
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.target, self.folder = target, Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared))
        self.watching, self.events, self.seconds = False, list[str](), seconds
        if audit:
            sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: Any) -> None:
        if not self.watching or (event != "open" and event not in FORBIDDEN):
            return
        inside = bool(arguments) and str(arguments[0]).startswith(str(self.folder))
        if event != "open" and not inside:
            self.events.append(event)
        elif event == "open" and set(str(arguments[1])) & set("wax+") and not inside and isinstance(arguments[0], str):
            self.events.append(f"open {arguments[0]}")

    @contextlib.contextmanager
    def _listen(self) -> Iterator[None]:
        self.watching = True
        try:
            yield
        finally:
            self.watching = False

    def find_fault(self, data: bytes) -> Fault | None:
        """Return what is wrong with the answer to an input, or None."""
        self.events.clear()
        before, begun, message = _reset_peak_memory(), time.process_time(), ""
        try:
            with self._listen():
                self.target.check(data, self.folder)
        except NetgraphError as error:
            message = str(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # libraries in Rust panic outside Exception
            return _describe(error)
        seconds, taken = time.process_time() - begun, _read_memory("VmHWM") - before
        if seconds > self.seconds:
            return Fault("slow", self.target.name, f"{seconds:.1f} s, {message[:300]}")
        if taken > BYTES:
            return Fault("memory", self.target.name, f"{taken:,} bytes, {message[:300]}")
        if self.events:
            return Fault("event", self.events[0].partition(" ")[0], "; ".join(self.events[:5]))
        if ALLOCATOR.search(message):
            return Fault("allocator", self.target.name, message[:500])
        return Fault("message", self.target.name, repr(message)) if message and "\n" in message else None


def _describe(error: BaseException) -> Fault:
    """Return the fault of an exception, at its innermost line in netgraph."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if re.search(r"/(netgraph|coarsen|fas|models|viz)/", f.filename) and "site-packages" not in f.filename
    ]
    last = (own or frames)[-1]
    place = f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.name}"
    if isinstance(error, WrongAnswerError):
        place = re.sub(r"\d+", "N", str(error))[:60]
    return Fault(type(error).__name__, place, "".join(traceback.format_exception(error))[-3000:])


def _read_memory(name: str) -> int:
    """Return a size of this process in bytes, 0 on systems without /proc."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":")), 0)
    return 0


def _reset_peak_memory() -> int:
    """Set the peak of the memory to what is used now, and return it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _read_memory("VmRSS")


def limit_memory(n_bytes: int = 2 * BYTES) -> None:
    """Let this process take only so much more address space, so that a request beyond it fails instead of swapping."""
    taken = _read_memory("VmSize")
    if taken:
        resource.setrlimit(resource.RLIMIT_AS, (taken + n_bytes, resource.RLIM_INFINITY))
