"""What a folder holds: its config.json says which library opens it. Nothing is built, and no code runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netgraph import __version__
from netgraph.environment.memory import check_json
from netgraph.errors import LoadError, describe_error
from netgraph.io.bundle import describe_unknown_format

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"
LIBRARY = "netgraph"
FORMAT = 1  # of config.json and netgraph.json
LONGEST = 2**24  # characters
NETWORK, HIERARCHY, TRANSFORMERS, TIMM = "network", "hierarchy", "transformers", "timm"


def read_entries(path: Path) -> dict[str, Any]:
    """Return the entries of a file with a JSON object.

    Raises
    ------
    LoadError
        The file cannot be read, or holds something else.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} characters")
        check_json(text, str(path))
        entries = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{path} cannot be read ({describe_error(error)}). Download or save it again.") from error
    if not isinstance(entries, dict):
        raise LoadError(f"{path} holds no JSON object. Download or save it again.")
    return entries


def find_kind(folder: Path) -> str:
    """Return what a folder holds by its config.json.

    Returns
    -------
    str
        ``network`` and ``hierarchy`` are of netgraph. Others are ``transformers``, which has adapters too, and ``timm``. Empty where there is
        no config, or one of another library.

    Raises
    ------
    LoadError
        The config cannot be read, or has a format of a newer netgraph.
    """
    if (folder / ADAPTER).is_file():
        return TRANSFORMERS
    path = folder / CONFIG
    if not path.is_file():
        return ""
    entries = read_entries(path)
    if entries.get("library_name") == LIBRARY:
        return _read_own_kind(path, entries)
    return TRANSFORMERS if "model_type" in entries else TIMM if "architecture" in entries else ""


def _read_own_kind(path: Path, entries: Mapping[str, Any]) -> str:
    """Return the kind that a config.json of netgraph names."""
    if problem := describe_unknown_format(path, entries, FORMAT):
        raise LoadError(problem)
    kind = entries.get("kind")
    if kind not in (NETWORK, HIERARCHY):
        raise LoadError(f"{path} has the kind {kind!r:.40}, and netgraph has {NETWORK} and {HIERARCHY}. Save it again.")
    return str(kind)


def write_config(folder: Path, kind: str) -> None:
    """Write the config.json of a folder in netgraph's own format."""
    entries = {"library_name": LIBRARY, "kind": kind, "format": FORMAT, "version": __version__}
    (folder / CONFIG).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def describe_kind(folder: Path) -> str:
    """Return what a folder holds, in words for a message."""
    names = {
        NETWORK: "a network of netgraph",
        HIERARCHY: "a hierarchy of netgraph",
        TRANSFORMERS: "a network of transformers",
        TIMM: "a network of timm",
    }
    return names.get(find_kind(folder), "nothing that netgraph opens")
