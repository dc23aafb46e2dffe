"""Write a file or a folder completely or not at all.

Everything is written into a temporary folder beside its place, flushed to disk, and put into its place by one rename. Killed at any
point, the old state or the new one is there. The temporary folder names the process that made it, so that the next writer
in that folder recognizes those of killed ones, and removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from netgraph.errors import NetgraphError
from netgraph.io.files.system_refusals import describe_refusal, find_mend
from netgraph.io.files.writers import Writer, identify_process

NAME = re.compile(rf"\.netgraph-(?P<writer>{Writer.PATTERN})-[0-9a-f]{{16}}")
NEW, OLD = "new", "old"  # folders in the temporary one
WAIT = 2.0  # seconds for another process to finish the exchange of two folders, which takes microseconds
EXCHANGE = {"linux": ("renameat2", True), "darwin": ("renamex_np", False)}  # name in libc, and whether it takes folders
RACES = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # another process has put its folder there meanwhile
SWAP = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS


def write_atomically(write: Callable[[Path], object], path: Path, error: type[NetgraphError] = NetgraphError) -> None:
    """Let ``write`` create a file in a temporary folder, then move the file to its place.

    Parameters
    ----------
    write : callable ``(path) -> object``
        Writes the file. Its path ends in the same name.
    path : path
        Place of the file. A link is followed. An older file keeps its permissions.
    error : type, default=NetgraphError
        Class of the error.

    Raises
    ------
    NetgraphError
        The system refuses, for lack of space or permission.
    """
    path = Path(os.path.realpath(path))
    with _tell_refusal(path, error):
        check_ordinary(path, error)
        with _make_temporary_folder(path.parent) as aside:
            mode = _find_mode(path, aside)
            _fill(write, aside / path.name, path)
            (aside / path.name).chmod(mode)  # safetensors makes files that only their owner can read
            _flush_file(aside / path.name)
            os.replace(aside / path.name, path)
        _flush_folder(path.parent)


def write_folder_atomically(
    write: Callable[[Path], object], path: Path, ours: re.Pattern[str], error: type[NetgraphError] = NetgraphError
) -> None:
    """Let ``write`` fill a temporary folder, then put it in the place of an older one.

    Files of others in the older folder are kept: they lie in the new one too. Both folders are exchanged by one rename where
    the system can do that, as Linux and macOS can. Elsewhere a process that is killed between two renames leaves none in the
    place, and `finish_exchange` restores it.

    Parameters
    ----------
    write : callable ``(path) -> object``
        Fills an empty folder.
    path : path
        Place of the folder. A link is followed. The caller has checked that an older folder is of the same kind.
    ours : re.Pattern
        Names of the files that a folder of this kind has. Others are kept.
    error : type, default=NetgraphError
        Class of the error.

    Raises
    ------
    NetgraphError
        The system refuses, for lack of space or permission.
    """
    path = Path(os.path.realpath(path))
    with _tell_refusal(path, error), _make_temporary_folder(path.parent) as aside:
        new, old = aside / NEW / path.name, aside / OLD / path.name
        new.mkdir(parents=True)
        _fill(write, new, path)
        for file in filter(Path.is_file, new.rglob("*")):
            _flush_file(file)
        _keep_foreign_files(path, new, ours)
        _flush_folder(new)
        _put_in_place(new, path, old)
        for replaced in (new, old):
            _keep_foreign_files(replaced, path, ours)  # what others have added meanwhile
        _flush_folder(path.parent)


def _fill(write: Callable[[Path], object], new: Path, path: Path) -> None:
    """Let ``write`` write a file or fill a folder. Its errors name the place where the file or folder will be."""
    try:
        write(new)
    except NetgraphError as error:
        if str(new) not in str(error):
            raise
        raise type(error)(str(error).replace(str(new), str(path))) from error


def check_ordinary(path: Path, error: type[NetgraphError] = NetgraphError) -> None:
    """Raise an error if a device, a pipe or a socket is at a path. A rename would put a file in its place, /dev/null too.

    Raises
    ------
    NetgraphError
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise error(f"{path} is a device, a pipe or a socket, and a file is to be written there. Give another name.")


def list_foreign_files(path: Path, ours: re.Pattern[str]) -> list[Path]:
    """Return the entries of a folder beside the files of its kind. The list is empty without a folder."""
    return sorted(entry for entry in path.iterdir() if not ours.fullmatch(entry.name)) if path.is_dir() else []


def _keep_foreign_files(old: Path, new: Path, ours: re.Pattern[str]) -> None:
    """Let the files of others lie in the new folder too: as the same file where links are possible, else as a copy."""
    for entry in list_foreign_files(old, ours):
        place = new / entry.name
        if os.path.lexists(place):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, place, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(entry, place)


