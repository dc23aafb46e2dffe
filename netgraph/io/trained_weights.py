"""Trained weights of named networks: from the caches of torchvision, timm and Hugging Face, or fetched where that is allowed.

The three libraries know where their weights are and how a network takes them. Here files are fetched only with permission, and
pickles among them are scanned before anything opens them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from netgraph.environment.optional_packages import import_package
from netgraph.errors import LoadError, describe_error
from netgraph.io.pickle_scan import scan_pickle

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
HASH = re.compile(r"-([a-f0-9]{8,})\.")
SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*.jinja"]
PICKLED_FILES = ["pytorch_model*.bin"]


def names_trained_weights(source: str | Path) -> bool:
    """Return True for ``torchvision:NAME@WEIGHTS``, ``timm:NAME@pretrained`` and ``hf:OWNER/NAME``."""
    package, _, name = str(source).partition(":")
    return (package in ("torchvision", "timm") and "@" in name) or (package == "hf" and is_repository(name))


def is_repository(name: str) -> bool:
    """Return True for OWNER/NAME or OWNER/NAME@REVISION, unless it is a file or folder here."""
    return bool(REPOSITORY.fullmatch(name)) and not name.endswith(".json") and not os.path.exists(name)


def build_trained_torchvision(
    torchvision: Any, name: str, weights: str, options: Mapping[str, Any], *, download: bool
) -> nn.Module:
    """Build a network of torchvision with trained weights.

    Raises
    ------
    LoadError
        There are no such weights, or they are not here and may not or cannot be fetched.
    """
    choices = torchvision.models.get_model_weights(name)
    if weights not in choices.__members__:
        raise LoadError(f"torchvision:{name}@{weights}: the weights are {', '.join(choices.__members__) or 'none'}.")
    _find_url(choices[weights].url, f"torchvision:{name}@{weights}", download)
    model: nn.Module = torchvision.models.get_model(name, weights=choices[weights], progress=False, **options)
    return model


def build_trained_timm(timm: Any, name: str, weights: str, options: Mapping[str, Any], *, download: bool) -> nn.Module:
    """Build a network of timm with the weights ``pretrained``, or with those of a tag.

    Raises
    ------
    LoadError
        There are no such weights, or they are not here and may not or cannot be fetched.
    """
    full, source = name if weights == "pretrained" else f"{name}.{weights}", f"timm:{name}@{weights}"
    tags = [tag.partition(".")[2] for tag in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
    config = timm.get_pretrained_cfg(full) if weights in ("pretrained", *tags) else None
    if config is None or not config.has_weights:
        raise LoadError(f"{source}: the weights are {', '.join(['pretrained', *tags]) if tags else 'none'}.")
    if config.hf_hub_id:
        names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        path = _find_hub_file(config.hf_hub_id, names, source, download)
    else:
        path = _find_url(config.url, source, download)
    _scan_file(path)
    model: nn.Module = timm.create_model(full, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)
    return model


def import_hub() -> Any:
    """Return huggingface_hub, or raise an error that says how to install it."""
    return import_package("huggingface_hub", "a repository of Hugging Face", LoadError)


def find_repository(name: str, *, download: bool, with_weights: bool, token: str | bool | None = None) -> Path:
    """Return the folder in which a repository of Hugging Face lies.

    Parameters
    ----------
    name : str
        OWNER/NAME or OWNER/NAME@REVISION.
    download : bool
        Fetch it if it is not in the cache.
    with_weights : bool
        Whether its weights are needed, or only its config.
    token : str or bool, optional
        Token of Hugging Face for a private repository. By default the one that its command line has stored.

    Raises
    ------
    LoadError
        It is not here and may not or cannot be fetched.
    """
    huggingface_hub = import_hub()
    repository, _, revision = name.partition("@")

    def fetch(patterns: Sequence[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=[*patterns], ignore_patterns=["*/*"],
                local_files_only=not download, **({} if token is None else {"token": token}),
            )
        )  # fmt: skip

    folder = _fetch(lambda: fetch(SAFE_FILES if with_weights else ["*.json"]), f"hf:{name}", download)
    if with_weights and not any(folder.glob("*.safetensors")):
        folder = _fetch(lambda: fetch([*SAFE_FILES, *PICKLED_FILES]), f"hf:{name}", download)
        if not any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("adapter_model.*")):
            raise _make_absent_error(f"hf:{name}", download)
    return Path(folder)


def find_cached_folder(name: str, revision: str = "") -> Path | None:
    """Return the folder in which a repository of Hugging Face lies in the cache, complete or not, or None.

    Parameters
    ----------
    name : str
        OWNER/NAME, or NAME alone for the oldest ones.
    revision : str, default ""
        A branch, a tag or a commit. By default main.
    """
    try:
        cached = import_hub().try_to_load_from_cache(name, "config.json", revision=revision or None)
    except Exception:  # the library is not here, or this is no name of a repository
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _find_url(url: str, source: str, download: bool) -> Path:
    """Return the file of a URL in the cache of PyTorch. The name of the file contains the start of its sha256."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name
    if not path.is_file():
        if not download:
            raise _make_absent_error(source, download)
        digest = HASH.search(path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(
            lambda: torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False),
            source,
            download,
        )
    _scan_file(path)
    return path


def _find_hub_file(repository: str, names: Sequence[str], source: str, download: bool) -> Path:
    """Return the first of several files that a repository of Hugging Face has."""
    huggingface_hub = import_hub()
    repository, _, revision = repository.partition("@")
    for name in names:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repository, name, revision=revision or None, local_files_only=not download
                )
            )
        except huggingface_hub.errors.EntryNotFoundError as error:  # also raised offline
            last = error
        except Exception as error:  # of the connection, the server and the disk
            raise _make_fetch_error(source, error) from error
    raise _make_absent_error(source, download) from last


def _fetch(action: Callable[[], Any], source: str, download: bool) -> Any:
    """Run an action of another library that may use the network."""
    try:
        return action()
    except Exception as error:  # of the connection, the server and the disk
        raise (_make_fetch_error(source, error) if download else _make_absent_error(source, download)) from error


def _make_fetch_error(source: str, error: Exception) -> LoadError:
    """Return an error for a download that fails."""
    return LoadError(
        f"fetching {source} fails ({describe_error(error)}). Check the name and the network, or give the weights as a file."
    )


def _make_absent_error(source: str, download: bool) -> LoadError:
    """Return an error for weights that are not here."""
    if download:
        return LoadError(f"{source} has no weights that netgraph opens. Give another name.")
    return LoadError(
        f"the weights of {source} are not on this machine. Give --download (download=True) to fetch them, or give them as a file."
    )


def _scan_file(path: Path) -> None:
    """Refuse a pickle of more than weights."""
    if path.suffix not in (".safetensors", ".npz"):
        scan_pickle(path)
