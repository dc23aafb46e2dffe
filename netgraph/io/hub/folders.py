"""A folder of a network, written completely or not at all: weights, config, what belongs beside them, its history and its card.

``netgraph.json`` holds what the card is made from. A card that somebody has edited since is not replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from netgraph import __version__
from netgraph.errors import LoadError, NetgraphError, describe_error
from netgraph.io.bundle import describe_unknown_format
from netgraph.io.files.atomic_writes import list_foreign_files, write_folder_atomically
from netgraph.io.files.output_files import check_encoding, check_path, make_folder
from netgraph.io.hub.folder_kind import CONFIG, FORMAT, read_entries
from netgraph.io.hub.model_card import FolderFacts, render_card
from netgraph.io.hub.origin import Origin
from netgraph.io.hub.text_files import BESIDE, TEMPLATES, copy_text_files, has_tokenizer

CARD = "README.md"
HISTORY = "netgraph.json"
FILES = re.compile(
    rf"config\.json|README\.md|netgraph\.json|(model|pytorch_model)[\w.-]*\.(safetensors|bin)(\.index\.json)?"
    rf"|(hierarchy|level\d+)\.safetensors|{TEMPLATES}|{BESIDE.pattern}"
)
NEUTRAL = re.compile(r"\.git.*|\.cache|\.DS_Store|LICENSE.*")  # of a clone of a repository; they stay


@dataclass(frozen=True)
class History:
    """What ``netgraph.json`` of a folder holds.

    Parameters
    ----------
    facts : FolderFacts
    origin : Origin
    card : str
        The sha256 of the card as it was written.
    """

    facts: FolderFacts
    origin: Origin
    card: str


def check_model_folder(folder: Path) -> None:
    """Check that a folder of a network can be written at a path.

    Raises
    ------
    LoadError
        Something else is there, or its card was edited.
    """
    check_path(folder, LoadError)
    check_encoding(folder, LoadError)
    if folder.exists() and not folder.is_dir():
        raise LoadError(f"{folder} is a file, and a folder is to be written there. Give another name.")
    if folder.is_dir() and os.path.samefile(folder, os.curdir):  # its shell would stay in a folder that is gone
        raise LoadError(f"{folder} is the folder that you work in, and it would be replaced. Give the name of another.")
    entries = [entry for entry in list_foreign_files(folder, NEUTRAL) if not NEUTRAL.fullmatch(entry.name)]
    foreign = [entry.name for entry in entries if not FILES.fullmatch(entry.name)]
    if foreign:
        raise LoadError(
            f"{folder} would be replaced, and it holds {foreign[0]!r}, which netgraph has not written. Move it away, or give another name."
        )
    missing = [name for name in (CONFIG, HISTORY) if not (folder / name).is_file()]
    if entries and missing:  # also the folder of an original that transformers has saved
        raise LoadError(
            f"{folder} holds {entries[0].name!r} and no {missing[0]}, so that it is no folder of a network that netgraph wrote. Give another "
            "name."
        )
    if (folder / CARD).is_file() and not is_own_card(folder):
        raise LoadError(
            f"{folder} would be replaced, and its {CARD} is not as netgraph wrote it. Move it away, or give another name."
        )


def write_model_folder(
    folder: Path,
    fill: Callable[[Path], object],
    facts: FolderFacts,
    origin: Origin,
    *,
    sources: Sequence[Path] = (),
    processing: Iterable[Any] = (),
    name: str = "",
) -> None:
    """Write a folder of a network, and replace an older one in one step.

    Parameters
    ----------
    folder : path
        Its place. Folders above it are made.
    fill : callable ``(path) -> object``
        Writes config and weights into an empty folder.
    facts : FolderFacts
    origin : Origin
    sources : sequence of path, default ()
        Folders that may hold tokenizer, processor and templates of chats.
    processing : iterable, default ()
        Tokenizers and processors, which save themselves.
    name : str, default ""
        Name on the card. By default that of the folder.

    Raises
    ------
    LoadError
        Something else is there, or the folder cannot be written.
    """
    check_model_folder(folder)
    make_folder(folder.absolute().parent, LoadError)
    older = [folder] if folder.is_dir() else []  # a tokenizer that was added by hand stays

    def write(new: Path) -> None:
        fill(new)
        for processor in processing:
            save_processor(processor, new)
        copy_text_files([*sources, *older], new)
        write_history(new, replace(facts, has_tokenizer=has_tokenizer(new)), origin, name or folder.resolve().name)

    write_folder_atomically(write, folder, FILES, LoadError)


def save_processor(processor: Any, folder: Path) -> None:
    """Let a tokenizer or a processor save itself.

    Raises
    ------
    LoadError
        It has no ``save_pretrained``, or that fails.
    """
    save = getattr(processor, "save_pretrained", None)
    if not callable(save) or isinstance(processor, type):
        raise LoadError(
            f"processing has a {type(processor).__name__}, which has no save_pretrained. Give tokenizers and processors."
        )
    try:
        save(str(folder))
    except Exception as error:  # the code of another library
        raise LoadError(f"the {type(processor).__name__} cannot be saved ({describe_error(error)}).") from error


def write_history(folder: Path, facts: FolderFacts, origin: Origin, name: str) -> None:
    """Write the card of a folder, and what it is made from."""
    card = render_card(facts, origin, name)
    document = {
        "format": FORMAT, "version": __version__, "card": _hash_text(card), "facts": asdict(facts), "origin": origin.to_plain(),
    }  # fmt: skip
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / HISTORY).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_history(folder: Path) -> History | None:
    """Return what ``netgraph.json`` of a folder holds, None where there is none.

    Raises
    ------
    LoadError
        It is damaged, or has a format of a newer netgraph.
    """
    path = folder / HISTORY
    if not path.is_file():
        return None
    document = read_entries(path)
    if problem := describe_unknown_format(path, document, FORMAT):
        raise LoadError(problem)
    try:
        return History(_read_facts(document["facts"]), Origin.from_plain(document["origin"]), str(document["card"]))
    except NetgraphError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{path} is damaged ({describe_error(error)}). Download or save it again.") from error


def is_own_card(folder: Path) -> bool:
    """Return True if the card of a folder is as netgraph wrote it."""
    try:
        history = read_history(folder)
        return history is not None and _hash_text((folder / CARD).read_text(encoding="utf-8")) == history.card
    except (LoadError, OSError, ValueError):
        return False


def _read_facts(plain: Mapping[str, Any]) -> FolderFacts:
    words = {name: str(plain[name]) for name in ("library", "kind", "class_name", "reason")}
    numbers = tuple(plain["parameters"])
    if not numbers or any(type(n) is not int for n in numbers):
        raise ValueError(f"its parameters are {numbers!s:.40}")
    return FolderFacts(
        **words, parameters=numbers, inputs=tuple(map(str, plain["inputs"])), has_tokenizer=bool(plain["has_tokenizer"])
    )


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
