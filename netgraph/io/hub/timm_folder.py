"""Open a folder in the layout that timm has on the hub: a config.json with the architecture and its arguments, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from netgraph.errors import LoadError, UntrustedError
from netgraph.io.hub.folder_kind import CONFIG, WEIGHTS, read_entries
from netgraph.io.huggingface import check_entries
from netgraph.io.state_dict import fill_network
from netgraph.io.weight_files import read_weights

NAMES = (WEIGHTS, "pytorch_model.bin")
NOT_SIZES = {  # arguments of create_model that say where weights and settings come from
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit",
    "pretrained_model_args", "features_only", "device", "dtype",
}  # fmt: skip

SETTINGS = {  # of pretrained_cfg: how pictures are prepared, and the names of classes
    "input_size", "test_input_size", "min_input_size", "fixed_input_size", "pool_size", "mean", "std", "interpolation", "crop_pct",
    "crop_mode", "test_crop_pct", "num_classes", "label_names", "label_descriptions", "tag",
}  # fmt: skip


def build_from_timm_folder(timm: Any, folder: Path, options: Mapping[str, Any], *, weights: bool) -> nn.Module:
    """Build the network of a folder in the layout of timm.

    Parameters
    ----------
    timm : module
        The imported library.
    folder : path
    options : mapping
        Arguments to change.
    weights : bool
        Load the weights of the folder. Their names and shapes must fit exactly.

    Raises
    ------
    LoadError
        The config cannot be read, timm has no such architecture, or the weights do not fit it.
    UntrustedError
        The config asks for weights of another place.
    """
    path = folder / CONFIG
    entries = read_entries(path)
    name, arguments = str(entries["architecture"]), entries.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise LoadError(f"{path} has model_args that are no names with values. Save the network again.")
    outside = sorted(NOT_SIZES & arguments.keys())
    if outside:
        raise UntrustedError(
            f"{path} has the argument {outside[0]}, which says where weights come from. Remove that entry."
        )
    if not timm.is_model(name):
        raise LoadError(
            f"{path} asks for {name!r:.80}, which timm {timm.__version__} does not have. Install a version that has it."
        )
    check_entries(arguments, path)
    settings = {
        name: _freeze(entry) for name, entry in dict(entries.get("pretrained_cfg") or {}).items() if name in SETTINGS
    }
    classes = (
        {} if "num_classes" in arguments or "num_classes" not in entries else {"num_classes": entries["num_classes"]}
    )
    network: nn.Module = timm.create_model(
        name, pretrained=False, pretrained_cfg_overlay=settings, **{**classes, **arguments, **options}
    )
    if not weights:
        return network
    file = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if file is None:
        raise LoadError(f"{folder} has no {WEIGHTS} beside its {CONFIG}. Copy the whole folder again.")
    return fill_network(network, read_weights(file), file, f"timm:{name}")


def _freeze(value: Any) -> Any:
    """Return a list of JSON as the tuple that timm has in its place."""
    return tuple(value) if isinstance(value, list) else value
