"""Files that belong to a network and hold no weights: tokenizer, processor, settings of generation, templates of chats."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from netgraph.io.hub.folder_kind import CONFIG
from netgraph.io.hub.origin import Origin, find_origin
from netgraph.io.trained_weights import find_cached_folder

BESIDE = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab.*\.(json|txt)|merges\.txt|.*\.(model|tiktoken|jinja)"
    r"|chat_template\.json|(.*_)?preprocessor_config\.json|processor_config\.json|generation_config\.json"
)
TEMPLATES = "additional_chat_templates"  # a folder of .jinja
TOKENIZER = "tokenizer.json"
OLDER_TOKENIZERS = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def copy_text_files(sources: Sequence[Path], folder: Path) -> None:
    """Copy the text files of a network to the folder of a coarse one.

    Parameters
    ----------
    sources : sequence of path
        Folders. A file comes from the first that has it.
    folder : path
        Files that are there stay.
    """
    for source in sources:
        for path in sorted(source.iterdir()):
            if BESIDE.fullmatch(path.name) and _lies_in(path, source) and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        if (source / TEMPLATES).is_dir() and not (folder / TEMPLATES).exists():
            (folder / TEMPLATES).mkdir()
            for path in filter(lambda path: _lies_in(path, source), sorted((source / TEMPLATES).glob("*.jinja"))):
                shutil.copyfile(path, folder / TEMPLATES / path.name)


def _lies_in(path: Path, folder: Path) -> bool:
    """Return True for a file of a folder. A link may lead into the cache of Hugging Face that the folder is of, and nowhere else."""
    real, home = path.resolve(), folder.resolve()
    return path.is_file() and (real.is_relative_to(home) or real.is_relative_to(home.parent.parent / "blobs"))


def has_tokenizer(folder: Path) -> bool:
    """Return True if a folder has a tokenizer."""
    return any((folder / name).is_file() for name in (TOKENIZER, *OLDER_TOKENIZERS))


def list_sources(network: nn.Module) -> list[Path]:
    """Return the folders in which the text files of a network may lie: what it was opened from, and what its config names."""
    return list(dict.fromkeys(_iterate_sources(network, find_origin(network))))


def _iterate_sources(network: Any, origin: Origin) -> Iterator[Path]:
    config = getattr(network, "config", None)
    commit = str(getattr(config, "_commit_hash", None) or "")
    places = (
        (origin.opened, ""),
        (origin.source, ""),
        (origin.base_model, ""),
        (str(getattr(config, "_name_or_path", "") or ""), commit),
    )
    for name, revision in places:
        folder = find_source_folder(name, revision)
        if folder is not None:
            yield folder


def find_source_folder(source: str, revision: str = "") -> Path | None:
    """Return the folder of a source, in the cache of Hugging Face for a repository, or None.

    Parameters
    ----------
    source : str
        A folder, a file beside a config.json, or OWNER/NAME@REVISION, with or without ``hf:`` before it.
    revision : str, default ""
        Revision of a repository whose name has none.
    """
    name = source.removeprefix("hf:")
    path = Path(name)
    try:
        if name and path.is_dir():
            return path
        if name and path.is_file():
            return path.parent if (path.parent / CONFIG).is_file() else None
    except OSError:  # no name of a file
        return None
    name, _, typed = name.partition("@")
    return find_cached_folder(name, typed or revision) if name else None
