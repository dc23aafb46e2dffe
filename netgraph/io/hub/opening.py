"""The origin of a network that was just opened, with the history of the folder that it came from."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from torch import nn

from netgraph.errors import LoadError, LoadWarning
from netgraph.io.hub.folder_kind import WEIGHTS
from netgraph.io.hub.folders import History, read_history
from netgraph.io.hub.origin import Origin, find_base_model, infer_origin, set_origin
from netgraph.io.hub.text_files import find_source_folder


def remember_source(network: nn.Module, source: str) -> None:
    """Remember what a network was opened from, and what its folder tells of it.

    Parameters
    ----------
    network : torch.nn.Module
    source : str
        A file, a folder, or a name such as ``hf:OWNER/NAME``.
    """
    set_origin(network, read_origin(source, network))


def read_origin(source: str, network: nn.Module) -> Origin:
    """Return the origin of a network that was opened from a source."""
    history, base_model = _find_history(source), find_base_model(source, network)
    if history is None:
        return Origin(source, infer_origin(network).class_name, base_model, opened=source)
    return replace(history.origin, base_model=base_model or history.origin.base_model, opened=source)


def _find_history(source: str) -> History | None:
    """Return the history in the folder of a source, None where there is none. One that cannot be read is told, for the network opens without."""
    path = Path(source.removeprefix("hf:"))
    folder = find_source_folder(source) if not path.is_file() else path.parent if path.name == WEIGHTS else None
    try:
        return None if folder is None else read_history(folder)
    except LoadError as error:
        warnings.warn(f"what was done to {source} before is not known: {error}", LoadWarning, stacklevel=2)
        return None
