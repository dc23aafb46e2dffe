"""Keep libraries from using the network unasked.

A config may name a backbone, a repository or a file of a hub. The library that builds its network would fetch it, and so tell a
server that this file was opened.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NoReturn

import torch

from netgraph.environment.import_path import search_installed_packages

ADDRESS = re.compile(r"https?://[^\s'\"<>)]+[\w/]")


class OfflineError(ConnectionError):
    """A library has asked for a file that is not on this machine."""


@contextlib.contextmanager
def stay_offline() -> Iterator[None]:
    """Let Hugging Face libraries, timm and torchvision use files of this machine alone, within a block.

    Raises
    ------
    OfflineError, huggingface_hub.errors.OfflineModeIsEnabled
        Within the block, where a library asks for more.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replace(torch.hub, "download_url_to_file", _refuse_download))
        with contextlib.suppress(ImportError), search_installed_packages():
            stack.enter_context(_replace(import_module("huggingface_hub.constants"), "HF_HUB_OFFLINE", True))
        yield


def is_offline_error(error: BaseException | None) -> bool:
    """Return True if an error, or one of its causes, says that a library was kept from the network."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OfflineError) or type(error).__name__ in (
            "OfflineModeIsEnabled",
            "LocalEntryNotFoundError",
        ):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def describe_request(error: BaseException | None) -> str:
    """Return the address that a library was kept from, or ``a file``. Its own advice would not help."""
    while error is not None:
        if address := ADDRESS.search(str(error)):
            return address[0]
        error = error.__cause__ or error.__context__
    return "a file"


def _refuse_download(url: str, *args: Any, **kwargs: Any) -> NoReturn:
    """Take the place of the download of PyTorch."""
    raise OfflineError(f"{url} is not on this machine")


@contextlib.contextmanager
def _replace(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute within a block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
