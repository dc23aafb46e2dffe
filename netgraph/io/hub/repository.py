"""Repositories of the hub of Hugging Face: their names, and folders that are uploaded to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netgraph import __version__
from netgraph.environment.optional_packages import import_package
from netgraph.errors import LoadError, describe_error
from netgraph.io.hub.folder_kind import LIBRARY
from netgraph.io.trained_weights import import_hub


@dataclass(frozen=True)
class Upload:
    """How a folder is uploaded.

    Parameters
    ----------
    private : bool, optional
        Whether a new repository is private. By default as the account has it.
    token : str or bool, optional
        By default the one that is stored on this machine.
    revision : str, optional
        Branch to write to. By default main.
    commit_message : str, optional
    create_pr : bool, default False
        Ask for a pull request in place of a commit.
    """

    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    commit_message: str | None = None
    create_pr: bool = False


def check_repository_name(name: str) -> Any:
    """Check the name of a repository, and return the library huggingface_hub.

    Raises
    ------
    LoadError
        The library is not installed, or the hub has no such names.
    """
    hub = import_hub()
    try:
        import_package("huggingface_hub.utils", "a repository of Hugging Face", LoadError).validate_repo_id(name)
    except ValueError as error:
        raise LoadError(
            f"{name!r:.200} is no name of a repository. Give OWNER/NAME of letters, digits, -, _ and ., as in me/small-bert."
        ) from error
    return hub


def upload_folder(folder: Path, repository: str, upload: Upload, write_name: Callable[[str], object]) -> str:
    """Upload a folder, and return the address of the commit.

    Parameters
    ----------
    folder : path
    repository : str
        OWNER/NAME, or NAME of one's own.
    upload : Upload
    write_name : callable ``(repository) -> object``
        Writes the full name of the repository on the card, once the hub has told it.

    Raises
    ------
    LoadError
        The name is none, or the hub refuses or is not reached.
    """
    hub = check_repository_name(repository)
    api = hub.HfApi(token=upload.token, library_name=LIBRARY, library_version=__version__)
    try:
        made = api.create_repo(repository, private=upload.private, token=upload.token, exist_ok=True)
        full = str(getattr(made, "repo_id", repository))
        if upload.revision and not upload.revision.startswith("refs/pr/"):
            api.create_branch(full, branch=upload.revision, token=upload.token, exist_ok=True)
        write_name(full)
        commit = api.upload_folder(
            repo_id=full, folder_path=str(folder), revision=upload.revision, token=upload.token, create_pr=upload.create_pr,
            commit_message=upload.commit_message or f"Network written by netgraph {__version__}",
        )  # fmt: skip
    except LoadError:
        raise
    except Exception as error:  # of the connection, the server, the token and the disk
        raise LoadError(
            f"uploading to {repository} fails ({describe_error(error)}). Check the name, the network and the right of the token to write; "
            "`hf auth login` stores one."
        ) from error
    return str(getattr(commit, "pr_url", None) or getattr(commit, "commit_url", commit))
