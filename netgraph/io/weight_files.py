"""Read the weights of a file: safetensors, a pickle of PyTorch, or an index with the names of several such files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from netgraph.environment.memory import check_json
from netgraph.errors import LoadError, describe_error
from netgraph.io.metadata_stand_ins import allow_settings
from netgraph.io.pickle_scan import is_archive, scan_pickle

INDEX = ".index.json"
LONGEST_NAME = 255  # bytes that systems take as the name of a file
INDEX_LIMIT = 64 * 2**20  # bytes. The largest in use have some megabytes.


def read_weights(path: Path) -> Any:
    """Return the contents of a file of weights, without running code.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, a pickle of PyTorch, or the index of several.

    Raises
    ------
    LoadError
        The file is damaged, or asks for more memory than its size.
    UntrustedError
        The file is a pickle of more than weights.
    """
    if path.name.endswith(INDEX):
        return _read_shards(path)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path, trust=False)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises
    ------
    LoadError
    """
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # errors of safetensors have no common class
        raise LoadError(f"{path} cannot be read ({describe_error(error)}). Download or save it again.") from error


def read_pickle(path: Path, *, trust: bool) -> Any:
    """Return the contents of a pickle. Without trust, it is scanned before anything is unpickled.

    Raises
    ------
    LoadError
        The file is damaged or crafted, or holds more than weights.
    """
    if not trust:
        scan_pickle(path)
    mapped = not trust and is_archive(path)  # parameters of a module must not change with the file
    try:
        with contextlib.nullcontext() if trust else allow_settings():
            return torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except Exception as error:  # torch raises many types for broken files
        raise LoadError(f"{path} cannot be read ({describe_error(error)}). Download or save it again.") from error


def _read_shards(path: Path) -> dict[str, Any]:
    """Return the tensors that an index lists, from the files beside it."""
    places = _read_index(path)
    files = _check_files(path, places.values())
    shards = {name: read_weights(file) for name, file in files.items()}
    lacking = [name for name, file in places.items() if not isinstance(shards[file].get(name), Tensor)]
    if lacking:
        raise LoadError(
            f"{path} places {lacking[0]} in {places[lacking[0]]}, which does not have it. Download or save the files again."
        )
    return {name: shards[file][name] for name, file in places.items()}


def _read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor."""
    try:
        if path.stat().st_size > INDEX_LIMIT:
            raise ValueError(f"it has more than {INDEX_LIMIT:,} bytes")
        text = path.read_text(encoding="utf-8")
        check_json(text, str(path))
        places = json.loads(text)["weight_map"]
        if not places or not all(isinstance(text, str) for pair in places.items() for text in pair):
            raise ValueError("its weight_map names no files")
    except LoadError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"{path} is not the index of weights in several files ({describe_error(error)}). Download or save it again."
        ) from error
    return dict(places)


def _check_files(path: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the files of an index by name. Each must lie beside the index."""
    files = {name: path.parent / name for name in names}
    for name, file in files.items():
        foreign = PurePosixPath(name).name != name or PureWindowsPath(name).name != name or name.endswith(INDEX)
        if foreign or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
            raise LoadError(f"{path} asks for {name[:300]!r}, which is no file beside it. Download or save it again.")
        if not file.is_file():
            raise LoadError(f"{path} asks for {name}, which is missing. Download all files into one folder.")
    return files
