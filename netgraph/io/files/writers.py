"""The process that writes a file, by a name that other processes can judge: is it still at work, or was it killed?"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from netgraph.errors import NetgraphError


@dataclass(frozen=True)
class Writer:
    """A process, as the name of a temporary folder or a lock holds it.

    Attributes
    ----------
    host : str
        Name of the machine or container, without characters that a file name cannot have.
    space : str
        Eight hexadecimal digits of the space in which process numbers count: the machine since its last start, and the
        container in it.
    pid : int
        Number of the process.
    start : int
        Moment at which the process began, because a number is given to another process after some time.
    """

    host: str
    space: str
    pid: int
    start: int

    PATTERN = r"(?P<host>[\w.]+)-(?P<space>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)"

    def __str__(self) -> str:
        return f"{self.host}-{self.space}-{self.pid}-{self.start}"

    @classmethod
    def parse(cls, text: str) -> Writer:
        """Read a writer from its name.

        Raises
        ------
        NetgraphError
            The text is no such name.
        """
        match = re.fullmatch(cls.PATTERN, text)
        if match is None:
            raise NetgraphError(f"{text!r:.100} does not name a process.")
        return cls(match["host"], match["space"], int(match["pid"]), int(match["start"]))

    def is_dead(self) -> bool:
        """Return True if the process is known to have ended. One of another machine or container is not known."""
        here = identify_process()
        if (self.host, self.space) != (here.host, here.space):
            return False
        try:
            return _find_start(self.pid) != self.start
        except psutil.NoSuchProcess:
            return True
        except (psutil.Error, OSError):  # a process of another user may not be looked at
            return False


def identify_process() -> Writer:
    """Return this process as a writer."""
    pid = os.getpid()
    return Writer(*_identify_machine(), pid, _find_own_start(pid))


@cache
def _find_own_start(pid: int) -> int:
    """Return the start of this process. Its number is an argument because a process may fork."""
    return _find_start(pid)


def _find_start(pid: int) -> int:
    """Return a number for the moment at which a process began.

    Linux counts ticks since the machine started, so that a clock that is set does not change the number. Elsewhere it is the
    second.

    Raises
    ------
    psutil.NoSuchProcess
        It has ended.
    """
    if sys.platform != "linux":
        return int(psutil.Process(pid).create_time())
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    if fields[0] in "ZX":  # it has ended, and its parent has not asked how
        raise psutil.NoSuchProcess(pid)
    return int(fields[19])


@cache
def _identify_machine() -> tuple[str, str]:
    """Return the name of this machine, and the space in which its process numbers count.

    Containers may share a folder and have one host name, and the same numbers then name other processes. Their spaces differ.
    """
    try:
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux
        parts = [f"{psutil.boot_time():.0f}"]
    host = re.sub(r"[^\w.]", "_", socket.gethostname(), flags=re.ASCII)[:60] or "unnamed"
    return host, hashlib.sha256("".join(parts).encode()).hexdigest()[:8]
