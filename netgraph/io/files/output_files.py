"""Destinations of files and folders, checked before work begins."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from netgraph.errors import NetgraphError
from netgraph.io.files.atomic_writes import check_ordinary, list_foreign_files
from netgraph.io.files.system_refusals import describe_refusal, find_mend

NO_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)


def check_output_file(path: Path) -> None:
    """Raise an error if a file cannot be written at a path.

    Raises
    ------
    NetgraphError
        The folder does not exist or is not writable, or the path is a folder, a device or a pipe.
    """
    check_parent_folder(path)
    check_ordinary(path)
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


def check_path(path: Path, error: type[NetgraphError] = NetgraphError) -> None:
    """Raise an error for a path that no file can have here.

    An address of a network, such as ``s3://bucket/name``, would be a folder ``s3:``. The system refuses other ones: a name that is
    too long, a link that leads back to itself.

    Raises
    ------
    NetgraphError
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # one letter is a drive
        raise error(
            f"{path} is an address, and netgraph writes and reads files of this machine. Give a path, and copy the file."
        )
    try:
        path.stat()
    except OSError as reason:
        if reason.errno in NO_PATHS:
            raise error(f"{path} cannot be a file ({describe_refusal(reason)}). {find_mend(reason)}") from reason


def check_encoding(path: Path, error: type[NetgraphError] = NetgraphError) -> None:
    """Raise an error for a name that is not UTF-8. safetensors and PyTorch cannot open such a file again.

    Raises
    ------
    NetgraphError
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as reason:
        raise error(
            f"the file name {str(path)!a} is not UTF-8, and PyTorch cannot open it. Rename the file."
        ) from reason


def check_replaceable(path: Path, ours: re.Pattern[str], error: type[NetgraphError] = NetgraphError) -> None:
    """Raise an error if a folder that is to be replaced holds files of somebody else.

    Parameters
    ----------
    path : path
        A folder, or a place where nothing is.
    ours : re.Pattern
        Names of the files that a folder of this kind has.
    error : type, default=NetgraphError
        Class of the error.

    Raises
    ------
    NetgraphError
    """
    foreign = list_foreign_files(path, ours)
    if foreign:
        raise error(
            f"{path} would be replaced, and it holds {foreign[0].name!r}, which netgraph has not written. Move it away, or give "
            "another name."
        )


def make_folder(path: Path, kind: type[NetgraphError] = NetgraphError) -> None:
    """Create a folder and the folders above it, unless it exists.

    Parameters
    ----------
    path : path
    kind : type, default=NetgraphError
        Class of the error.

    Raises
    ------
    NetgraphError
        Something else is there, or the system refuses.
    """
    check_path(path, kind)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise kind(f"{path} cannot be created as a folder ({describe_refusal(error)}). {find_mend(error)}") from error
    if not os.access(path, os.W_OK):
        raise kind(f"the folder {path} is not writable. Give another one.")


def check_parent_folder(path: Path) -> None:
    """Raise an error if the folder of a path does not exist or is not writable.

    Raises
    ------
    NetgraphError
    """
    check_path(path)
    check_encoding(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise NetgraphError(f"{path}: the folder {folder} does not exist. Create it first.")
    if not os.access(folder, os.W_OK):
        raise NetgraphError(f"{path}: the folder {folder} is not writable. Give another one.")