def _link_or_copy(source: str | Path, place: str | Path) -> None:
    """Give a file a second name, or copy it."""
    try:
        os.link(source, place, follow_symlinks=False)
    except OSError:  # the file system has no links, or the file is of another user
        shutil.copy2(source, place, follow_symlinks=False)


def finish_exchange(path: Path) -> bool:
    """Put a folder into its place that a killed process has written completely and not renamed.

    Parameters
    ----------
    path : path
        Place of a folder, where nothing is.

    Returns
    -------
    bool
        Whether there is a folder now.
    """
    end = time.monotonic() + WAIT
    while not path.exists():
        waiting = [aside for aside in _list_temporaries(path.parent) if (aside / OLD / path.name).exists()]
        if not waiting or time.monotonic() > end:
            return False
        for aside in waiting:
            if _read_writer(aside).is_dead():
                _finish(aside)
        if not path.exists():
            time.sleep(0.02)
    return True


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary folders of killed processes. Those of living ones stay, and so do all other files."""
    for aside in _list_temporaries(folder):
        if _read_writer(aside).is_dead():
            _finish_and_remove(aside)


def name_temporary(folder: Path) -> Path:
    """Return a name of its own for a file or folder that this process removes again, or the next writer if it is killed."""
    return folder / f".netgraph-{identify_process()}-{secrets.token_hex(8)}"


def _finish_and_remove(aside: Path) -> None:
    """Finish an exchange, and remove its temporary folder unless that holds the only copy of an older one."""
    _finish(aside)
    if not any(not os.path.lexists(aside.parent / old.name) for old in _list_entries(aside / OLD)):
        _remove(aside)


def _list_entries(folder: Path) -> list[Path]:
    """Return the entries of a folder. The list is empty without a folder."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _remove(aside: Path) -> None:
    """Remove a temporary file or folder."""
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # another process may do the same
            aside.unlink()


def _finish(aside: Path) -> None:
    """Finish the exchange that stopped between its two renames: the old folder is aside, and nothing in its place."""
    with contextlib.suppress(OSError):  # another process may do the same
        for old in _list_entries(aside / OLD):
            place, new = aside.parent / old.name, aside / NEW / old.name
            if not place.exists():
                os.replace(new if new.exists() else old, place)


@contextlib.contextmanager
def _make_temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder of a name of its own for a block, and remove it and those of killed processes."""
    remove_temporaries(parent)
    aside = name_temporary(parent)
    aside.mkdir(mode=0o700)
    try:
        yield aside
    finally:
        _finish_and_remove(aside)  # an interruption may have come between two renames


def _list_temporaries(folder: Path) -> list[Path]:
    """Return the temporary folders of all writers."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if NAME.fullmatch(entry.name)]
    except OSError:  # the folder is not there, or may not be listed
        return []


def _read_writer(aside: Path) -> Writer:
    """Return the process that made a temporary folder."""
    match = NAME.fullmatch(aside.name)
    assert match is not None
    return Writer.parse(match["writer"])


def _find_mode(path: Path, aside: Path) -> int:
    """Return the permissions of an older file, or those of a new one."""
    sample = aside / "sample"
    sample.touch()
    mode = (path if path.is_file() else sample).stat().st_mode & 0o777
    sample.unlink()
    return mode


def _put_in_place(new: Path, path: Path, old: Path) -> None:
    """Put a folder into its place, also while another process does the same. The last one stays."""
    end = time.monotonic() + WAIT
    while True:
        try:
            if path.exists():
                return _exchange(new, path, old)
            return os.replace(new, path)
        except OSError as error:
            if error.errno not in RACES or not new.exists() or time.monotonic() > end:
                raise


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Put a folder into the place of another, which goes to ``old`` or to the place of the first."""
    if _swap(new, path):
        return
    old.parent.mkdir(exist_ok=True)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        if path.exists():  # another process has put its folder there between the two renames
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)
        raise


def _swap(one: Path, other: Path) -> bool:
    """Exchange two paths by one rename. Return False if the system or the file system cannot."""
    name, takes_folders = EXCHANGE.get(sys.platform, ("", False))
    rename = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if rename is None:
        return False
    here = (ctypes.c_int(-100),) if takes_folders else ()  # AT_FDCWD: the paths are not relative to a folder
    if rename(*here, os.fsencode(one), *here, os.fsencode(other), ctypes.c_uint(SWAP)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):  # such as some network file systems
        return False
    raise OSError(number, os.strerror(number), str(other))


def _flush_file(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush a rename to disk. Systems that cannot open folders do this by themselves."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


@contextlib.contextmanager
def _tell_refusal(path: Path, error: type[NetgraphError]) -> Iterator[None]:
    """Raise an error with a sentence where the system does not let a file or folder be written."""
    try:
        yield
    except OSError as reason:
        raise error(f"{path} cannot be written ({describe_refusal(reason)}). {find_mend(reason)}") from reason
