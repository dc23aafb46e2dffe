"""Locks: a folder of checkpoints belongs to one process at a time, and so does an output file while a command writes it.

A lock is a small file that names its process. It is left behind if that process is killed, and the next one that finds the process dead
takes the lock over. The age of a lock says nothing about its process, and is not looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import check_ordinary, name_temporary
from netgraph.io.files.output_files import check_parent_folder, make_folder
from netgraph.io.files.writers import Writer, identify_process

if sys.platform != "win32":
    import fcntl

NAME = ".netgraph-lock"
LIMIT = 200  # bytes of a lock that are read
LONGEST = 255  # bytes of a name in most file systems
FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
logger = logging.getLogger("netgraph.io")
_held: Counter[tuple[Path, int]] = (
    Counter()
)  # locks of this process, by path and process, with the number of their users


def acquire_lock(path: Path, owned: str) -> None:
    """Take a lock. A process may take it several times, and gives it back as often.

    Parameters
    ----------
    path : path
        File of the lock. Its folder exists.
    owned : str
        What the lock is for, for messages.

    Raises
    ------
    NetgraphError
        Another process has it, or the file cannot be written.
    """
    path, writer = _resolve_folder(path), identify_process()
    while not _held[path, writer.pid]:
        if _create(path, writer, owned):
            break
        holder = _read_holder(path)
        if holder == writer:  # this process had it and could not give it back
            break
        if holder is None or not holder.is_dead():
            _refuse(path, owned, holder)
            continue
        if _take_over(path, holder, writer, owned):
            logger.warning("%s was in use by process %d, which has ended. It is taken over", owned, holder.pid)
            break
    _held[path, writer.pid] += 1


def release_lock(path: Path) -> None:
    """Give a lock back."""
    path = _resolve_folder(path)
    key = (path, os.getpid())
    if not _held[key]:
        return
    _held[key] -= 1
    if not _held[key]:
        del _held[key]
        with contextlib.suppress(OSError):  # a folder that is gone has no lock
            if _read_holder(path) == identify_process():
                path.unlink()


@contextlib.contextmanager
def lock_outputs(*paths: Path | None) -> Iterator[None]:
    """Let no other process write the same files within a block. None is no file.

    Raises
    ------
    NetgraphError
        Another process writes one of them.
    """
    with contextlib.ExitStack() as stack:
        for path in {Path(os.path.realpath(path)): path for path in paths if path is not None}.values():
            check_parent_folder(path)
            check_ordinary(path)
            lock = _name_lock(Path(os.path.realpath(path)))
            acquire_lock(lock, str(path))
            stack.callback(release_lock, lock)
        yield


@contextlib.contextmanager
def lock_folders(*folders: Path | None) -> Iterator[None]:
    """Let no other process write into the same folders within a block. They are created if they do not exist. None is no folder.

    Raises
    ------
    NetgraphError
        Another process has one of them, or one cannot be created.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            if folder is not None:
                make_folder(folder)
                acquire_lock(folder / NAME, f"the folder {folder}")
                stack.callback(release_lock, folder / NAME)
        yield


def _resolve_folder(path: Path) -> Path:
    """Return the path of a lock without links in its folder. A lock that is a link itself is not followed."""
    return Path(os.path.realpath(path.parent)) / path.name


def _name_lock(place: Path) -> Path:
    """Return the lock of an output. A name that is nearly as long as a file system takes gives a lock of its digest."""
    name = f"{NAME}-{place.name}"
    if len(os.fsencode(name)) > LONGEST:
        name = f"{NAME}-{hashlib.sha256(os.fsencode(place.name)).hexdigest()}"
    return place.with_name(name)


def _create(path: Path, writer: Writer, owned: str) -> bool:
    """Create the file of a lock with its contents in one step. Return False if there is one."""
    with _write_aside(path, writer, owned) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError:  # the file system has no links
            return _create_without_links(path, writer)
    return True


def _create_without_links(path: Path, writer: Writer) -> bool:
    """Create the file of a lock, then write it. Return False if there is one."""
    try:
        file = path.open("x", encoding="ascii")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(str(writer))
    except OSError:
        path.unlink()  # an empty lock would name nobody, and stay
        raise
    return True


@contextlib.contextmanager
def _write_aside(path: Path, writer: Writer, owned: str) -> Iterator[Path]:
    """Write the contents of a lock beside its place for a block. A refusal of the system becomes a sentence."""
    aside = name_temporary(path.parent)
    try:
        aside.write_text(str(writer), encoding="ascii")
        yield aside
    except OSError as error:
        raise NetgraphError(
            f"{owned} cannot be locked: {path.parent} is not writable ({error.strerror or error})."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _read_holder(path: Path) -> Writer | None:
    """Return the process that has a lock, or None if the file does not name one. A link is not followed, and no pipe is waited for."""
    try:
        with open(os.open(path, FLAGS), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return Writer.parse(file.read(LIMIT).decode("ascii", "replace")) if regular else None
    except (OSError, NetgraphError):
        return None


def _take_over(path: Path, dead: Writer, writer: Writer, owned: str) -> bool:
    """Write this process into the lock of a dead one. Return False if another process was faster.

    The kernel lets one process at a time pass here, by its own lock on the file, which it gives back when that process ends. A lock is
    replaced by one rename, so it never leaves its place, and the lock of a living process is not touched.
    """
    if sys.platform == "win32":
        return _refuse(path, owned, dead)
    try:
        file = os.open(path, os.O_RDWR | FLAGS)
    except FileNotFoundError:
        return False
    except OSError:  # of another user
        return _refuse(path, owned, dead)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file), os.lstat(path)) or _read_holder(path) != dead:
            return False
        with _write_aside(path, writer, owned) as aside:
            os.replace(aside, path)
        return True
    except FileNotFoundError:
        return False
    except OSError as error:  # another process takes it over now, or the file system has no such locks
        return _refuse(path, owned, None if isinstance(error, BlockingIOError) else dead)
    finally:
        os.close(file)


def _refuse(path: Path, owned: str, holder: Writer | None) -> bool:
    """Raise the error for a lock that another process has. Return False if it was given back just now."""
    if holder is None and not os.path.lexists(path):
        return False
    who = "another process" if holder is None else f"process {holder.pid} on {holder.host}"
    raise NetgraphError(
        f"{owned} is in use by {who}. Wait for it, or give another name. If that process is gone, remove {path}."
    )
