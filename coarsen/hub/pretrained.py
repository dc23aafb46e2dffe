"""save_pretrained, from_pretrained, push_to_hub: an object as a folder of the hub of Hugging Face, and back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from netgraph.coarsen.compression.result import Compressed
from netgraph.coarsen.hierarchy.hierarchy import Hierarchy
from netgraph.coarsen.hierarchy.serialize import INDEX, load
from netgraph.coarsen.hub.forms import Form, choose_form, with_license
from netgraph.errors import LoadError
from netgraph.io.files.output_files import check_path
from netgraph.io.hub.folder_kind import describe_kind, find_kind
from netgraph.io.hub.folders import CARD, HISTORY, is_own_card, read_history, write_history, write_model_folder
from netgraph.io.hub.origin import check_license, find_base_model, find_origin, set_origin
from netgraph.io.hub.repository import Upload, check_repository_name, upload_folder
from netgraph.io.load import load_model
from netgraph.io.trained_weights import find_repository


def save_pretrained(
    obj: Hierarchy | Compressed | nn.Module, folder: str | Path, *, license: str = "", processing: Any = ()
) -> None:
    """Write a network, a hierarchy or a compression as a folder with a card, as the hub of Hugging Face has them.

    A network of transformers keeps its class and config, so that its own ``from_pretrained`` and ``pipeline`` open the folder. Recorded
    graphs and hierarchies are written in netgraph's own format, as safetensors. Tokenizer, processor, settings of generation and templates of
    chats go along from the folder or repository that the network came from.

    Parameters
    ----------
    obj : Hierarchy, Compressed or torch.nn.Module
        A module is a recorded graph, such as ``hierarchy.levels[1].model``, or a network of transformers.
    folder : str or path
        Its place. An older folder of netgraph is replaced in one step, unless its card was edited.
    license : str, default ""
        Identifier of a license for the card, such as ``apache-2.0``.
    processing : tokenizer or processor, or a list of them, default ()
        They save themselves into the folder.

    Raises
    ------
    LoadError
        Something else is there, the class of the network has no such folder, or it cannot be written.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> hierarchy = ng.build_hierarchy(network, torch.zeros(1, 4))
    >>> ng.coarsen.save_pretrained(hierarchy.levels[1].model, "small", license="mit")
    >>> ng.coarsen.from_pretrained("small")
    GraphNetwork(3 operators, 30 parameters)
    """
    form = choose_form(obj)
    write_form(form, Path(folder), license=license, processing=processing)


def write_form(form: Form, folder: Path, *, license: str = "", processing: Any = (), name: str = "") -> None:
    """Write an object in a form."""
    check_license(license)
    write_model_folder(
        folder, form.fill, form.facts, with_license(form.origin, license), sources=form.sources,
        processing=_list_processors(processing), name=name,
    )  # fmt: skip


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    arch: Callable[[], nn.Module] | None = None,
) -> Hierarchy | nn.Module:
    """Open a folder, or a repository of the hub, with a network or a hierarchy. No code that comes with it runs.

    Parameters
    ----------
    source : str or path
        A folder, or OWNER/NAME, which is fetched if the cache does not have it.
    revision : str, optional
        Branch, tag or commit of a repository.
    token : str or bool, optional
        Token for a private repository. By default the one that is stored on this machine.
    local_files_only : bool, default False
        Ask nobody, and take a repository from the cache.
    arch : callable ``() -> torch.nn.Module``, optional
        Makes the finest network of a hierarchy in its own class, as in `netgraph.load`.

    Returns
    -------
    Hierarchy or torch.nn.Module
        A network is in evaluation mode: a recorded graph, or of the class that its config names in transformers or timm.

    Raises
    ------
    LoadError
        It is not there, is damaged, has a newer format, or names no library that netgraph knows.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> ng.build_hierarchy(network, torch.zeros(1, 4)).save_pretrained("small")
    >>> type(ng.coarsen.from_pretrained("small")).__name__
    'Hierarchy'
    """
    place, name = _find_folder(source, revision, token, local_files_only)
    if (place / INDEX).is_file():
        return _load_hierarchy(place, name, arch)
    if arch is not None:
        raise LoadError(f"{source} holds {describe_kind(place)}, and arch is for a hierarchy. Leave it out.")
    if not find_kind(place):
        raise LoadError(
            f"{place} has no config.json of netgraph, transformers or timm, so that nobody knows what it holds. Give a folder that "
            "save_pretrained wrote."
        )
    return load_model(name)


def open_pretrained(
    source: str | Path, cls: type, *, revision: str | None, token: str | bool | None, local_files_only: bool
) -> Any:
    """Open a folder or a repository as an object of a class, or raise an error that says what it holds."""
    opened = from_pretrained(source, revision=revision, token=token, local_files_only=local_files_only)
    if issubclass(cls, Compressed):
        if isinstance(opened, Hierarchy):
            raise LoadError(f"{source} holds a hierarchy. Open it by Hierarchy.from_pretrained.")
        return cls.from_origin(opened, str(source))
    if not isinstance(opened, cls):
        raise LoadError(
            f"{source} holds a {type(opened).__name__} and no {cls.__name__}. Open it by netgraph.coarsen.from_pretrained."
        )
    return opened


def push_to_hub(
    obj: Hierarchy | Compressed | nn.Module | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    license: str = "",
    processing: Any = (),
) -> str:
    """Upload a network, a hierarchy, a compression, or a folder of one, to a repository of the hub of Hugging Face.

    Parameters
    ----------
    obj : Hierarchy, Compressed, torch.nn.Module, str or path
        As in `save_pretrained`, or a folder. A card that was edited is uploaded as it is.
    repo_id : str
        OWNER/NAME, or NAME of your own. It is made if it does not exist.
    private : bool, optional
        Whether a new repository is private. By default as your account has it.
    token : str or bool, optional
        Token with the right to write. By default the one that is stored on this machine.
    revision : str, optional
        Branch to write to. By default main.
    commit_message : str, optional
        By default it names netgraph.
    create_pr : bool, default False
        Ask for a pull request in place of a commit.
    license : str, default ""
        Identifier of a license for the card, such as ``apache-2.0``. A folder has its own.
    processing : tokenizer or processor, or a list of them, default ()
        They save themselves into the folder.

    Returns
    -------
    str
        Address of the commit, or of the pull request.

    Raises
    ------
    LoadError
        The name is none, the hub refuses or is not reached, or what `save_pretrained` refuses.
    """
    check_repository_name(repo_id)
    upload = Upload(private, token, revision, commit_message, create_pr)
    with tempfile.TemporaryDirectory(prefix="netgraph-") as aside:
        folder = Path(aside) / "folder"
        if isinstance(obj, (str, Path)):
            if license or _list_processors(processing):
                raise LoadError(f"{obj} is a folder, and license and processing are for objects. Leave them out.")
            _copy_folder(Path(obj), folder)
        else:
            write_form(choose_form(obj), folder, license=license, processing=processing, name=repo_id)
        return upload_folder(folder, repo_id, upload, partial(_write_name, folder))


def _find_folder(
    source: str | Path, revision: str | None, token: str | bool | None, local_files_only: bool
) -> tuple[Path, str]:
    """Return the folder of a source, and its name for `netgraph.load_model`."""
    name = str(source).removeprefix("hf:")
    check_path(Path(name), LoadError)
    if Path(name).is_dir():
        if revision is not None:
            raise LoadError(f"{source} is a folder, and revision {revision!r:.80} is for a repository. Leave it out.")
        return Path(name), name
    repository, _, typed = name.partition("@")
    if Path(name).exists() or repository.count("/") != 1 or repository.startswith((".", "~", "/")):
        raise LoadError(f"{source} is no folder. Give a folder, or OWNER/NAME of a repository.")
    check_repository_name(repository)
    if typed and revision:
        raise LoadError(f"{source} names the revision {typed}, and revision is {revision!r:.80}. Give one of them.")
    name = "@".join(filter(None, (repository, typed or revision)))
    return find_repository(name, download=not local_files_only, with_weights=True, token=token), f"hf:{name}"


def _load_hierarchy(place: Path, name: str, arch: Callable[[], nn.Module] | None) -> Hierarchy | nn.Module:
    """Open a hierarchy, and remember the repository that it came from."""
    hierarchy = load(place, arch=arch)
    assert isinstance(hierarchy, Hierarchy)  # of a folder with an index
    for level in hierarchy.levels if name.startswith("hf:") else ():
        base = find_base_model(name, level.model)
        set_origin(level.model, replace(find_origin(level.model), base_model=base, opened=name))
    return hierarchy


def _copy_folder(source: Path, folder: Path) -> None:
    """Copy a folder of a network for an upload, without what belongs to a clone."""
    check_path(source, LoadError)
    if not source.is_dir():
        raise LoadError(f"{source} is no folder. Give one that save_pretrained wrote, or a network.")
    if not find_kind(source):  # also for a *.hierarchy, which has no card
        raise LoadError(
            f"{source} holds no config.json of netgraph, transformers or timm. Give a folder that save_pretrained wrote."
        )
    shutil.copytree(source, folder, copy_function=_link_file, ignore=shutil.ignore_patterns(".git", ".cache"))


def _link_file(source: str, place: str) -> None:
    """Give a file a second name, or copy it. Links lead elsewhere from there, so that their file is taken."""
    try:
        os.link(os.path.realpath(source), place)
    except OSError:  # the file system has no links, or the file is of another user
        shutil.copy2(source, place)


def _write_name(folder: Path, repository: str) -> None:
    """Write the name of the repository on the card of a folder, unless somebody has edited the card."""
    history = read_history(folder)
    if history is not None and is_own_card(folder):
        for path in (folder / CARD, folder / HISTORY):
            path.unlink()  # they may be links to the files of another folder
        write_history(folder, history.facts, history.origin, repository)


def _list_processors(processing: Any) -> list[Any]:
    """Return tokenizers and processors as a list."""
    if hasattr(processing, "save_pretrained"):
        return [processing]
    if isinstance(processing, (str, bytes)) or not isinstance(processing, Iterable):
        raise LoadError(f"processing is {processing!r:.80}. Give a tokenizer, a processor, or a list of them.")
    return list(processing)
