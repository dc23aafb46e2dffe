"""Where files are to be written: asked before work begins, and nothing half-written where it fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from netgraph.errors import NetgraphError


def check_output_file(path: Path) -> None:
    """Refuse a place where no file can be written.

    Raises
    ------
    NetgraphError
        Its folder does not exist or takes no files, or the path is a folder itself.
    """
    check_parent_folder(path)
    if path.is_dir():
        raise NetgraphError(f"{path} is a folder, and a file is to be written there; give another name")


def check_new_folder(path: Path) -> None:
    """Refuse a place where no folder can be made: as `check_output_file`, and where a file stands.

    Raises
    ------
    NetgraphError
    """
    check_parent_folder(path)
    if path.is_file():
        raise NetgraphError(f"{path} is a file, and a folder is to be made there; give another name")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; one that is there may be.

    Raises
    ------
    NetgraphError
        Something else is there, or the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NetgraphError(f"{path} cannot be made a folder ({error.strerror or error}); give another name") from error
    if not os.access(path, os.W_OK):
        raise NetgraphError(f"the folder {path} is not yours to write in; give another one")


def check_parent_folder(path: Path) -> None:
    """Refuse a place whose folder does not exist or takes nothing new.

    Raises
    ------
    NetgraphError
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise NetgraphError(f"{path}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise NetgraphError(f"{path}: the folder {folder} is not yours to write in; give another one")


def write_atomically(write: Callable[[Path], object], path: Path) -> None:
    """Let ``write`` make a file under its own name in a folder aside, and put it in its place when it is whole.

    Raises
    ------
    NetgraphError
        The system refuses: no room, no right to.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".netgraph-") as aside:
            write(Path(aside) / path.name)
            os.replace(Path(aside) / path.name, path)
    except OSError as error:
        reason = error.strerror or error
        raise NetgraphError(f"{path} cannot be written ({reason}); give a name in a folder that has room") from error
