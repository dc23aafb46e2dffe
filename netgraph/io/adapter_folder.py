"""Open a folder of peft: the base network that its adapter names, with the adapter merged into the weights."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import LoadError, describe_error
from netgraph.io.checkpoint.low_rank import MERGE, merge_adapter
from netgraph.io.weight_files import read_weights

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
CONFIG_LIMIT = 2**24  # bytes


def build_adapted_network(
    folder: Path, options: Mapping[str, Any], build_base: Callable[[str, Mapping[str, Any]], nn.Module]
) -> nn.Module:
    """Return the base network of an adapter with the adapter merged into its weights.

    Parameters
    ----------
    folder : path
        Has an adapter_config.json.
    options : mapping
        ``base_model_name_or_path`` in place of that of the config. The rest changes entries of the base's config.
    build_base : callable ``(name, options) -> torch.nn.Module``
        Builds a network of transformers with its weights.

    Raises
    ------
    LoadError
        The base is not here, or the adapter does not fit it.
    """
    config, rest = _read_config(folder), dict(options)
    base = str(rest.pop("base_model_name_or_path", None) or config.get("base_model_name_or_path") or "")
    if not base:
        raise LoadError(
            f"hf:{folder} is an adapter, and its {CONFIG} names no base network. Give it by --arch-arg "
            "base_model_name_or_path=FOLDER."
        )
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise LoadError(f"hf:{folder} is an adapter without {FILES[0]}. Download or save it again.")
    try:
        model = build_base(base, rest)
    except LoadError as error:
        raise LoadError(
            f"hf:{folder} is an adapter of the network {base}, which cannot be opened: {error} Another place of that network "
            "is given by --arch-arg base_model_name_or_path=FOLDER."
        ) from error
    weights = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    merged = merge_adapter(weights, read_weights(path), config, folder)
    _check_ties(weights, merged, folder)
    model.load_state_dict(merged, strict=False)
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the entries of an adapter_config.json."""
    path = folder / CONFIG
    try:
        if path.stat().st_size > CONFIG_LIMIT:
            raise ValueError(f"it has more than {CONFIG_LIMIT:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no entries")
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read ({describe_error(error)}). Download or save it again.") from error
    return config


def _check_ties(weights: Mapping[str, Tensor], merged: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse an adapter that changes one of two names of a tied weight: merged, it would change both."""
    names = defaultdict[Any, list[str]](list)
    for name, tensor in weights.items():
        if tensor.numel():
            names[tensor.data_ptr(), tensor.shape, tensor.stride()].append(name)
    for group in names.values():
        changed = [name for name in group if merged[name] is not weights[name]]
        if changed and any(not torch.equal(merged[changed[0]], merged[name]) for name in group):
            other = next(name for name in group if name != changed[0])
            raise LoadError(f"{folder}: the adapter changes {changed[0]}, which is tied to {other}. {MERGE}")
