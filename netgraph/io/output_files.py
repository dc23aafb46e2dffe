"""Output files: check the destination before work begins, and never leave a half-written file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from netgraph.errors import NetgraphError


def check_output_file(path: Path) -> None:
    """Raise an error if a file cannot be written at a path.

    Raises
    ------
    NetgraphError
        The folder does not exist or is not writable, or the path is a folder.
    """
    check_parent_folder(path)
    if path.is_dir():
        raise NetgraphError(f"{path} is a folder, and a file is to be written there. Give another name.")


def check_new_folder(path: Path) -> None:
    """Raise an error if a folder cannot be created at a path.

    Raises
    ------
    NetgraphError
        The folder above does not exist or is not writable, or the path is a file.
    """
    check_parent_folder(path)
    if path.is_file():
        raise NetgraphError(f"{path} is a file, and a folder is to be created there. Give another name.")


def make_folder(path: Path) -> None:
    """Create a folder and the folders above it, unless it exists.

    Raises
    ------
    NetgraphError
        Something else is there, or the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NetgraphError(
            f"{path} cannot be created as a folder ({error.strerror or error}). Give another name."
        ) from error
    if not os.access(path, os.W_OK):
        raise NetgraphError(f"the folder {path} is not writable. Give another one.")


def check_parent_folder(path: Path) -> None:
    """Raise an error if the folder of a path does not exist or is not writable.

    Raises
    ------
    NetgraphError
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise NetgraphError(f"{path}: the folder {folder} does not exist. Create it first.")
    if not os.access(folder, os.W_OK):
        raise NetgraphError(f"{path}: the folder {folder} is not writable. Give another one.")


def write_atomically(write: Callable[[Path], object], path: Path) -> None:
    """Let ``write`` create a file in a temporary folder, then move the file to its place.

    Parameters
    ----------
    write : callable ``(path) -> object``
    path : path

    Raises
    ------
    NetgraphError
        The system refuses, for lack of space or permission.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".netgraph-") as aside:
            write(Path(aside) / path.name)
            os.replace(Path(aside) / path.name, path)
    except OSError as error:
        reason = error.strerror or error
        raise NetgraphError(f"{path} cannot be written ({reason}). Give a name in a folder that has space.") from error
